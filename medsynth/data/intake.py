"""The first stage: a raw folder to a cohort, with a list of what was refused and why.

    list -> look -> read each file that is new -> pseudonyms -> duplicates

The order of the result is that of the sorted paths, however many processes read, and what comes
out is the same whether all was read at once, after a kill, or as the folder grew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import domains
from ..cohort import Cohort, Origin, Record
from ..protocol import Protocol
from ..runtime import digest_json, versions, write_json
from .account import Account, Intake
from .badimage import BadImage
from .deidentify import pseudonym
from .dicom_facts import check_retained
from .duplicates import Links, find_links, write_links
from .journal import PIXELS, Form, Journal
from .layouts import Entry, Listing, find_images
from .original import Known, Look, Steady, known_by, look_at
from .pool import read_all
from .preparation import File, Reading
from .worker import Limits, Lost

# Knobs that choose and name images; no other knob of `data` may change without reading all again.
CHOOSING = (
    "layout", "tables", "path_column", "path_format", "patient_column", "keep", "max_bad_share",
    "duplicate_correlation",
)  # fmt: skip
# Packages on which pixels and verdicts depend: with another version of one, all is read again.
DECODERS = (
    "torch", "monai", "numpy", "scipy", "scikit-image", "pillow", "tifffile", "imagecodecs",
    "nibabel", "h5py", "pydicom", "dicom-anonymizer", "pylibjpeg", "pylibjpeg-openjpeg",
    "pylibjpeg-rle", "python-gdcm", "pyjpegls", "openslide-python", "openslide-bin",
    "rapidocr-onnxruntime",
)  # fmt: skip
# What the machine could not do today, it may do tomorrow.
READ_AGAIN = ("codec missing", "took too long", "took too much memory", "crashed the decoder")
SLIDE_TIMES = 100  # a whole slide may take so many times as long as another file
TEXT_TIMES = 10  # and so many times as long where text is looked for in images


def ingest(
    raw: Path,
    workspace: Path,
    protocol: Protocol,
    secret: bytes,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    earlier: Path | None = None,
    workers: int | None = None,
    listing: Listing | None = None,
    origin: Origin = "real",
) -> Intake:
    """Write the raw folder's cohort and what is said of it into `workspace`.

    That is quarantine.csv, audit.csv, duplicates.csv and intake.json. `progress` is told (files
    done, files). Of files that an interrupted call left in `workspace`, or that a finished one
    wrote to `earlier`, only what is new or changed is read. `workers` processes read, by default
    one a core; 0 reads in this process, without limits. `listing` says which images there are,
    by default as data says, and `origin` what they are. Raises DataError where the tables have
    faults, or where more than data.max_bad_share of the files are bad; quarantine.csv is there
    by then.
    """
    listing = listing or find_images(raw, protocol.data)
    entries = listing.entries
    _check_labels(entries, protocol)
    known = [_known(raw, entry, secret) for entry in entries]
    wanted = [item for item in known if isinstance(item, Known)]
    with (
        Account(workspace, secret, origin) as account,
        Journal(workspace, _form(protocol), wanted, earlier=earlier, never=READ_AGAIN) as journal,
        closing(_read(raw, entries, known, journal, protocol, workers)) as files,
    ):
        for done, (entry, item) in enumerate(zip(entries, known, strict=True), start=1):
            account.add(entry, _said(entry, item, journal, files, secret))
            progress(done, len(entries))
        account.stop_if_too_bad(protocol)
        journal.finish()
    pixels = np.load(workspace / PIXELS, mmap_mode="r")
    links = find_links(pixels, correlation=protocol.data.duplicate_correlation)
    write_links(workspace / "duplicates.csv", account.records, links)
    cohort = Cohort(protocol.domain, _linked(account.records, links), pixels)
    cohort.write(workspace)
    intake = account.describe(cohort, listing, featureless=links.featureless)
    write_json(workspace / "intake.json", asdict(intake))
    return intake


# What need not be read again --------------------------------------------------------------------


def _form(protocol: Protocol) -> Form:
    """By what settings and versions files are read, and what an image of the cohort is."""
    data = {name: knob for name, knob in protocol.section("data").items() if name not in CHOOSING}
    sections = ("domain", "image", "slides", "deidentify", "seed")
    settings = {"data": data, **{name: protocol.section(name) for name in sections}}
    side, channels = protocol.image.size_px, domains.domain(protocol.domain).channels
    return Form(
        reading=digest_json([settings, versions(DECODERS)]),
        shape=(side, side, channels),
        dtype="uint8" if protocol.image.bits == 8 else "uint16",
    )


def _check_labels(entries: Sequence[Entry], protocol: Protocol) -> None:
    """What no table gives is asked of DICOM headers, where the profile may have taken it out."""
    given = {name for entry in entries for name in entry.labels}
    late = [name for name in protocol.data.label_columns if name not in given]
    check_retained(late, protocol.deidentify)


def _known(raw: Path, entry: Entry, secret: bytes) -> Known | BadImage:
    try:
        return known_by(secret, entry, look_at(raw, entry.path))
    except BadImage as error:
        return error


# Reading ----------------------------------------------------------------------------------------


def _read(
    raw: Path,
    entries: Sequence[Entry],
    known: Sequence[Known | BadImage],
    journal: Journal,
    protocol: Protocol,
    workers: int | None,
) -> Iterator[tuple[Look | None, File] | Lost]:
    """Yield what reading gives, in order, for all files that have to be read."""
    new = (
        entry
        for entry, item in zip(entries, known, strict=True)
        if isinstance(item, Known) and not journal.has(item)
    )
    data = protocol.data
    yield from read_all(
        Steady(raw, Reading(raw, protocol)),
        new,
        limits=Limits(data.max_seconds, data.max_memory_gib),
        workers=workers,
        patience=_Patience(raw, protocol),
    )


@dataclass(frozen=True)
class _Patience:
    """How long a file may take: a whole slide is read in as many parts as there are tiles, and
    to look for text takes longer than to read."""

    raw: Path
    protocol: Protocol

    def __call__(self, entry: Entry) -> float:
        seconds = self.protocol.data.max_seconds
        if self._is_slide(entry):
            return seconds * SLIDE_TIMES
        screened = self.protocol.deidentify.text_screen != "off"
        return seconds * TEXT_TIMES if screened else seconds

    def _is_slide(self, entry: Entry) -> bool:
        from .slide_files import is_slide

        try:
            look_at(self.raw, entry.path)
            return is_slide(self.raw / entry.path)
        except (BadImage, OSError):
            return False


def _said(
    entry: Entry,
    known: Known | BadImage,
    journal: Journal,
    files: Iterator[tuple[Look | None, File] | Lost],
    secret: bytes,
) -> dict[str, Any]:
    """Return what there is to say of the next entry; its images are in the journal by then."""
    if isinstance(known, BadImage):
        return _facts(File(known.reason, known.detail), entry, secret)
    if journal.has(known):
        return journal.take(known)
    result = next(files)
    look, file = (None, File(result.reason, result.detail)) if isinstance(result, Lost) else result
    facts = _facts(file, entry, secret)
    if look is not None:
        journal.add(known_by(secret, entry, look), facts, file.pixels)
    return facts


def _facts(file: File, entry: Entry, secret: bytes) -> dict[str, Any]:
    """Return all that a File says but its pixels, without a name in it."""
    facts = asdict(replace(file, pixels=None))
    own = file.patient if entry.patient is None else ""  # else the table says, and may be mended
    facts["patient"] = pseudonym(secret, "patient", own) if own else ""
    return facts


def _linked(records: Sequence[Record], links: Links) -> tuple[Record, ...]:
    groups = links.groups.tolist()
    return tuple(replace(record, link=n) for record, n in zip(records, groups, strict=True))
