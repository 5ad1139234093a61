"""The cards of a release, made from plain data only: what it is, what made it, whom it may betray.

README.md is the datasheet (after Gebru et al. 2021, arXiv 1803.09010), with the front matter that
Hugging Face reads; MODEL_CARD.md (after Mitchell et al. 2019, arXiv 1810.03993) is about the
generator; PRIVACY.md says attack by attack what was measured, with which power, and what was not.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .. import __version__, domains
from ..finding import Finding, Verdict
from ..protocol import Diffusion, Protocol, Sample
from . import wording
from .attackers import answers, not_concluded, not_measured, say, say_tried
from .waivers import waivers

LICENCE_IDS = (
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "odbl",
    "odc-by",
    "pddl",
)
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))
OBJECTIVES = {"v": "v", "eps": "noise", "flow": "the velocity of rectified flow"}
QUALITY = ("reconstruction", "fidelity", "utility", "control")
OF_THE_MODEL = (
    "membership.model", "membership.loss", "membership.score", "membership.pia",
    "membership.calibrated", "canary", "privacy",
)  # fmt: skip
SAMPLERS = {"ddim": "DDIM", "dpm": "DPM-Solver++(2M)", "unipc": "UniPC"}
CARDS = ("PRIVACY.md", "MODEL_CARD.md")  # beside README.md


@dataclass(frozen=True, kw_only=True)
class CardData:
    """What a card is made from; `labels` are {attribute: {value: synthetic images}}, `classes` what
    the values of masks mean, none where there are none; `weights` says whether the networks leave
    with the images."""

    protocol: Protocol
    images: int
    labels: Mapping[str, Mapping[str, int]]
    findings: Mapping[str, Finding]
    verdict: Verdict
    split: Mapping[str, Any]
    classes: Mapping[int, str] = field(default_factory=dict)
    weights: bool = False


def card(data: CardData) -> str:
    """Return the datasheet as Markdown with YAML front matter."""
    return _render("card.md.j2", data, front_matter=_front_matter(data))


def model_card(data: CardData) -> str:
    """Return the card of the generator as Markdown with YAML front matter."""
    made = [data.findings[name] for name in sorted(data.findings)]
    return _render(
        "generator.md.j2",
        data,
        front_matter=_model_front_matter(data),
        quality=[f for f in made if wording.family(f.name) in QUALITY],
        leaks=[f for f in made if f.name.startswith(OF_THE_MODEL)],
    )


def privacy_report(data: CardData) -> str:
    """Return what was measured against whom, and what was not, as Markdown."""
    answered = answers(data.findings, data.verdict.judgements)
    return _render("privacy.md.j2", data, answers=answered, tried=say_tried(answered))


def _render(template: str, data: CardData, **more: Any) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            data=data,
            domain=domains.domain(data.protocol.domain),
            version=__version__,
            findings=[data.findings[name] for name in sorted(data.findings)],
            study=study_rows(data.protocol),
            split=split_rows(data.split),
            not_measured=not_measured(data.findings),
            not_concluded=not_concluded(data.findings, passed=data.verdict.passed),
            waivers=waivers(data.verdict),
            **more,
        )
    )


def count_labels(labels: Sequence[Mapping[str, str]]) -> dict[str, dict[str, int]]:
    """Count how many images have each value of each attribute, both in sorted order."""
    pairs = Counter(pair for row in labels for pair in row.items())
    counts: dict[str, dict[str, int]] = {}
    for (attribute, value), number in sorted(pairs.items()):
        counts.setdefault(attribute, {})[value] = number
    return counts


def study_rows(protocol: Protocol) -> list[tuple[str, str]]:
    """Return what a reader asks of a study, as (question, answer); no path is among them."""
    image, sample = protocol.image, protocol.sample
    made = (
        _drawn(sample)
        if sample.generator == "diffusion"
        else "training images handed out through the autoencoder (to show that the gate works)"
    )
    return [
        ("Study", protocol.name),
        ("Kind of image", domains.domain(protocol.domain).title),
        ("Size", f"{image.size_px} × {image.size_px} pixels, {image.bits} bits a channel"),
        (
            "Autoencoder",
            f"{protocol.autoencoder.downscale} times smaller, "
            f"{protocol.autoencoder.latent_channels} latent channels, trained on "
            f"{protocol.autoencoder.training.images:,} images (repeats counted)",
        ),
        ("Diffusion", _learned(protocol.diffusion)),
        ("Sampling", made),
        ("Random seed", str(protocol.seed)),
    ]


def _learned(diffusion: Diffusion) -> str:
    """Say what the denoiser predicts and how long it learned, or whose it is."""
    if diffusion.base is not None:
        return (
            f"predicts {OBJECTIVES[diffusion.objective]}, a text-conditioned network of others "
            f"(sha256 {diffusion.base.sha256[:12]}), not trained further, told "
            f'"{diffusion.base.prompt}"'
        )
    most = "up to " if diffusion.patience is not None else ""
    words = [
        f"predicts {OBJECTIVES[diffusion.objective]}",
        f"trained on {most}{diffusion.training.images:,} images (repeats counted)",
    ]
    if diffusion.told is not None:
        words.append(f"{diffusion.told.share:.0%} of them changed, of which it is told")
    return ", ".join(words)


def _drawn(sample: Sample) -> str:
    """Say how the diffusion model's images were drawn."""
    sampler = sample.sampler or "ddim"
    steps, guidance = wording.count(sample.steps, "step"), f"guidance {sample.guidance:g}"
    if sample.spacing == "even":
        steps += " even in time"
    if sample.guidance_interval is not None:
        low, high = sample.guidance_interval
        guidance += f" between noise levels {low:g} and {high:g}"
    words = [SAMPLERS[sampler], steps, guidance]
    said = ", ".join([*words, f"eta {sample.eta:g}"] if sampler == "ddim" else words)
    if sample.student is None:
        return said
    taken = wording.count(sample.student.steps, "step")
    return f"by a student in {taken}, which learned what the denoiser draws with {said}"


def split_rows(split: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Return (part, patients, images) of the real data.

    Nothing else of the split is shown to the world: a count of a rare label can point at a person.
    """
    parts = split.get("parts", split)
    return [
        (str(name), int(part["patients"]), int(part["images"]))
        for name, part in parts.items()
        if isinstance(part, Mapping) and {"patients", "images"} <= part.keys()
    ]


def _front_matter(data: CardData) -> str:
    protocol = data.protocol
    values: dict[str, Any] = {
        "pretty_name": protocol.card.title,
        **licence(protocol.card.licence),
        "tags": ["synthetic", "medical", "medical-imaging", protocol.domain, "medsynth"],
        "task_categories": _tasks(data),
        "size_categories": [_size_category(data.images)],
        "configs": [{"config_name": "default", "data_dir": "images"}],
    }
    return yaml_lines(values)


def _model_front_matter(data: CardData) -> str:
    values: dict[str, Any] = {
        **licence(data.protocol.card.licence),
        "library_name": "diffusers",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["synthetic", "medical", "medical-imaging", data.protocol.domain, "medsynth"],
    }
    return yaml_lines(values)


def yaml_lines(values: Mapping[str, Any]) -> str:
    """Write a line a key; each value is JSON, which YAML reads as it stands."""
    return "\n".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()
    )


def _tasks(data: CardData) -> list[str]:
    tasks = ["image-segmentation"] if data.classes else []
    tasks += ["image-classification"] if data.labels else []
    return tasks or ["unconditional-image-generation"]


def licence(words: str) -> dict[str, str]:
    """Return a licence as the front matter of a card has it, by its id where it has one."""
    name = re.sub(r"[\s_]+", "-", words.strip().lower())
    if name in LICENCE_IDS:
        return {"license": name}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.-]+", "-", name).strip("-")}


def _size_category(images: int) -> str:
    return next((words for limit, words in SIZES if images < limit), "n>1M")


def _cell(text: str) -> str:
    """Return text that can't break out of a Markdown table's cell."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def environment() -> Environment:
    """Return what the cards' templates are filled in with."""
    environment = Environment(
        loader=PackageLoader("medsynth.release"),
        autoescape=False,  # Markdown, not HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        quantity=wording.quantity,
        unit_note=wording.unit_note,
        sign=wording.sign,
        interval=wording.interval,
        cell=_cell,
        count=wording.count,
        say=say,
    )
    return environment
