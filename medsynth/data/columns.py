"""What the columns of a raw folder's tables may be, by their names and by what is in them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from .layouts.folder import Folder
from .layouts.tables import TABLES, locate, read_table
from .layouts.walk import suffix_of

if TYPE_CHECKING:
    import pandas as pd

MOST_TABLES = 20  # how many tables are looked at
CELLS = 40  # how many cells of a column are tried as paths
FEWEST, MOST = 2, 50  # distinct values of a column that may be a label
PATH_NAMES = ("path", "file", "filename", "file_name", "image", "image_path", "image_index",
              "image_id", "image_name", "img", "id_code")  # fmt: skip
ITSELF = "{}"
PATIENT_NAME = re.compile(r"^(patient|subject|person|case)?_?(id|number|no|nr)?$|^(mrn|pid)$")
IDENTIFYING = re.compile(r"name|birth|dob|date|time|mrn|address|phone|e?mail|uid|(^|_)id$")


@dataclass(frozen=True)
class TableGuess:
    """What a table's columns may be; `path_column` is None where no column names files.

    `path_format` is what makes its cells paths, "{}" where they are.
    """

    path: str
    rows: int
    columns: tuple[str, ...]
    path_column: str | None
    patient_column: str | None
    label_columns: tuple[str, ...]
    path_format: str = ITSELF


def read_tables(folder: Folder, wanted: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield tables, those of the wanted name first; one that can't be read is left out."""
    names = [path for path in folder.files if suffix_of(path) in TABLES]
    names.sort(key=lambda path: (posixpath.basename(path) != wanted, path))
    for name in names[:MOST_TABLES]:
        try:
            yield name, read_table(folder.raw / name)
        except DataError:
            continue


def guess_columns(folder: Folder, name: str, table: pd.DataFrame) -> TableGuess:
    """Guess a table's path, patient and label columns from their names and from what they hold."""
    forms = {c: _path_format(folder, posixpath.dirname(name), table[c]) for c in table.columns}
    paths = [column for column, form in forms.items() if form]
    paths.sort(key=lambda column: (forms[column] != ITSELF, _plain(column) not in PATH_NAMES))
    patient = next((c for c in table.columns if c not in paths and _may_be_patient(c)), None)
    labels = tuple(
        column
        for column in table.columns
        if column not in (*paths, patient) and _may_be_label(table, column, patient)
    )
    path, columns = (paths[0] if paths else None), tuple(table.columns)
    form = forms[path] if path else ITSELF
    return TableGuess(name, len(table), columns, path, patient, labels, form)


def _path_format(folder: Folder, base: str, cells: pd.Series) -> str:
    """What makes most of a column's cells paths of files that are there, "" where nothing does."""
    some = [cell for cell in spread(list(cells), CELLS) if cell]
    forms = [ITSELF, *dict.fromkeys(f for cell in some[:3] for f in _forms(folder, base, cell))]
    if 2 * len(set(some)) <= len(some):  # a grade from 1 to 4 is no name of four files
        forms = [ITSELF]
    for form in forms:
        if some and 2 * sum(_is_there(folder, base, cell, form) for cell in some) > len(some):
            return form
    return ""


def _forms(folder: Folder, base: str, cell: str) -> Iterator[str]:
    """The forms that would lead from a cell with a file's name, with or without its ending."""
    name = posixpath.basename(cell.replace("\\", "/"))
    near = f"{base}/" if base else ""
    for path in (*folder.by_name.get(name, ()), *folder.by_stem.get(name, ())):
        if path.startswith(near) and name == cell:
            ending = "" if posixpath.basename(path) == name else suffix_of(path)
            yield posixpath.join(posixpath.dirname(path.removeprefix(near)), f"{{}}{ending}")
            if ending:
                yield posixpath.join(posixpath.dirname(path.removeprefix(near)), "{}.*")


def _is_there(folder: Folder, base: str, cell: str, form: str) -> bool:
    return locate(folder, base, cell, form) in folder.existing


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
