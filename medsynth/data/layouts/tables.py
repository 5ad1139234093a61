"""Tables that list images, as text: csv, tsv, parquet and xlsx, by a mapping in the protocol."""

from __future__ import annotations

import csv
import gzip
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...protocol import Data
from .folder import Folder
from .listing import Entry, asked_in_vain, chosen_labels, is_kept, say_faults
from .members import expand
from .walk import SUFFIXES, stem_of, suffix_of

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PACKAGES = {".parquet": "pyarrow", ".xlsx": "openpyxl"}  # which the extra [formats] brings
TABLES = (*TEXTS, *PACKAGES)
ANY_SUFFIX = ".*"
MOST_SHOWN = 30


# Reading ----------------------------------------------------------------------------------------


def read_table(path: Path) -> pd.DataFrame:
    """Read a table as text by its ending, all cells stripped.

    An empty cell is "", "NA" stays a word, and a whole number has no ".0". Separators "," ";" and
    tab are told apart by the first line. Raises DataError (by the file's name only: a parser's own
    words may quote a row), also where a package is missing.
    """
    import pandas as pd

    suffix = suffix_of(path.name)
    try:
        if suffix == ".xlsx":
            table = pd.DataFrame(*_from_xlsx(path))
        elif suffix == ".parquet":
            table = _from_parquet(path)
        else:
            table = _from_text(path)
    except DataError:
        raise
    except Exception as error:  # parsers meet a damaged table with any error at all
        raise DataError(
            f"{path.name}: no table that can be read ({type(error).__name__}): expected one row "
            f"of column names and as many cells in every row; text in UTF-8"
        ) from None
    table.columns = [str(name).strip() for name in table.columns]
    return table.apply(lambda column: column.str.strip()) if len(table) else table.astype(str)


def rows_of(table: pd.DataFrame) -> Iterator[dict[str, str]]:
    """Yield a table's rows one after another as {column: cell}."""
    names = list(table.columns)
    columns = (table.iloc[:, number].tolist() for number in range(len(names)))
    for cells in zip(*columns, strict=True):
        yield dict(zip(names, cells, strict=True))


def say_columns(names: Sequence[str]) -> str:
    """Return a table's column names for people, unless they are a row of data.

    A table without names has a patient where a name should be, and that is not for a message.
    """
    if any(name.isdigit() or suffix_of(name) in SUFFIXES for name in names):
        return "its first row looks like data and not like column names"
    return f"it has {', '.join(names[:MOST_SHOWN])}{' and more' if len(names) > MOST_SHOWN else ''}"


def read_header(path: Path) -> tuple[str, ...]:
    """Return a table's column names, reading no row. Raises DataError as `read_table` does."""
    suffix = suffix_of(path.name)
    try:
        if suffix == ".xlsx":
            names = next(_sheet_rows(path))
        elif suffix == ".parquet":
            names = _needs("pyarrow.parquet", path).read_schema(path).names
        else:
            line = _first_line(path)
            names = next(csv.reader([line], delimiter=_separator(line)))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path.name}: no table ({type(error).__name__})") from None
    return tuple(str(name).strip() for name in names)


def _from_text(path: Path) -> pd.DataFrame:
    import warnings

    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # it would drop cells
        return pd.read_csv(
            path,
            sep=_separator(_first_line(path)),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )


def _first_line(path: Path) -> str:
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig") as text:
        return text.readline().rstrip("\n")


def _separator(line: str) -> str:
    return max(",;\t", key=line.count)


def _from_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    columns = _needs("pyarrow.parquet", path).read_table(path).to_pydict()
    texts = {name: [_text(cell) for cell in cells] for name, cells in columns.items()}
    return pd.DataFrame(texts, dtype=str)


def _from_xlsx(path: Path) -> tuple[list[list[str]], None, list[str]]:
    first, *rows = _sheet_rows(path)
    names = [name or f"Unnamed: {n}" for n, name in enumerate(first)]  # as csv files have it
    filled = [row + [""] * (len(names) - len(row)) for row in rows if any(row)]
    return filled, None, names


def _sheet_rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of the first sheet as text."""
    import warnings

    openpyxl = _needs("openpyxl", path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles, of no use here
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            for row in book.worksheets[0].iter_rows(values_only=True):
                yield [_text(cell) for cell in row]
        finally:
            book.close()


def _needs(module: str, path: Path) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        name = module.split(".")[0]
        raise DataError(
            f"{path.name}: {suffix_of(path.name)} tables need {name}, which is not installed: "
            f"pip install 'medsynth[formats]', or save the table as csv"
        ) from None


def _text(cell: Any) -> str:
    """A cell as a person reads it: nothing is "", and a whole number has no decimals."""
    if cell is None or cell != cell:  # NaN
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell)


# Listing ----------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """What all tables say together: images by path, the dropped ones, and every fault."""

    entries: dict[str, Entry] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def list_from_tables(folder: Folder, tables: list[str], data: Data) -> tuple[list[Entry], set[str]]:
    """Return the images that tables list, and the paths that data.keep leaves out.

    Raises DataError with all faults at once.
    """
    said = _Rows()
    for name in tables:
        table = folder.table(name)
        said.columns |= set(table.columns)
        _join(said, list(_rows(folder, table, name, data, said)), name)
    said.faults += asked_in_vain(data, said.columns, "no table has the column")
    if said.faults:
        raise DataError(say_faults("the tables have", said.faults))
    kept = [
        Entry(entry.path, entry.patient, chosen_labels(entry.labels, data))
        for entry in said.entries.values()
        if entry.path not in said.dropped
    ]
    return list(expand(folder.raw, kept, data)), said.dropped


def _rows(
    folder: Folder, table: pd.DataFrame, name: str, data: Data, said: _Rows
) -> Iterator[Entry]:
    needed = [column for column in (data.path_column, data.patient_column) if column]
    absent = [column for column in needed if column not in table.columns]
    if absent:
        said.faults.append(
            f"{name}: no column {' and '.join(map(repr, absent))}; {say_columns(table.columns)}"
        )
        return
    keep = {column: data.keep[column] for column in data.keep if column in table.columns}
    wanted = [column for column in data.label_columns if column in table.columns]
    for line, row in enumerate(rows_of(table), start=2):
        path = locate(folder, posixpath.dirname(name), row[data.path_column], data.path_format)
        if path is None:
            said.faults.append(f"{name} line {line}: the path is empty or leads out of the folder")
            continue
        if not is_kept(row, keep):
            said.dropped.add(path)
            continue
        labels = {column: row[column] for column in wanted if row[column]}
        patient = row[data.patient_column] if data.patient_column else None
        yield Entry(path, patient or None, labels)


def locate(folder: Folder, base: str, cell: str, form: str) -> str | None:
    """Return the path that a cell stands for, None where it is empty or leads out of the folder.

    A form that ends in ".*" takes the ending of the image that is there.
    """
    if not cell:
        return None
    path = inside(base, form.replace("{}", cell).replace("\\", "/"))
    if path is None or not path.endswith(ANY_SUFFIX):
        return path
    wanted = path.removesuffix(ANY_SUFFIX)
    near = folder.by_stem.get(posixpath.basename(wanted), ())
    found = (one for one in near if posixpath.join(posixpath.dirname(one), stem_of(one)) == wanted)
    return next(found, path)


def inside(folder: str, path: str) -> str | None:
    """Return a path in a table relative to the raw folder, None where it leads out of it."""
    joined = posixpath.normpath(posixpath.join(folder, path))
    outside = joined == ".." or joined.startswith(("../", "/")) or path[1:2] == ":"
    return None if outside or not path else joined


def _join(said: _Rows, entries: Iterable[Entry], name: str) -> None:
    """Add one table's entries to the others'; an image in two tables must be the same in both."""
    seen: set[str] = set()
    for entry in entries:
        if entry.path in seen:
            said.faults.append(f"{name}: {entry.path} is listed twice")
        seen.add(entry.path)
        other = said.entries.get(entry.path, entry)
        said.faults += _contradictions(entry, other)
        labels = {**other.labels, **entry.labels}
        said.entries[entry.path] = Entry(entry.path, entry.patient or other.patient, labels)


def _contradictions(entry: Entry, other: Entry) -> Iterator[str]:
    if None not in (entry.patient, other.patient) and entry.patient != other.patient:
        yield f"{entry.path}: two tables disagree on its patient"
    for name in sorted(entry.labels.keys() & other.labels.keys()):
        if entry.labels[name] != other.labels[name]:
            yield f"{entry.path}: two tables disagree on {name}"
