"""A raw folder to a list of images with patient and labels: from tables, or from the folders."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..protocol import Data
from .readers import is_dicom

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")
FOLDER_ATTRIBUTE = "label"
MOST_FOLDERS = 50  # more folders than this are patients or dates, not labels
SHOWN = 10  # faults in full; the rest is counted


@dataclass(frozen=True)
class Entry:
    """One image of a raw folder; `patient` is the hospital's own word and must not be written.

    `member` is the number, from 0, of an image within a file of several; None takes the file.
    """

    path: str
    patient: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    member: int | None = None


@dataclass(frozen=True)
class Listing:
    """All images of a raw folder, sorted by path.

    `unlisted` counts image files that no table names, `missing` are paths that a table names and
    that don't exist, `tables` the tables that were read; all paths are relative to the raw folder.
    """

    entries: tuple[Entry, ...]
    unlisted: int
    missing: tuple[str, ...]
    tables: tuple[str, ...]

    @property
    def patients_known(self) -> bool:
        """True if the tables name every image's patient."""
        return all(entry.patient is not None for entry in self.entries)


def find_images(raw: Path, data: Data) -> Listing:
    """List the images of a raw folder by its tables, or by its folders where there is no table.

    Raises DataError with all faults at once: absent columns, a path listed twice or leading out
    of the folder, tables that disagree; or where there is no image at all.
    """
    if not raw.is_dir():
        raise DataError(f"{raw.name} is no folder: expected a folder with images")
    files = list(walk(raw))
    tables = sorted(path for path in files if posixpath.basename(path) == data.tables)
    images = [path for path in files if is_image_name(raw, path)]
    entries = _from_tables(raw, tables, data) if tables else _from_folders(raw, images, data)
    if not entries:
        raise DataError(
            f"no image in {raw.name}/: looked for a table {data.tables}, and for files ending in "
            f"{' '.join(SUFFIXES)} or DICOM files without an ending"
        )
    entries.sort(key=lambda entry: entry.path)
    listed, existing = {entry.path for entry in entries}, set(files)
    missing = tuple(entry.path for entry in entries if entry.path not in existing)
    return Listing(tuple(entries), len(set(images) - listed), missing, tuple(tables))


def walk(raw: Path) -> Iterator[str]:
    """Yield all files under a folder as relative posix paths, sorted; hidden ones are left out."""
    for folder, folders, names in os.walk(raw):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(raw).as_posix()


def is_image_name(raw: Path, path: str) -> bool:
    """Return True for an image's ending, and for DICOM files without one or named by their UID."""
    suffix = posixpath.splitext(path)[1].lower()
    if suffix in SUFFIXES:
        return True
    if (suffix and not suffix[1:].isdigit()) or posixpath.basename(path) == "DICOMDIR":
        return False
    return is_dicom(raw / path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a csv as text, all cells stripped; an empty cell is "", and "NA" stays a word.

    Separators "," ";" and tab are told apart by the first line. Raises DataError (by the file's
    name only: a parser's own words may quote a row).
    """
    import pandas as pd

    try:
        head = path.read_text(encoding="utf-8-sig").split("\n", 1)[0]
        separator = max(",;\t", key=head.count)
        table = pd.read_csv(
            path,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except (ValueError, pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        raise DataError(
            f"{path.name}: no table that can be read ({type(error).__name__}): expected UTF-8 "
            f"text with one line of column names and as many cells in every row"
        ) from None
    table.columns = [str(name).strip() for name in table.columns]
    return table.apply(lambda column: column.str.strip())


def _from_folders(raw: Path, images: list[str], data: Data) -> list[Entry]:
    unknown = [name for name in data.label_columns if name != FOLDER_ATTRIBUTE]
    if unknown:
        raise DataError(
            f"data.label_columns asks for {', '.join(unknown)}, but there is no table "
            f"{data.tables} in {raw.name}/; without one the only label is {FOLDER_ATTRIBUTE!r}, "
            f"the image's folder"
        )
    labels = {path: _folder_label(raw, path) for path in images}
    if len(set(labels.values())) > MOST_FOLDERS:
        raise DataError(
            f"{len(set(labels.values()))} folders hold images: that looks like patients or dates, "
            f"not like labels. Write a table {data.tables} with the columns {data.path_column}, "
            f"{data.patient_column or 'patient_id'} and the labels"
        )
    return [
        Entry(path, labels={FOLDER_ATTRIBUTE: label} if label else {})
        for path, label in labels.items()
    ]


def _folder_label(raw: Path, path: str) -> str:
    """An image's folder; none for DICOM, whose folders are patients, studies and series."""
    folder = posixpath.dirname(path)
    if posixpath.splitext(path)[1].lower() in SUFFIXES[:5] and not is_dicom(raw / path):
        return folder
    return ""


def _from_tables(raw: Path, tables: list[str], data: Data) -> list[Entry]:
    faults: list[str] = []
    merged: dict[str, Entry] = {}
    found_labels: set[str] = set()
    for name in tables:
        table = read_table(raw / name)
        found_labels |= set(data.label_columns) & set(table.columns)
        entries = list(_rows(table, name, data, faults))
        faults += _repeats(entries, name)
        faults += _join(merged, {entry.path: entry for entry in entries})
    faults += [
        f"no table has the column {column!r} that data.label_columns asks for"
        for column in data.label_columns
        if column not in found_labels
    ]
    if faults:
        raise DataError(_say(faults))
    return list(merged.values())


def _rows(table: pd.DataFrame, name: str, data: Data, faults: list[str]) -> Iterator[Entry]:
    needed = [column for column in (data.path_column, data.patient_column) if column]
    absent = [column for column in needed if column not in table.columns]
    if absent:
        faults.append(
            f"{name}: no column {' and '.join(map(repr, absent))}; "
            f"it has {', '.join(table.columns)}"
        )
        return
    for line, row in enumerate(table.to_dict("records"), start=2):
        path = _inside(posixpath.dirname(name), row[data.path_column].replace("\\", "/"))
        if path is None:
            faults.append(f"{name} line {line}: the path is empty or leads out of the folder")
            continue
        labels = {column: row[column] for column in data.label_columns if row.get(column)}
        patient = row[data.patient_column] if data.patient_column else None
        yield Entry(path, patient or None, labels)


def _inside(folder: str, path: str) -> str | None:
    """Return a path in a table relative to the raw folder, None where it leads out of it."""
    joined = posixpath.normpath(posixpath.join(folder, path))
    outside = joined == ".." or joined.startswith(("../", "/")) or path[1:2] == ":"
    return None if outside or not path else joined


def _repeats(entries: list[Entry], name: str) -> Iterator[str]:
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            yield f"{name}: {entry.path} is listed twice"
        seen.add(entry.path)


def _join(merged: dict[str, Entry], entries: dict[str, Entry]) -> Iterator[str]:
    """Add one table's entries to the others'; an image in two tables must be the same in both."""
    for path, entry in entries.items():
        other = merged.get(path, entry)
        if None not in (entry.patient, other.patient) and entry.patient != other.patient:
            yield f"{path}: two tables disagree on its patient"
        for name in sorted(entry.labels.keys() & other.labels.keys()):
            if entry.labels[name] != other.labels[name]:
                yield f"{path}: two tables disagree on {name}"
        merged[path] = Entry(path, entry.patient or other.patient, {**other.labels, **entry.labels})


def _say(faults: list[str]) -> str:
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n  ".join([f"the tables have {count}", *faults[:SHOWN], *more])
