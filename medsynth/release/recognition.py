"""A list by which a released image is known again when its marks are gone.

    hashes.csv    id and hash of every released image; of no other image anything

A hash is the signs of an image's 255 lowest frequencies in 64 hexadecimal digits: saving as JPEG,
resizing and brightness change few of them. docs/results.md says how few, and how far apart other
images are.
Source: the discrete cosine transform's signs, as in Zauner, Perceptual image hash functions (2010).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..runtime import digest_file

NAME = "hashes.csv"
SIDE, KEPT = 64, 16  # pixels an image is brought to; frequencies each way
BITS = KEPT**2 - 1  # the mean is none
WITHIN = 32
"""Two images with at most so many different bits are the same picture."""
MAX_PIXELS = 400_000_000


class Match(NamedTuple):
    """A released image, and how many of 255 bits differ from the image that was asked about."""

    id: str
    distance: int


def hash_image(image: np.ndarray) -> np.ndarray:
    """Return the hash of (H, W) or (H, W, C) pixels of any range, (32,) uint8.

    255 bits: whether each of the lowest frequencies of the grey image, but for the mean, is above
    0; the last bit is 0.
    """
    from PIL import Image

    grey = np.asarray(image, np.float32)
    grey = grey.mean(2) if grey.ndim == 3 else grey
    small = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    frequencies = _cosines() @ np.asarray(small, np.float64) @ _cosines().T
    return np.packbits(frequencies.ravel()[1:] > 0)


def hashes_csv(cohort: Cohort) -> str:
    """Return the list of a cohort's hashes as it is released. `cohort` must hold what leaves, and
    nothing else: who has a hash can tell whether an image is the one."""
    rows = [
        f"{record.id},{hash_image(image).tobytes().hex()}\n"
        for record, image in zip(cohort.records, cohort.pixels, strict=True)
    ]
    return "id,hash\n" + "".join(rows)


def find(image: Path, release: Path) -> list[Match]:
    """Return the released images that a file shows, or the nearest one where none is near enough,
    the nearest first; a match is within WITHIN.

    Raises DataError where the file is no image, or the list is absent or not as released.
    """
    path, sums = release / NAME, release / "SHA256SUMS"
    if not path.is_file() or not sums.is_file():
        raise DataError(f"{release.name}/ has no {NAME}: its images can't be recognised")
    if f"{digest_file(path)}  {NAME}\n" not in sums.read_text():
        raise DataError(f"{NAME} was changed after the release: ask for the release again")
    ids, known = _read(path)
    asked = hash_image(_open(image))
    distances = np.unpackbits(known ^ asked, axis=1).sum(1, dtype=int)
    near = np.flatnonzero(distances <= max(WITHIN, int(distances.min())))
    matches = [Match(ids[i], int(distances[i])) for i in near]
    return sorted(matches, key=lambda match: (match.distance, match.id))


def faults(folder: Path, images: Mapping[str, str]) -> Iterable[str]:
    """Say where the list is not one of the images of manifest.json, {path: sha256}."""
    if not images:
        return
    if _read(folder / NAME)[0] != [PurePosixPath(name).stem for name in images]:
        yield f"{NAME}: its rows are not the images of manifest.json"


@cache
def _cosines() -> np.ndarray:
    """(KEPT, SIDE): the first rows of the discrete cosine transform (type II, no scale)."""
    places = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    return np.cos(np.arange(KEPT)[:, None] * places)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    data = b"".join(bytes.fromhex(row["hash"]) for row in rows)
    known = np.frombuffer(data, np.uint8).reshape(len(rows), (BITS + 1) // 8)
    return [row["id"] for row in rows], known


def _open(path: Path) -> np.ndarray:
    from ..data.options import ReadOptions
    from ..data.readers import read_image

    return read_image(path, ReadOptions(max_pixels=MAX_PIXELS)).transpose(1, 2, 0)
