"""What the columns of a raw folder's tables may be, by their names and by what is in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .layouts.tables import read_table

if TYPE_CHECKING:
    import pandas as pd

TABLES = 20  # how many tables are looked at
FEWEST, MOST = 2, 50  # distinct values of a column that may be a label
PATH_NAMES = ("path", "file", "filename", "file_name", "image", "image_path", "image_index")
PATIENT_NAME = re.compile(r"^(patient|subject|person|case)?_?(id|number|no|nr)?$|^(mrn|pid)$")
IDENTIFYING = re.compile(r"name|birth|dob|date|time|mrn|address|phone|e?mail|uid|(^|_)id$")


@dataclass(frozen=True)
class TableGuess:
    """What a table's columns may be; `path_column` is None where no column names files."""

    path: str
    rows: int
    columns: tuple[str, ...]
    path_column: str | None
    patient_column: str | None
    label_columns: tuple[str, ...]


def read_tables(raw: Path, files: list[str], wanted: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield tables, those of the wanted name first; one that can't be read is left out."""
    names = [path for path in files if path.lower().endswith(".csv")]
    names.sort(key=lambda path: (posixpath.basename(path) != wanted, path))
    for name in names[:TABLES]:
        try:
            yield name, read_table(raw / name)
        except DataError:
            continue


def guess_columns(raw: Path, name: str, table: pd.DataFrame) -> TableGuess:
    """Guess a table's path, patient and label columns from their names and from what they hold."""
    folder = (raw / name).parent
    paths = [column for column in table.columns if _names_files(folder, table[column])]
    paths.sort(key=lambda column: _plain(column) not in PATH_NAMES)
    patient = next((c for c in table.columns if c not in paths and _may_be_patient(c)), None)
    labels = tuple(
        column
        for column in table.columns
        if column not in (*paths, patient) and _may_be_label(table, column, patient)
    )
    columns = tuple(table.columns)
    return TableGuess(name, len(table), columns, paths[0] if paths else None, patient, labels)


def _names_files(folder: Path, cells: pd.Series) -> bool:
    some = [cell for cell in spread(list(cells), 40) if cell]
    return bool(some) and sum((folder / cell).is_file() for cell in some) > len(some) / 2


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")


def _may_be_patient(column: str) -> bool:
    return bool(PATIENT_NAME.match(_plain(column))) and _plain(column) not in ("id", "no", "nr", "")


def _may_be_label(table: pd.DataFrame, column: str, patient: str | None) -> bool:
    """A few values, each often; not one that names people, and not one value for each patient."""
    values = table[column][table[column] != ""]
    distinct = values.nunique()
    if not FEWEST <= distinct <= min(MOST, len(values) / 2) or IDENTIFYING.search(_plain(column)):
        return False
    if patient is None:
        return True
    return bool(table.loc[values.index].groupby(column)[patient].nunique().max() > 1)


def spread(items: Sequence, most: int) -> list:
    """Take at most so many items, evenly spread."""
    step = max(1, -(-len(items) // most))
    return list(items[::step])
