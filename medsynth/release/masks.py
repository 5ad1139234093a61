"""Released masks: PNG files of their images' names, whose values are classes with names."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from ..cohort import Cohort
from ..protocol import Protocol
from ..runtime import digest_bytes, write_json
from .pictures import COMPRESSION, marks

FOLDER, CLASSES, COLUMN = "masks", "masks/classes.json", "mask"
BACKGROUND = "background"
COLOURS = np.uint8(
    [[0, 0, 0], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178],
     [213, 94, 0], [204, 121, 167]]
)  # fmt: skip
"""Of classes 0 to 7, told apart by colour-blind eyes (Okabe and Ito); then again from 1."""


def classes_of(cohort: Cohort, protocol: Protocol) -> dict[int, str]:
    """Return {value: what it means} of a cohort's masks; none where it has none."""
    if cohort.masks is None or protocol.masks is None:
        return {}
    values = {int(value) for value in np.unique(cohort.masks)} | set(
        map(int, protocol.masks.classes)
    )
    named = {value: protocol.masks.name_of(value) for value in sorted(values - {0})}
    return {0: BACKGROUND, **named}


def write_masks(folder: Path, cohort: Cohort, classes: Mapping[int, str]) -> dict[str, str]:
    """Write each mask as a PNG named by its image's id, and classes.json; return {path in the
    release: sha256} in order. Nothing where there are no masks."""
    if not classes:
        return {}
    (folder / FOLDER).mkdir()
    write_json(folder / CLASSES, {str(value): name for value, name in classes.items()})
    digests = {}
    for record, mask in zip(cohort.records, cohort.masks, strict=True):
        png, name = encode_mask(mask), f"{FOLDER}/{record.id}.png"
        (folder / name).write_bytes(png)
        digests[name] = digest_bytes(png)
    return digests


def encode_mask(mask: np.ndarray) -> bytes:
    """Write (H, W) uint8 as a PNG with a palette: a pixel's value is its class, its colour is for
    the eye. It says that it is synthetic; the same mask, the same bytes."""
    picture, data = Image.fromarray(np.ascontiguousarray(mask)), io.BytesIO()
    picture.putpalette(palette().tobytes())
    picture.save(data, "PNG", compress_level=COMPRESSION, pnginfo=marks())
    return data.getvalue()


def palette() -> np.ndarray:
    """Return the colours of all classes, (256, 3) uint8."""
    numbers = np.arange(256)
    return COLOURS[np.where(numbers == 0, 0, 1 + (numbers - 1) % (len(COLOURS) - 1))]


def faults(cohort: Cohort, protocol: Protocol) -> list[str]:
    """Say what keeps a cohort with masks, or without those that were asked for, inside."""
    if (cohort.masks is None) != (protocol.masks is None):
        there, asked = ("no masks", "asks for masks") if cohort.masks is None else (
            "masks", "says nothing of masks")  # fmt: skip
        return [f"the cohort has {there}, and the protocol {asked}"]
    return []
