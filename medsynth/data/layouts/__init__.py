"""A raw folder to a list of images with patient and labels: by a public data set's layout, from
tables, or from the folders."""

from __future__ import annotations

import posixpath
from pathlib import Path

from ...errors import DataError
from ...protocol import Data
from .folder import Folder
from .folders import list_from_folders
from .listing import Entry, Listing
from .tables import list_from_tables
from .walk import SUFFIXES

__all__ = ["Entry", "Listing", "find_images"]


def find_images(raw: Path, data: Data) -> Listing:
    """List the images of a raw folder: by data.layout, by its tables, or by its folders.

    Raises DataError with all faults at once: absent columns, a path listed twice or leading out
    of the folder, tables that disagree; or where there is no image at all.
    """
    folder = Folder.open(raw)
    tables = sorted(path for path in folder.files if posixpath.basename(path) == data.tables)
    if tables:
        entries, dropped = list_from_tables(folder, tables, data)
    else:
        entries, dropped = list_from_folders(folder, data)
    if not entries:
        raise DataError(_nothing(folder, data, dropped))
    entries.sort(key=lambda entry: (entry.path, entry.member or 0))
    listed = {entry.path for entry in entries}
    return Listing(
        entries=tuple(entries),
        unlisted=len(set(folder.images) - listed - dropped),
        missing=tuple(sorted(listed - folder.existing)),
        tables=tuple(tables),
        layout="tables" if tables else "folders",
    )


def _nothing(folder: Folder, data: Data, dropped: set[str]) -> str:
    if dropped:
        return f"data.keep leaves none of the {len(dropped)} images of {folder.raw.name}/"
    return (
        f"no image in {folder.raw.name}/: looked for a table {data.tables}, and for files ending "
        f"in {' '.join(SUFFIXES)} or DICOM files without an ending"
    )
