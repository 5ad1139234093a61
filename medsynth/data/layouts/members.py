"""Files that hold several images, one entry for each; files that are parts of another, none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...protocol import Data
from ..badimage import BadImage
from ..pool import read_all
from ..worker import Limits, Lost
from .listing import Entry
from .walk import ARRAYS, VOLUMES, suffix_of


def expand(raw: Path, entries: Iterable[Entry], data: Data) -> Iterator[Entry]:
    """Yield an entry for each slice of a NIfTI volume and each image of a .npz or .h5 file.

    Which slices is for data.slice_plane and slice_step to say. A file that can't be opened stays
    one entry: whoever reads it says what is wrong with it. Another process opens them, for a
    damaged one may end whoever opens it.
    """
    entries = list(entries)
    several = {entry.path for entry in entries if suffix_of(entry.path) in (*ARRAYS, *VOLUMES)}
    paths = sorted(several)
    limits = Limits(data.max_seconds, data.max_memory_gib)
    found = read_all(_Numbers(raw, data), paths, limits=limits)
    numbers = {
        path: [None] if isinstance(n, Lost) else n for path, n in zip(paths, found, strict=True)
    }
    for entry in entries:
        for number in numbers.get(entry.path, [None]):
            yield replace(entry, member=number)


@dataclass(frozen=True)
class _Numbers:
    """Opens one file and says which images of it are taken, [None] where it can't be told."""

    raw: Path
    data: Data

    def __call__(self, path: str) -> Sequence[int | None]:
        from ..arrays import members
        from ..nifti import slices
        from ..original import look_at

        try:
            look_at(self.raw, path)
            if suffix_of(path) in VOLUMES:
                return slices(self.raw / path, self.data)
            return range(sum(members(self.raw / path).values()))
        except (BadImage, OSError):
            return [None]


def without_parts(raw: Path, images: Iterable[str]) -> list[str]:
    """Return the images without those that belong to a slide that another one stands for."""
    from ..slide_files import parts_of_slides

    images = list(images)
    parts = parts_of_slides(raw, images)
    return [path for path in images if path not in parts]
