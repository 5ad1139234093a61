"""Files that hold several images, one entry for each; files that are parts of another, none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ...protocol import Data
from ..badimage import BadImage
from .listing import Entry
from .walk import ARRAYS, VOLUMES, suffix_of


def expand(raw: Path, entries: Iterable[Entry], data: Data) -> Iterator[Entry]:
    """Yield an entry for each slice of a NIfTI volume and each image of a .npz or .h5 file.

    Which slices is for data.slice_plane and slice_step to say. A file that can't be opened stays
    one entry: whoever reads it says what is wrong with it.
    """
    for entry in entries:
        try:
            numbers = _numbers(raw / entry.path, data)
        except (BadImage, OSError):
            numbers = [None]
        for number in numbers:
            yield replace(entry, member=number)


def _numbers(path: Path, data: Data) -> list[int | None] | range:
    suffix = suffix_of(path.name)
    if suffix in VOLUMES:
        from ..nifti import slices

        return slices(path, data)
    if suffix in ARRAYS:
        from ..arrays import members

        return range(sum(members(path).values()))
    return [None]


def without_parts(raw: Path, images: Iterable[str]) -> list[str]:
    """Return the images without those that belong to a slide that another one stands for."""
    from ..slide_files import parts_of_slides

    images = list(images)
    parts = parts_of_slides(raw, images)
    return [path for path in images if path not in parts]
