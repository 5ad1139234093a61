"""A look at a raw folder before anything is done with it, and what it says to people.

Tables are read whole, of the images some hundred headers and a handful of pixels: enough to say
what there is and what it might be. All of it is a guess that a person corrects.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .columns import TableGuess, guess_columns, read_tables
from .dicom_facts import LABEL_KEYWORDS
from .found import Found, of_folders, of_layout, of_tables, recognise
from .layouts.folder import Folder
from .layouts.tables import say_columns
from .layouts.walk import SUFFIXES
from .look import SLIDE, UNDECLARED, Look, guess_domain, look

SHOWN_VALUES, SHOWN_NAMES = 6, 20
SMALL = 1200  # images, of which a draft's split leaves about half to train on


@dataclass(frozen=True)
class Survey:
    """What a raw folder holds: the images that a first protocol would take, how they look, all
    tables, and the domain with the reason for it."""

    folder: str
    found: Found
    look: Look
    tables: tuple[TableGuess, ...]
    domain: str
    domain_because: str

    @property
    def listing(self) -> TableGuess | None:
        """The table to go by, None where no table names files."""
        return next((table for table in self.tables if table.path_column), None)

    @property
    def is_small(self) -> bool:
        """Whether there are so few images that a network would learn them by heart in the time
        that a larger cohort takes; a whole slide is cut into hundreds."""
        return len(self.found.entries) < SMALL and SLIDE not in self.look.formats

    @property
    def patients(self) -> int | None:
        """How many patients there are, None where none is known; of DICOM files without a table,
        how many the headers that were read name."""
        if self.found.patients is not None or self.found.layout:
            return self.found.patients
        return self.look.patients or None

    def sentences(self) -> list[str]:
        """Say for people what was seen, one sentence a thing."""
        return [line for line in _sentences(self) if line]


def survey(raw: Path, tables: str = "labels.csv") -> Survey:
    """Look at a raw folder; `tables` is the name that its tables would have.

    A table of that name is a person's own word; without one a public data set is recognised by
    its layout. Raises DataError where there is no image, or where several public sets lie there.
    """
    folder = Folder.open(raw)
    if not folder.images:
        raise DataError(f"no image in {raw.name}/: looked for files ending in {' '.join(SUFFIXES)}")
    layout = None if folder.named(tables) else recognise(folder)
    guesses: tuple[TableGuess, ...] = ()
    if layout:
        found = of_layout(folder, layout)
    else:
        frames = list(read_tables(folder, tables))
        guesses = tuple(guess_columns(folder, name, frame) for name, frame in frames)
        pairs = [(frame, g) for (_, frame), g in zip(frames, guesses, strict=True) if g.path_column]
        found = of_tables(folder, pairs) if pairs else of_folders(folder)
    seen = look(folder, found.entries)
    domain = (
        (layout.domain_of(folder), "as the data set says")
        if layout
        else guess_domain(folder, found.entries, seen)
    )
    return Survey(raw.name, found, seen, guesses, *domain)


# For people -------------------------------------------------------------------------------------


def _sentences(s: Survey) -> Iterator[str]:
    if s.found.layout:
        yield f"{s.folder}/ is {s.found.layout.title} (data.layout: {s.found.layout.name})."
    yield from _about_images(s)
    yield from map(_about_table, s.tables)
    if not s.found.layout and not s.listing:
        yield "No table names image files, so every image file would be taken."
    if s.is_small:
        yield (
            f"Fewer than {SMALL:,} images: a network soon learns so few by heart (docs/few.md), so "
            "told, choose and patience stand under diffusion to hold it back."
        )
    yield s.found.faults and f"As they are, ingest would stop: {_one_line(s.found.faults)}."
    for name, counts in s.found.labels.items():
        yield f"{name}: {_top(counts)}."
    yield from _about_further_labels(s)
    yield _about_patients(s)
    if s.found.layout:
        yield from (*s.found.layout.limits, *s.found.layout.notes)
        yield f"Source: {s.found.layout.source}. Licence: {s.found.layout.licence}."
    else:
        yield f"A guess, for {s.domain_because}: {s.domain}."


def _about_images(s: Survey) -> Iterator[str]:
    seen, found = s.look, s.found
    kinds = ", ".join(f"{count} {name}" for name, count in seen.formats.items())
    yield f"{len(found.entries)} images in {s.folder}/; of the {seen.headers} looked at: {kinds}."
    if SLIDE in seen.formats:
        yield (
            "Of each whole slide slides.tiles tiles of tissue would be taken, image.tile_px wide "
            "at slides.um_per_px."
        )
    if UNDECLARED in seen.formats:
        yield (
            "Volumes without a range of values are refused until data.window says which values are "
            "black and white: [-160, 240] shows soft tissue on CT."
        )
    if found.left_out:
        words = "; ".join(f"{n} {' or '.join(w)}" for n, w in found.keep.items())
        yield f"{found.left_out} more are left out by data.keep, which takes {words}."
    if found.missing:
        yield f"{found.missing} more are named by the tables and are not there."
    if found.unlisted:
        yield f"{found.unlisted} more image files are named by nothing and would be left out."
    if seen.unreadable:
        yield f"{seen.unreadable} of {seen.headers} headers can't be read."
    depth = " and ".join(map(str, seen.bits))
    colour = seen.headers - seen.unreadable - seen.grey
    if seen.bits:
        yield (
            f"Width {_span(seen.width_px)} px, height {_span(seen.height_px)} px, {depth} bits; "
            f"{seen.grey} stored as grey, {colour} as colour."
        )
    if seen.modalities:
        yield "DICOM modalities: " + ", ".join(f"{n} {m}" for m, n in seen.modalities.items()) + "."


def _span(values: tuple[int, int, int]) -> str:
    low, middle, high = values
    return str(low) if low == high else f"{low} to {high} (median {middle})"


def _about_table(table: TableGuess) -> str:
    text = f"Table {table.path}: {table.rows} rows, {say_columns(table.columns)}"
    if table.path_column is None:
        return text + "; no column names files that are there."
    by = "" if table.path_format == "{}" else f", as {table.path_format}"
    return text + f"; {table.path_column} names the files{by}."


def _about_further_labels(s: Survey) -> Iterator[str]:
    if s.found.further:
        yield f"data.label_columns may also name {_some(s.found.further)}."
    elif not s.listing and "DICOM" in s.look.formats and not s.found.layout:
        yield f"data.label_columns may name what the headers say: {_some(tuple(LABEL_KEYWORDS))}."


def _about_patients(s: Survey) -> str:
    if s.patients is None:
        return (
            "No patient is known: each file would count as a patient of its own, and what can be "
            "said is about images, not about people."
        )
    if s.found.patients is None:
        return f"{s.patients} patients, as the DICOM headers that were looked at say."
    rest = f"; of {s.found.nameless} images none is known" if s.found.nameless else ""
    return f"{s.patients} patients, known by {s.found.patients_from}{rest}."


def _top(counts: Mapping[str, int]) -> str:
    top = sorted(counts.items(), key=lambda item: -item[1])
    more = ", ..." if len(top) > SHOWN_VALUES else ""
    return ", ".join(f"{value} ({count})" for value, count in top[:SHOWN_VALUES]) + more


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines())
