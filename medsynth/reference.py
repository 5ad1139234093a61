"""The protocol's reference page, made from its types, so that it can't say anything else.

python docs/generate.py writes docs/protocol.md
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from .protocol import Protocol, Section

HEAD = """# The protocol

<!-- Made by docs/generate.py from medsynth/protocol.py: change the types, then `make docs`. -->

A protocol is one YAML file a study. `medsynth protocol FILE` checks it and prints it with all
defaults filled in; `medsynth init RAW` writes one to edit. Unknown keys and wrong types are
errors, and all of a file's faults are reported at once, with their lines.

Files are YAML 1.2: `1e-5` is a number, `no` is a word, and a key that comes twice is an error.
Beside the sections a file may have `profiles`: named sets of changes, of which
`--profile NAME` chooses one. `--set section.key=value` changes one knob on top.
"""


@dataclass(frozen=True)
class Knob:
    """One knob: dotted name, what it accepts, its default as JSON ("" if required), its meaning.

    `kind` is "section" for a group of knobs, which then follow.
    """

    name: str
    kind: str
    default: str
    meaning: str


def knobs(
    section: type[Section] = Protocol, default: Section | None = None, prefix: str = ""
) -> Iterator[Knob]:
    """Walk all knobs of a section, those of its sections right after each.

    `default` is the section's value where a file says nothing. Items of a list of sections are
    named `list[].knob`.
    """
    for field, info in section.model_fields.items():
        name = f"{prefix}{info.alias or field}"
        value = getattr(default, field) if default is not None else info.default
        inner = _section_in(info.annotation)
        if inner is info.annotation:
            yield Knob(name, "section", "", _one_line(inner.__doc__))
        else:
            known = default is not None or not info.is_required()
            kind = _words(info.annotation, info.metadata)
            yield Knob(name, kind, _shown(value) if known else "", _one_line(info.description))
        if inner is not None:
            many = "[]" if get_origin(info.annotation) is tuple else ""
            nested = value if isinstance(value, inner) else None
            yield from knobs(inner, nested, f"{name}{many}.")


def protocol_page() -> str:
    """Return docs/protocol.md: a table for each top section, in the order of the types."""
    lines, sections = [HEAD, "## The study", "", *_TABLE], _sections()
    for knob in knobs():
        if knob.name in sections:
            lines += ["", f"## {knob.name}", "", knob.meaning, "", *_TABLE]
        elif knob.kind != "section":
            default = f"`{knob.default}`" if knob.default else "required"
            cells = (f"`{knob.name}`", knob.kind, default, knob.meaning)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _sections() -> set[str]:
    """Return the names of the protocol's sections, those that may be null among them."""
    fields = Protocol.model_fields.items()
    return {info.alias or name for name, info in fields if _section_in(info.annotation)}


_TABLE = ("| knob | what it accepts | default | meaning |", "|---|---|---|---|")


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _shown(value: Any) -> str:
    return json.dumps(value.model_dump(mode="json") if isinstance(value, Section) else value)


def _section_in(annotation: Any) -> type[Section] | None:
    """Return the Section that an annotation is or holds, None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    found = (_section_in(part) for part in get_args(annotation))
    return next((part for part in found if part is not None), None)


# Types in words -----------------------------------------------------------------------------------

_PLAIN = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    types.NoneType: "null",
}


def _words(annotation: Any, bounds: Any = ()) -> str:
    """Say in words what an annotation accepts."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0], [*parts[1:], *bounds])
    if origin in (Union, types.UnionType):
        said = [_words(part) for part in sorted(parts, key=lambda part: part is types.NoneType)]
        return (", or " if "," in said[0] else " or ").join(said)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(part)}`" for part in parts)
    if origin is tuple:
        return f"list{_within(bounds, ' long')}; each: {_words(parts[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {_words(parts[0])} to {_words(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation.__name__.lower()
    return _PLAIN[annotation] + _within(bounds)


_BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "multiple_of": "a multiple of {}",
    "pattern": "as `{}`",
    "min_length": "at least {}",
}


def _within(bounds: Any, unit: str = "") -> str:
    """Say the bounds of a number or text, led by a comma; "" where there are none."""
    flat = [item for bound in bounds for item in getattr(bound, "metadata", [bound])]
    said = [
        form.format(getattr(bound, name)) + unit
        for bound in flat
        for name, form in _BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return "".join(f", {text}" for text in said)
