"""A raw folder's files, indexed once, so that a table's words find their images."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DataError
from .walk import ARRAYS, is_image_name, stem_of, suffix_of, walk

if TYPE_CHECKING:
    import pandas as pd


TWO_COPIES = (
    "the folder holds more than one copy of the set (in another size, or cropped): give one of them"
)


@dataclass(frozen=True)
class Folder:
    """A raw folder and the relative posix paths of its files, sorted."""

    raw: Path
    files: tuple[str, ...]

    @classmethod
    def open(cls, raw: Path) -> Folder:
        """List a folder. Raises DataError where there is none."""
        if not raw.is_dir():
            raise DataError(f"{raw.name} is no folder: expected a folder with images")
        return cls(raw, tuple(walk(raw)))

    @cached_property
    def existing(self) -> frozenset[str]:
        """All files, to look one up."""
        return frozenset(self.files)

    @cached_property
    def images(self) -> tuple[str, ...]:
        """All files that are images by their names, or by their content where DICOM has none."""
        return tuple(path for path in self.files if is_image_name(self.raw, path))

    def unlisted(self, listed: Collection[str]) -> int:
        """Count the image files that are not listed; arrays may as well hold labels."""
        return sum(p not in listed and suffix_of(p) not in ARRAYS for p in self.images)

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Paths by file name."""
        return _grouped((posixpath.basename(path), path) for path in self.files)

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """Paths of images by file name without ending."""
        return _grouped((stem_of(path), path) for path in self.images)

    @cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """Paths by the name of the folder right above."""
        pairs = ((posixpath.basename(posixpath.dirname(path)), path) for path in self.files)
        return _grouped(pairs)

    def named(self, *names: str) -> list[str]:
        """Return the files with one of these names, wherever they are, sorted."""
        return sorted(path for name in names for path in self.by_name.get(name, ()))

    def image(self, stem: str, *, near: str) -> str | None:
        """Return the image of this name without ending, None where there is none.

        Of several, the one that shares most folders with the table at `near`. Raises DataError
        where that does not decide.
        """
        found = self.by_stem.get(stem, [])
        if len(found) > 1:
            most = max(_shared_folders(path, near) for path in found)
            found = [path for path in found if _shared_folders(path, near) == most]
        if len(found) > 1:
            raise DataError(f"{found[0]} and {found[1]}: {TWO_COPIES}")
        return found[0] if found else None

    def header(self, path: str) -> tuple[str, ...]:
        """Return a table's column names; none where it can't be read."""
        from .tables import read_header

        try:
            return read_header(self.raw / path)
        except DataError:
            return ()

    def table(self, path: str) -> pd.DataFrame:
        """Read a table as text; see `tables.read_table`."""
        from .tables import read_table

        return read_table(self.raw / path)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key, path in pairs:
        groups.setdefault(key, []).append(path)
    return groups


def _shared_folders(path: str, other: str) -> int:
    pairs = zip(
        posixpath.dirname(path).split("/"), posixpath.dirname(other).split("/"), strict=False
    )
    count = 0
    for one, two in pairs:
        if one != two or not one:
            break
        count += 1
    return count
