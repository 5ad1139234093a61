"""What a raw folder is turned into: a list of images, each with its patient and its labels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...protocol import Data

SHOWN = 10  # faults in full; the rest is counted


@dataclass(frozen=True)
class Entry:
    """One image of a raw folder; `patient` is the hospital's own word and must not be written.

    Where no table says the patient it is None, and a DICOM file's own header is asked; it is ""
    where nobody knows, and then no header is asked either: what it says is known to be wrong.
    `member` is the number, from 0, of an image within a file of several; None takes the file.
    """

    path: str
    patient: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    member: int | None = None


@dataclass(frozen=True)
class Listing:
    """All images of a raw folder, sorted by path and member.

    `unlisted` counts image files that no table names, `missing` are paths that a table names and
    that don't exist, `tables` the tables that were read; all paths are relative to the raw folder.
    `layout` is a public data set's name, "tables" or "folders". `caveats` say in sentences what
    the data set does not know, and so what the evidence can't be about.
    """

    entries: tuple[Entry, ...]
    unlisted: int
    missing: tuple[str, ...]
    tables: tuple[str, ...]
    layout: str = ""
    caveats: tuple[str, ...] = ()

    @property
    def patients_known(self) -> bool:
        """True if every image's patient is named without asking its header."""
        return all(entry.patient for entry in self.entries)


def is_kept(values: Mapping[str, str], keep: Mapping[str, Sequence[str]]) -> bool:
    """Return True if an image's values are among those that data.keep asks for.

    What is not known is ""; an image whose value is not known is kept only where "" is asked for.
    """
    return all(values.get(name, "") in wanted for name, wanted in keep.items())


def chosen_labels(values: Mapping[str, str], data: Data) -> dict[str, str]:
    """Return the labels that data.label_columns picks, in the words of data.rename.

    What is not known, or renamed to "", is left out.
    """
    picked = {name: values.get(name, "") for name in data.label_columns}
    said = {name: data.rename.get(name, {}).get(value, value) for name, value in picked.items()}
    return {name: value for name, value in said.items() if value}


def asked_in_vain(
    data: Data, known: Collection[str], lacks: str, *, headers: Collection[str] = ()
) -> Iterator[str]:
    """Yield a fault for each name that a knob asks for and that is not among the known ones.

    `lacks` begins the sentence: "no table has the column". `headers` are names of labels that
    come only when the files are read.
    """
    asked = {"data.label_columns": (data.label_columns, headers), "data.keep": (data.keep, ())}
    for knob, (names, later) in asked.items():
        for name in names:
            if name not in known and name not in later:
                yield f"{lacks} {name!r} that {knob} asks for"
    for name in data.rename:
        if name not in data.label_columns:
            yield f"data.rename has words for {name!r}, which is none of data.label_columns"


def say_faults(where: str, faults: Sequence[str]) -> str:
    """Return one message for all faults: ten in full, the others counted."""
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return "\n  ".join([f"{where} {count}", *faults[:SHOWN], *more])
