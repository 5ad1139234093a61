"""The first stage: a raw folder to a cohort, with a list of what was refused and why.

    list -> prepare each file -> pseudonyms -> duplicates

The order of the result is that of the sorted paths, however many processes read.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median_low
from typing import Any

import numpy as np

from .. import domains
from ..cohort import Cohort, Record
from ..errors import DataError
from ..protocol import Protocol
from ..runtime import write_json, write_text
from .deidentify import pseudonym
from .layouts import Entry, Listing, find_images
from .preparation import File, Reading

FILES_A_WORKER, MOST_WORKERS = 1000, 16


@dataclass(frozen=True)
class Intake:
    """What came in, as intake.json says it; nothing in it names a patient.

    `files` were listed, `bad` of them refused (`reasons` counts why, files that a table names but
    that don't exist included), `unlisted` are image files that no table names. `patients` is None
    where no patient is known. Sizes are (smallest, median, largest) in pixels of the files.
    """

    files: int
    bad: int
    reasons: dict[str, int]
    missing: int
    unlisted: int
    tables: tuple[str, ...]
    images: int
    flat_tiles: int
    patients: int | None
    images_of_unknown_patients: int
    labels: dict[str, dict[str, int]]
    height_px: tuple[int, int, int]
    width_px: tuple[int, int, int]
    duplicate_groups: int
    duplicate_images: int
    patients_joined_by_duplicates: int

    @property
    def summary(self) -> str:
        """Two or three sentences for people."""
        who = f"{self.patients} patients" if self.patients is not None else "no patient known"
        text = f"{self.images} images of {self.files - self.bad} files, {who}."
        if self.bad:
            text += f" {self.bad} files were refused ({_commonest(self.reasons)})."
        if self.unlisted:
            text += f" {self.unlisted} image files are named by no table and were left out."
        if self.duplicate_images:
            text += (
                f" {self.duplicate_images} images are duplicates of one another, in "
                f"{self.duplicate_groups} groups that stay together."
            )
        return text


def ingest(
    raw: Path,
    workspace: Path,
    protocol: Protocol,
    secret: bytes,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    workers: int | None = None,
) -> Intake:
    """Write the raw folder's cohort, quarantine.csv and intake.json into `workspace`.

    `progress` is told (files done, files). `workers` processes read, by default one a core
    where that pays; what comes out is the same. Raises DataError where the tables have faults,
    or where more than data.max_bad_share of the files are bad; quarantine.csv is there by then.
    """
    listing = find_images(raw, protocol.data)
    scratch = workspace / "pixels.part"
    files = _read_all(raw, listing, protocol, progress, workers)
    records, quarantine, notes = _collect(listing, files, protocol, secret, scratch)
    _write_quarantine(workspace / "quarantine.csv", quarantine)
    _stop_if_too_bad(quarantine, listing, protocol, workspace)
    cohort = _link(_open(records, scratch, protocol), protocol)
    cohort.write(workspace)
    intake = _describe(cohort, listing, quarantine, notes)
    write_json(workspace / "intake.json", asdict(intake))
    scratch.unlink()
    return intake


# All files --------------------------------------------------------------------------------------


def _read_all(
    raw: Path, listing: Listing, protocol: Protocol, progress: Callable, workers: int | None
) -> Iterator[File]:
    reading = Reading(raw, protocol)
    total = len(listing.entries)
    workers = workers or _worthwhile_workers(total)
    if workers == 1:
        results = map(reading, listing.entries)
        yield from _counted(results, total, progress)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from _counted(pool.map(reading, listing.entries, chunksize=32), total, progress)


def _worthwhile_workers(files: int) -> int:
    """A process needs seconds to start, in which another reads a thousand files."""
    return max(1, min(os.cpu_count() or 1, MOST_WORKERS, files // FILES_A_WORKER))


def _counted(results: Iterator[File], total: int, progress: Callable) -> Iterator[File]:
    for done, result in enumerate(results, start=1):
        yield result
        progress(done, total)


def _collect(
    listing: Listing, files: Iterator[File], protocol: Protocol, secret: bytes, scratch: Path
) -> tuple[list[Record], list[tuple[str, str, str]], dict[str, Any]]:
    """Write pixels one after another into `scratch`; return records, quarantine and counts."""
    records: list[Record] = []
    quarantine: list[tuple[str, str, str]] = []
    sizes: list[tuple[int, int]] = []
    flat = 0
    with scratch.open("wb") as out:
        for number, (entry, file) in enumerate(zip(listing.entries, files, strict=True), start=1):
            if file.pixels is None:
                quarantine.append((entry.path, file.reason, file.detail))
                continue
            out.write(np.ascontiguousarray(file.pixels).tobytes())
            records += _records(number, entry, file, secret)
            sizes.append(file.size)
            flat += file.flat
    return records, quarantine, {"sizes": sizes, "flat": flat}


def _records(number: int, entry: Entry, file: File, secret: bytes) -> Iterator[Record]:
    patient = pseudonym(secret, "patient", file.patient) if file.patient else ""
    source = pseudonym(secret, "source", entry.path)
    for tile in file.tiles:
        name = f"real-{number:06d}" + (f"-{tile:03d}" if tile else "")
        yield Record(id=name, origin="real", patient=patient, labels=entry.labels, source=source)


def _open(records: list[Record], scratch: Path, protocol: Protocol) -> Cohort:
    if not records:
        raise DataError("no image is left: all files are bad, and quarantine.csv says why")
    side = protocol.image.size_px
    channels = domains.domain(protocol.domain).channels
    dtype = np.uint8 if protocol.image.bits == 8 else np.uint16
    shape = (len(records), side, side, channels)
    return Cohort(protocol.domain, tuple(records), np.memmap(scratch, dtype, "r", shape=shape))


def _link(cohort: Cohort, protocol: Protocol) -> Cohort:
    from .duplicates import link_duplicates

    links = link_duplicates(cohort.pixels, correlation=protocol.data.duplicate_correlation)
    records = [
        replace(record, link=link)
        for record, link in zip(cohort.records, links.tolist(), strict=True)
    ]
    return replace(cohort, records=tuple(records))


# What is said of it -----------------------------------------------------------------------------


def _write_quarantine(path: Path, rows: list[tuple[str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "reason", "detail"))
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _stop_if_too_bad(quarantine: list, listing: Listing, protocol: Protocol, folder: Path) -> None:
    total, limit = len(listing.entries), protocol.data.max_bad_share
    if len(quarantine) <= limit * total:
        return
    reasons = _commonest(Counter(reason for _, reason, _ in quarantine))
    raise DataError(
        f"{len(quarantine)} of {total} files can't be used ({reasons}); data.max_bad_share allows "
        f"{limit:g}. {folder.name}/quarantine.csv names every file and why: mend or remove them, "
        f"or raise data.max_bad_share"
    )


def _commonest(reasons: dict[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered[:3])


def _describe(cohort: Cohort, listing: Listing, quarantine: list, notes: dict) -> Intake:
    names = [record.patient for record in cohort.records]
    links = [record.link for record in cohort.records]
    patients = len(set(names) - {""})
    return Intake(
        files=len(listing.entries),
        bad=len(quarantine),
        reasons=dict(sorted(Counter(reason for _, reason, _ in quarantine).items())),
        missing=len(listing.missing),
        unlisted=listing.unlisted,
        tables=listing.tables,
        images=len(cohort),
        flat_tiles=notes["flat"],
        patients=patients or None,
        images_of_unknown_patients=names.count(""),
        labels=_label_counts(cohort),
        height_px=_range([height for height, _ in notes["sizes"]]),
        width_px=_range([width for _, width in notes["sizes"]]),
        duplicate_groups=len(set(links) - {-1}),
        duplicate_images=len(links) - links.count(-1),
        patients_joined_by_duplicates=_joined(cohort),
    )


def _label_counts(cohort: Cohort) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = {}
    for record in cohort.records:
        for name, value in record.labels.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _range(values: list[int]) -> tuple[int, int, int]:
    return min(values), median_low(values), max(values)


def _joined(cohort: Cohort) -> int:
    """How many named patients share a group of duplicates with another named patient."""
    groups: dict[int, set[str]] = {}
    for record in cohort.records:
        if record.link >= 0 and record.patient:
            groups.setdefault(record.link, set()).add(record.patient)
    return len(set().union(*(names for names in groups.values() if len(names) > 1)))
