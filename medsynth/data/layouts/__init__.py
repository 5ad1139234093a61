"""A raw folder to a list of images with patient and labels: by a public data set's layout, from
tables, or from the folders."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path

from ...errors import DataError
from ...protocol import Data
from . import named
from .folder import Folder
from .folders import list_from_folders
from .layout import Layout
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
    if data.layout is not None:
        return _of_layout(folder, named.layout(data.layout), data)
    if tables:
        entries, dropped = list_from_tables(folder, tables, data)
    else:
        entries, dropped = list_from_folders(folder, data)
    listed = {entry.path for entry in entries}
    missing = tuple(sorted(listed - folder.existing))
    found = Listing(tuple(entries), 0, missing, tuple(tables), "tables" if tables else "folders")
    return _counted(folder, found, dropped, data)


def _of_layout(folder: Folder, layout: Layout, data: Data) -> Listing:
    entries, dropped, missing = named.list_from_layout(folder, layout, data)
    found = Listing(tuple(entries), 0, missing, (), layout.name, layout.limits)
    return _counted(folder, found, dropped, data)


def _counted(folder: Folder, found: Listing, dropped: set[str], data: Data) -> Listing:
    """Sort what was found, and count what nobody named."""
    if not found.entries:
        raise DataError(_nothing(folder, data, dropped))
    entries = sorted(found.entries, key=lambda entry: (entry.path, entry.member or 0))
    unlisted = folder.unlisted({entry.path for entry in entries} | dropped)
    return replace(found, entries=tuple(entries), unlisted=unlisted)


def _nothing(folder: Folder, data: Data, dropped: set[str]) -> str:
    if dropped:
        return f"data.keep leaves none of the {len(dropped)} images of {folder.raw.name}/"
    return (
        f"no image in {folder.raw.name}/: looked for a table {data.tables}, and for files ending "
        f"in {' '.join(SUFFIXES)} or DICOM files without an ending"
    )
