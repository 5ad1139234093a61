"""A protocol drafted from what was seen of a raw folder, for a person to edit."""

from __future__ import annotations

import json
import posixpath
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from .split import foresee, say_holdouts
from .survey import Survey

PROPOSED_RULES = (
    {"finding": "memorization.p_value", "not_rejected_at": 0.05},
    {"finding": "memorization.copy_rate", "at_most": 0.05},
    {"finding": "memorization.smallest_rate", "at_most": 0.05},
    {"finding": "memorization.recall", "at_least": 0.5},
)
SMALLEST_PX = 16


def draft_protocol(seen: Survey, name: str, base: Mapping[str, Any] | None = None) -> str:
    """Write a protocol's YAML for a surveyed folder, to be edited by a person.

    `base` holds further sections (a recipe's networks and training), taken as they are; its
    `gate` is the proposal. Of its image section, sizes that the images are too small for are made
    smaller. The gate stays commented out, so that loading the draft fails until a person has
    decided on it.
    """
    base = dict(base or {})
    rules = base.pop("gate", {}).get("rules", PROPOSED_RULES)
    image = {"size_px": 64, "bits": 8, **base.pop("image", {})}
    own = ("name", "domain", "data", "split", "seed", "profiles")
    rest = {key: value for key, value in base.items() if key not in own}
    sure = "" if seen.found.layout else "a guess: "
    blocks = [
        "# Drafted by looking at the folder; every line is a guess for a person to correct.",
        *map(_comment, seen.sentences()),
        "",
        f"name: {json.dumps(name)}",
        f"domain: {seen.domain}  # {sure}{seen.domain_because}",
        f"seed: {int(base.get('seed', 0))}",
        "",
        _block("image", _fitted(image, seen.look.short_px)),
        _block("data", _data(seen)),
        _split_block(seen, base.get("split")),
        *(_block(key, value) for key, value in rest.items()),
        _gate_block(rules),
    ]
    return "\n".join(blocks)


def _comment(sentence: str) -> str:
    return textwrap.fill(sentence, 100, initial_indent="# ", subsequent_indent="#   ")


def _block(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"  {key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"{name}:", *lines, ""])


def _fitted(image: Mapping[str, Any], short_px: int) -> dict[str, Any]:
    """Halve the size until the median image is at least half as large, and cut no tiles out of
    images that are smaller than a tile."""
    fitted = dict(image)
    while short_px and fitted["size_px"] // 2 > max(short_px, SMALLEST_PX // 2):
        fitted["size_px"] //= 2
    if short_px and (fitted.get("tile_px") or 0) > short_px:
        fitted["tile_px"] = None
    return fitted


def _data(seen: Survey) -> dict[str, Any]:
    labels = {"label_columns": list(seen.found.labels)}
    if layout := seen.found.layout:
        keep = {name: list(words) for name, words in seen.found.keep.items()}
        return {"layout": layout.name, **labels, **({"keep": keep} if keep else {})}
    table = seen.listing
    if table is None:
        return {"patient_column": None, **labels}
    form = {} if table.path_format == "{}" else {"path_format": table.path_format}
    return {
        "tables": posixpath.basename(table.path),
        "path_column": table.path_column,
        **form,
        "patient_column": table.patient_column,
        **labels,
    }


def _split_block(seen: Survey, split: Mapping[str, Any] | None) -> str:
    values = {"validation": 0.1, "holdout": 0.4, **(split or {})}
    units = seen.found.patients or len(seen.found.entries)
    holdout = round(units * values["holdout"])
    train = units - holdout - round(units * values["validation"])
    if min(train, holdout) < 1:
        return "# Too few patients to hold any out.\n" + _block("split", values)
    foretold = foresee(train, holdout).sentence
    proposed = say_holdouts(units, validation=values["validation"])
    return f"{_comment(foretold)}\n{_comment(proposed)}\n" + _block("split", values)


def _gate_block(rules: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "# What must hold before anything leaves. A person writes it before the data is seen:",
        "# read docs/measures.md, decide on every rule, and take the # away.",
        "# gate:",
        "#   rules:",
        *(f"#     - {json.dumps(dict(rule))}" for rule in rules),
    ]
    return "\n".join(lines) + "\n"
