"""A plain folder of images, of anyone's making, to a listing; nothing is assumed about names.

Patients come from a table of their own (columns `path` and `patient_id`), else from the folder's
own table, else from DICOM headers, else they are not known.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from ..protocol import Data
from .layouts import Entry, Listing, find_images
from .layouts.folder import Folder
from .layouts.folders import MOST_FOLDERS, folder_label
from .layouts.listing import say_faults
from .layouts.members import expand, without_parts
from .layouts.tables import inside, read_table, rows_of, say_columns

PATH, PATIENT = "path", "patient_id"


def list_plain(
    raw: Path, data: Data, *, patients: Mapping[str, str] | None = None, synthetic: bool = False
) -> Listing:
    """List a folder's images by its tables or its folders, each with its patient where it is known.

    `patients` are {path: patient} as `read_patients` gives them; they outrank the folder's table
    and the headers. Of a `synthetic` folder no patient is asked for, whatever these say. Raises
    DataError as `find_images` does, but not for a table without patients nor for many folders.
    """
    folder = Folder.open(raw)
    tables = folder.named(data.tables)
    has_patients = tables and all(data.patient_column in folder.header(name) for name in tables)
    if synthetic or not has_patients:
        data = data.model_copy(update={"patient_column": None})
    if tables or not _many_folders(folder):
        listing = find_images(raw, data)
    else:
        entries = expand(raw, map(Entry, without_parts(raw, folder.images)), data)
        order = sorted(entries, key=lambda entry: (entry.path, entry.member or 0))
        listing = Listing(tuple(order), 0, (), (), "folders")
    named = patients or {}

    def patient(entry: Entry) -> str | None:
        return "" if synthetic else named.get(entry.path) or entry.patient

    known = (replace(entry, patient=patient(entry)) for entry in listing.entries)
    return replace(listing, entries=tuple(known))


def _many_folders(folder: Folder) -> bool:
    """True where the folders are too many to be labels: they are patients or dates."""
    return len({folder_label(folder.raw, path) for path in folder.images}) > MOST_FOLDERS


def read_patients(table: Path, folders: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return {folder's name: {path in it: patient}} from a table of all folders' patients.

    A row's path is relative to the table's own folder, or to one of `folders`; rows of images that
    are in none of them are passed over, for such a table may be that of a larger set. Raises
    DataError with all faults at once: absent columns, a path that is in two folders, two patients
    for one image; or where no image is named at all.
    """
    if not table.is_file():
        raise DataError(f"the table of patients, {table.name}, does not exist")
    rows = read_table(table)
    absent = [name for name in (PATH, PATIENT) if name not in rows.columns]
    if absent:
        raise DataError(
            f"{table.name}: no column {' and '.join(map(repr, absent))}; "
            f"{say_columns(tuple(rows.columns))}"
        )
    opened = {name: Folder.open(raw) for name, raw in folders.items()}
    found: dict[str, dict[str, str]] = {name: {} for name in folders}
    faults = []
    for line, row in enumerate(rows_of(rows), start=2):
        places = _places(row[PATH], table, opened)
        if len(places) > 1:
            faults.append(f"line {line}: the path is in {' and in '.join(n for n, _ in places)}")
        for name, path in list(places)[:1]:
            if found[name].setdefault(path, row[PATIENT]) != row[PATIENT]:
                faults.append(f"line {line}: an image is listed before with another patient")
    if faults:
        raise DataError(say_faults(f"{table.name} has", faults))
    if not any(found.values()):
        raise DataError(
            f"{table.name} names no image of {' or '.join(raw.name for raw in folders.values())}: "
            f"expected paths relative to the table or to one of these folders"
        )
    return found


def _places(cell: str, table: Path, folders: Mapping[str, Folder]) -> dict[tuple[str, str], None]:
    """Return where a cell's path leads: (folder's name, path in it), without repeats."""
    cell = cell.replace("\\", "/")
    here = os.path.normpath(os.path.join(os.path.realpath(table.parent), cell))  # noqa: PTH118
    places = {}
    for name, folder in folders.items():
        root = os.path.realpath(folder.raw)
        for path in (os.path.relpath(here, root).replace(os.sep, "/"), inside("", cell)):
            if path in folder.existing:
                places[name, path] = None
    return places
