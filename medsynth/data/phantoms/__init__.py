"""Made-up images of made-up patients: for the demo, the tests and the notebooks.

Every patient is drawn from random anatomy, so that patients can be told apart and the images of
one patient belong together; nothing in them comes from a person.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...errors import ProtocolError
from ...runtime import derive_seed
from . import folder as _folder
from .folder import Format

__all__ = ["NAMES", "Format", "draw", "draw_mask", "structures", "write_folder"]

NAMES = ("chest_xray", "fundus", "histology")


def draw(
    domain: str, patient: int, image: int, seed: int, size_px: int
) -> tuple[np.ndarray, dict[str, str]]:
    """Draw one image of one patient and say what it shows.

    Returns pixels (H, W, C) uint8, C as in the domain, and labels: fundus `disease` and
    `laterality` (even images are right eyes, odd ones left, from 2 on later visits of the same
    eyes), chest_xray `finding` (images are visits), histology `tissue` (images are tiles of one
    slide). The same arguments give the same image, and a larger `size_px` the same scene with
    other grain. Raises ProtocolError on a domain that has no phantom.
    """
    light, labels, _ = _draw(domain, patient, image, seed, size_px)
    return np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8), labels


def draw_mask(domain: str, patient: int, image: int, seed: int, size_px: int) -> np.ndarray:
    """Return what lies where in the image that `draw` draws: (H, W) uint8, 0 for background, i
    where the i-th of `structures` covers at least half of the pixel."""
    _, _, shares = _draw(domain, patient, image, seed, size_px)
    return np.where(shares.sum(0) >= 0.5, shares.argmax(0) + 1, 0).astype(np.uint8)


def structures(domain: str) -> tuple[str, ...]:
    """Return the names of what a phantom's mask shows, from class 1 on."""
    return _module(domain).STRUCTURES


def _draw(domain: str, patient: int, image: int, seed: int, size_px: int):
    module = _module(domain)
    rngs = (
        _rng(seed, domain, patient),
        _rng(seed, domain, patient, "part", image % 2),
        _rng(seed, domain, patient, "image", image),
    )
    return module.draw(*rngs, image, size_px)


def _module(domain: str):
    if domain not in NAMES:
        raise ProtocolError("phantoms", [f"no phantom {domain!r}: expected {', '.join(NAMES)}"])
    return importlib.import_module(f"{__name__}.{domain}")


def write_folder(
    folder: Path,
    *,
    domain: str,
    patients: int,
    seed: int,
    size_px: int,
    images_each: int = 2,
    bad_files: int = 0,
    formats: Sequence[Format] = ("png",),
    masks: Path | None = None,
) -> None:
    """Write a raw folder as a hospital hands it over: images/ and labels.csv.

    The table's columns are path, patient_id and the labels of `draw`.
    `formats` take turns image by image; every second grey DICOM file is MONOCHROME1. `bad_files`
    more files are listed that can't be used: empty, cut short, text, two channels, in turn. All
    is the same for the same arguments, byte for byte. In `masks`, another folder, goes the mask of
    each image, a PNG of its name; None writes none. Raises DataError on an unknown format.
    """
    _folder.write(
        folder,
        draw,
        domain=domain,
        patients=patients,
        seed=seed,
        size_px=size_px,
        images_each=images_each,
        bad_files=bad_files,
        formats=formats,
    )
    if masks is not None:
        _folder.write_masks(
            masks, draw_mask, domain=domain, patients=patients, seed=seed, size_px=size_px,
            images_each=images_each,
        )  # fmt: skip


def _rng(*parts: int | str) -> np.random.Generator:
    return np.random.default_rng(derive_seed("phantom", *parts))
