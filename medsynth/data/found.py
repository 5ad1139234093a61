"""Which images a first protocol would take from a raw folder, and what is known of them."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import DataError
from ..protocol import Data
from .columns import FEWEST, MOST, TableGuess
from .layouts import named
from .layouts.folder import Folder
from .layouts.folders import FOLDER_ATTRIBUTE, MOST_FOLDERS, folder_label
from .layouts.layout import Layout
from .layouts.listing import Entry, is_kept
from .layouts.members import expand, without_parts
from .layouts.tables import list_from_tables, locate

if TYPE_CHECKING:
    import pandas as pd

DEFAULTS = Data()  # how volumes are cut before anybody said otherwise


@dataclass(frozen=True)
class Found:
    """The images that a first protocol would take.

    `patients` is None where no patient is known, `nameless` counts the images of unknown ones, and
    `patients_from` says who knows them.
    `labels` counts values by attribute, of the attributes that a first protocol would take;
    `further` are the others. `layout` is the public set that it is, and `keep` what of it is
    taken. `left_out` counts the images that are not, `missing` those that are named and not there,
    `unlisted` image files that nothing names. `faults` are what ingest would stop at, in words.
    """

    entries: tuple[Entry, ...] = field(repr=False)  # they name patients
    patients: int | None = None
    nameless: int = 0
    patients_from: str = ""
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    layout: Layout | None = None
    keep: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left_out: int = 0
    missing: int = 0
    unlisted: int = 0
    faults: str = ""


def recognise(folder: Folder) -> Layout | None:
    """Return the public set that a folder is, None where it is none.

    Raises DataError where it looks like several.
    """
    found = named.detect(folder)
    if len(found) > 1:
        raise DataError(
            f"{folder.raw.name}/ looks like {' and '.join(one.title for one in found)}: give a "
            f"folder with one of them"
        )
    return found[0] if found else None


def of_layout(folder: Folder, layout: Layout) -> Found:
    """Find the images of a public set, those that its layout proposes to keep."""
    entries = named.read(folder, layout)
    there = [entry for entry in entries if entry.path in folder.existing]
    if not there:
        raise DataError(f"{layout.title}: its tables are here, but none of its images is")
    has = {name: None for entry in there for name in entry.labels}
    keep = {name: words for name, words in layout.keep.items() if name in has}
    kept = [entry for entry in there if is_kept(entry.labels, keep)] or there
    patients = {entry.patient for entry in kept} - {""}
    proposed = tuple(name for name in layout.propose if name in has)
    return Found(
        entries=tuple(kept),
        patients=len(patients) or None,
        nameless=sum(not entry.patient for entry in kept),
        patients_from=layout.patients,
        labels=_count_labels(kept, proposed),
        further=tuple(name for name in has if name not in proposed),
        layout=layout,
        keep=keep if len(kept) < len(there) else {},
        left_out=len(there) - len(kept),
        missing=len({entry.path for entry in entries} - folder.existing),
        unlisted=folder.unlisted({entry.path for entry in there}),
    )


def of_tables(folder: Folder, tables: Sequence[tuple[pd.DataFrame, TableGuess]]) -> Found:
    """Find the images that tables of the same name list; the first table's columns count."""
    first = tables[0][1]
    name = posixpath.basename(first.path)
    listed = [(table, guess) for table, guess in tables if posixpath.basename(guess.path) == name]
    paths = {path for table, guess in listed for path in _paths(folder, table, guess)}
    there = sorted(paths & folder.existing)
    people = {c for table, g in listed if g.patient_column for c in table[g.patient_column] if c}
    counts: dict[str, Counter] = {}
    for table, guess in listed:
        for column in guess.label_columns:
            counts.setdefault(column, Counter()).update(c for c in table[column] if c)
    return Found(
        entries=tuple(expand(folder.raw, map(Entry, there), DEFAULTS)),
        patients=len(people) or None,
        patients_from="the tables",
        labels=_sorted(counts),
        missing=len(paths - folder.existing),
        unlisted=folder.unlisted(paths),
        faults=_faults(folder, [guess.path for _, guess in listed], first),
    )


def _paths(folder: Folder, table: pd.DataFrame, guess: TableGuess) -> Iterable[str]:
    base = posixpath.dirname(guess.path)
    cells = (locate(folder, base, c, guess.path_format) for c in table[guess.path_column])
    return (path for path in cells if path)


def _faults(folder: Folder, tables: list[str], guess: TableGuess) -> str:
    """What would be wrong with the tables if they were read as guessed."""
    data = Data(
        path_column=guess.path_column,
        path_format=guess.path_format,
        patient_column=guess.patient_column,
        label_columns=guess.label_columns,
    )
    try:
        list_from_tables(folder, tables, data)
    except DataError as error:
        return str(error)
    return ""


def of_folders(folder: Folder) -> Found:
    """Find all images of a folder without a table; folders may be labels."""
    images = without_parts(folder.raw, folder.images)
    folders = Counter(label for path in images if (label := folder_label(folder.raw, path)))
    few = FEWEST <= len(folders) <= MOST_FOLDERS
    return Found(
        entries=tuple(expand(folder.raw, map(Entry, images), DEFAULTS)),
        labels=_sorted({FOLDER_ATTRIBUTE: folders} if few else {}),
    )


def _count_labels(entries: Iterable[Entry], names: Sequence[str]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = {name: Counter() for name in names}
    for entry in entries:
        for name in names:
            if value := entry.labels.get(name):
                counts[name][value] += 1
    return _sorted({name: count for name, count in counts.items() if len(count) <= MOST})


def _sorted(counts: Mapping[str, Counter]) -> dict[str, dict[str, int]]:
    return {name: dict(sorted(count.items())) for name, count in counts.items()}
