"""The page of what a researcher imports, made from signatures and docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

HEAD = """# From Python

<!-- Made by docs/api_page.py from the docstrings: change them there, then `make docs`. -->

What is meant to be imported, and nothing else of medsynth is: a name on this page changes only with
a word in the changelog, any other may go without one. The command line does the same
([commands.md](commands.md)); `notebooks/` has whole examples.

Functions of `medsynth.pipeline` take a `progress(what, share)` that is called along the way,
`share` from 0 to 1, and do nothing anew that is done. Errors are those of
[`medsynth.errors`](#errors).
"""
WIDTH = 88  # of a signature in one line


@dataclass(frozen=True)
class Part:
    """A section of the page: names of one module, and what they are for."""

    title: str
    module: str
    names: tuple[str, ...]
    words: str


def part(title: str, module: str, names: str, words: str) -> Part:
    """Return a Part of names that are written in one line."""
    return Part(title, module, tuple(names.split()), words)


SURFACE = (
    part(
        "Protocols", "medsynth.protocol", "load parse shipped to_yaml Protocol",
        "A study's knobs, from a YAML file or a text ([protocol.md](protocol.md)).",
    ),
    part(
        "Stages", "medsynth.pipeline",
        "start open_run Run ingest split fit sample validate decide release run_all run_halves "
        "findings_of parts_of facts report init foretell deidentify demo",
        "A run and its stages, each what the command of its name does: `start` one, or open one.",
    ),
    part(
        "Images and autoencoders of another make", "medsynth.pipeline",
        "Folders draft_audit audit Asked draft_fidelity fidelity Answer",
        "Evidence without a run ([audit.md](audit.md), [fidelity.md](fidelity.md)): draft a study, "
        "then do it.",
    ),
    part(
        "Steering", "medsynth.pipeline",
        "with_changes with_control Masks fit_control read_obedience extract_controls "
        "sample_controlled fit_masks sample_masks learn_concept list_concepts sample_concept "
        "remove_concept ChildMasks "
        "augment utility",
        "Maps, masks, concepts and variations on a finished run, and of what use its images are "
        "([control.md](control.md), [paired.md](paired.md), [concepts.md](concepts.md), "
        "[augment.md](augment.md), [utility.md](utility.md)).",
    ),
    part(
        "Cohorts", "medsynth.cohort", "Cohort Record",
        "Real, held-out, synthetic and derived images alike: `Cohort.read(RUN/synthetic)`.",
    ),
    part(
        "Children in a training of your own", "medsynth.augmentation",
        "TrainingImages WithChildren",
        "Data sets for torch and MONAI ([augment.md](augment.md#in-your-own-training)).",
    ),
    part(
        "Findings and verdicts", "medsynth.finding",
        "Finding read_findings write_findings Judgement Verdict read_verdict",
        "Measured numbers and what the gate said of them; no torch is loaded.",
    ),
    part(
        "The gate", "medsynth.release.gate", "decide",
        "The rules held against findings, as `medsynth decide` and `verify` do it; no torch is "
        "loaded.",
    ),
    part(
        "Checking a release", "medsynth.release.verify", "verify Verification",
        "What `medsynth verify` does; no torch is loaded.",
    ),
    part(
        "Networks", "medsynth.models.autoencoder", "Autoencoder",
        "`Autoencoder.load(RUN/autoencoder)`. Its folder, and that of the denoiser, open in plain "
        "diffusers, too.",
    ),
    part(
        "Kinds of images", "medsynth.domains", "Domain domain names",
        "What a fundus photograph is, and a chest radiograph, and a piece of tissue.",
    ),
    part(
        "Made-up patients", "medsynth.data.phantoms", "write_folder draw",
        "Images of nobody, for trying things out and for tests.",
    ),
    part(
        "Measures", "medsynth.validation", "Case measures measure_all",
        "All that `validate` measures, for whoever adds one ([measures.md](measures.md)).",
    ),
    part(
        "Errors", "medsynth.errors",
        "MedsynthError ProtocolError DataError StageError StaleError RefusedError",
        "All that medsynth raises on purpose.",
    ),
)  # fmt: skip


def api_page() -> str:
    """Return docs/api.md: a section a part, in the order of SURFACE."""
    lines = [HEAD]
    for one in SURFACE:
        lines += [f"## {one.title}", "", f"`{one.module}`: {one.words}", ""]
        for name in one.names:
            lines += entry(one.module, name)
    return "\n".join(lines).rstrip() + "\n"


def entry(module: str, name: str) -> list[str]:
    """Return the heading, signature and docstring of a name, and of a class its own parts."""
    thing = getattr(importlib.import_module(module), name)
    lines = [f"### {name}", "", "```python", written(name, thing), "```", "", inspect.getdoc(thing)]
    inside = [f"- `{words}`: {' '.join(doc.split())}" for words, doc in members(thing)]
    return [*lines, "", *inside, ""] if inside else [*lines, ""]


def members(thing: Any) -> Iterator[tuple[str, str]]:
    """Yield what a class itself defines, is public and says what it is: as used, and its words."""
    for name, member in vars(thing).items() if inspect.isclass(thing) else ():
        call = getattr(member, "__func__", member)
        if name.startswith("_") or not (doc := inspect.getdoc(call)):
            continue
        if inspect.isfunction(call):
            yield f".{name}{plain(inspect.signature(call), method=True)}", doc
        elif isinstance(member, property | cached_property):
            yield f".{name}", doc


def written(name: str, thing: Any) -> str:
    """Return how a name is called, an option a line where one line is too short.

    A protocol's knobs have a page of their own.
    """
    if inspect.isclass(thing) and (hasattr(thing, "model_fields") or issubclass(thing, Exception)):
        return f"class {name}({thing.__bases__[0].__name__})"
    call = inspect.signature(thing)
    short = name + plain(call, method=False)
    return short if len(short) <= WIDTH else name + spread(call)


def plain(call: inspect.Signature, *, method: bool) -> str:
    """Return a signature as text, without addresses in it; of a method without self or cls."""
    parameters = list(call.parameters.values())[1 if method else 0 :]
    text = unquoted(call.replace(parameters=parameters)).removesuffix(" -> None")
    text = re.sub(r"<function (\w+) at \w+>", r"\1", text)
    return re.sub(r"<factory>|<function \S*<lambda> at \w+>", "...", text)


def spread(call: inspect.Signature) -> str:
    """Return a signature as text with a line for each parameter."""
    lines, starred = ["("], False
    for one in call.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            lines, starred = [*lines, "    *,"], True
        alone = plain(call.replace(parameters=[one], return_annotation=call.empty), method=False)
        lines.append(f"    {alone[1:-1].removeprefix('*, ')},")
    returns = call.return_annotation
    ends = "" if returns in (call.empty, None, "None") else f" -> {returns}"
    return "\n".join([*lines, f"){ends}"])


def unquoted(call: inspect.Signature) -> str:
    """Return a signature as its author wrote it: annotations are texts here, and not quoted."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(call))
