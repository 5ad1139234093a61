"""What is said of an intake: which files were refused and why, what was taken out, what came in.

quarantine.csv   the files that can't be used, by name: it stays inside
audit.csv        one line a file: what was removed from it, in counts; no name of anything
intake.json      the whole in numbers
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median_low
from typing import Any

from ..cohort import Cohort, Origin, Record, csv_line
from ..errors import DataError
from ..protocol import Protocol
from .confidentiality import Audit
from .deidentify import pseudonym
from .layouts import Entry, Listing
from .layouts.walk import ARRAYS, SUFFIXES, suffix_of

AUDITED = tuple(field.name for field in fields(Audit))


@dataclass(frozen=True)
class Intake:
    """What came in, as intake.json says it; nothing in it names a patient.

    `files` were listed, `bad` of them refused (`reasons` counts why, files that a table names but
    that don't exist included), `unlisted` are image files that no table names. `formats` counts
    files by their endings, whatever is in them. `layout` says by what they were listed, `caveats`
    what the data set does not know. `patients` is None where no patient is known. Sizes are
    (smallest, median, largest) in pixels of the files. `deidentified` sums up audit.csv. Of the
    `featureless_images` only exact duplicates are known.
    """

    files: int
    bad: int
    reasons: dict[str, int]
    missing: int
    unlisted: int
    formats: dict[str, int]
    layout: str
    tables: tuple[str, ...]
    caveats: tuple[str, ...]
    images: int
    flat_tiles: int
    patients: int | None
    images_of_unknown_patients: int
    labels: dict[str, dict[str, int]]
    height_px: tuple[int, int, int]
    width_px: tuple[int, int, int]
    deidentified: dict[str, int]
    featureless_images: int
    duplicate_groups: int
    duplicate_images: int
    patients_joined_by_duplicates: int

    @property
    def summary(self) -> str:
        """A few sentences for people."""
        return " ".join(line for line in _sentences(self) if line)


class Account:
    """Counts what comes in while it comes, and writes both lists line by line.

    Paths are written so that they can be read back: as CSV quotes them, a backslash doubled, and
    a byte that is no text as \\udcff. The source in audit.csv is a keyed hash of the path.
    """

    def __init__(self, folder: Path, secret: bytes, origin: Origin = "real"):
        self.folder, self.secret, self.origin = folder, secret, origin
        self.records: list[Record] = []
        self.reasons: Counter[str] = Counter()
        self.deidentified: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.last = ""
        self.heights, self.widths = array("q"), array("q")
        self.files = self.flat = 0

    def __enter__(self) -> Account:
        self.quarantine = (self.folder / "quarantine.csv").open("w", encoding="utf-8", newline="")
        self.audit = (self.folder / "audit.csv").open("w", encoding="utf-8", newline="")
        self.quarantine.write(csv_line(("path", "reason", "detail", "member")))
        self.audit.write(csv_line(("source", "member", "outcome", "images", *AUDITED)))
        return self

    def __exit__(self, *_: object) -> None:
        self.quarantine.close()
        self.audit.close()

    def add(self, entry: Entry, said: Mapping[str, Any]) -> None:
        """Count one entry by what was said of it: a File without pixels, its patient keyed."""
        self.files += 1
        if entry.path != self.last:  # images of one file follow one another
            self.last, ending = entry.path, suffix_of(entry.path)
            self.formats[ending if ending in SUFFIXES else "other"] += 1
        source = pseudonym(self.secret, "source", _place(entry))
        self._write_audit(source, entry, said)
        if said["reason"]:
            self.reasons[said["reason"]] += 1
            row = (written(entry.path), said["reason"], said["detail"], entry.member)
            self.quarantine.write(csv_line("" if cell is None else cell for cell in row))
            return
        self.records += self._records(source, entry, said)
        self.heights.append(said["size"][0])
        self.widths.append(said["size"][1])
        self.flat += said["flat"]

    def _records(self, source: str, entry: Entry, said: Mapping[str, Any]) -> Iterator[Record]:
        patient = said["patient"]
        if entry.patient is not None:
            patient = pseudonym(self.secret, "patient", entry.patient) if entry.patient else ""
        labels = {**said["labels"], **entry.labels}
        labels = {name: written(value) for name, value in labels.items()}
        for tile in said["tiles"]:
            name = f"{self.origin}-{self.files:06d}" + (f"-{tile:03d}" if tile else "")
            yield Record(name, self.origin, patient, labels, source)

    def _write_audit(self, source: str, entry: Entry, said: Mapping[str, Any]) -> None:
        audit = said.get("audit") or {}
        cells = [audit.get(name, "") for name in AUDITED]
        self.deidentified.update({name: n for name, n in audit.items() if isinstance(n, int)})
        member = "" if entry.member is None else entry.member
        shown = [cell if isinstance(cell, int | str) else "; ".join(cell) for cell in cells]
        outcome = said["reason"] or "read"
        self.audit.write(csv_line((source, member, outcome, len(said["tiles"]), *shown)))

    def stop_if_too_bad(self, protocol: Protocol) -> None:
        """Raise DataError where more files are bad than data.max_bad_share allows, or all are."""
        bad, limit = self.reasons.total(), protocol.data.max_bad_share
        if bad > limit * self.files:
            raise DataError(
                f"{bad} of {self.files} files can't be used ({_commonest(self.reasons)}); "
                f"data.max_bad_share allows {limit:g}. {self.folder.name}/quarantine.csv names "
                f"every file and why: mend or remove them, or raise data.max_bad_share; "
                f"what was read is kept"
            )
        if not self.records:
            raise DataError("no image is left: all files are bad, and quarantine.csv says why")

    def describe(self, cohort: Cohort, listing: Listing, *, featureless: int) -> Intake:
        """Return the whole in numbers."""
        names = [record.patient for record in cohort.records]
        links = [record.link for record in cohort.records]
        return Intake(
            files=self.files,
            bad=self.reasons.total(),
            reasons=dict(sorted(self.reasons.items())),
            missing=len(listing.missing),
            unlisted=listing.unlisted,
            formats=dict(sorted(self.formats.items())),
            layout=listing.layout,
            tables=tuple(map(written, listing.tables)),
            caveats=listing.caveats,
            images=len(cohort),
            flat_tiles=self.flat,
            patients=len(set(names) - {""}) or None,
            images_of_unknown_patients=names.count(""),
            labels=_label_counts(cohort),
            height_px=_range(self.heights),
            width_px=_range(self.widths),
            deidentified=dict(sorted(self.deidentified.items())),
            featureless_images=featureless,
            duplicate_groups=len(set(links) - {-1}),
            duplicate_images=len(links) - links.count(-1),
            patients_joined_by_duplicates=_joined(cohort),
        )


def written(name: str) -> str:
    """Return a file's name as text that any file can hold, and from which it can be had back."""
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def _sentences(intake: Intake) -> Iterator[str]:
    who = f"{intake.patients} patients" if intake.patients is not None else "no patient known"
    yield f"{intake.images} images of {intake.files - intake.bad} files, {who}."
    if intake.bad:
        were = "file was" if intake.bad == 1 else "files were"
        yield f"{intake.bad} {were} refused ({_commonest(intake.reasons)})."
    if intake.unlisted:
        yield f"{intake.unlisted} image files are named by no table and were left out."
    if intake.duplicate_images:
        yield (
            f"{intake.duplicate_images} images are duplicates of one another, in "
            f"{intake.duplicate_groups} groups that stay together."
        )
    yield from intake.caveats


def _place(entry: Entry) -> str:
    """What shows one person: a file, but of an array of images each one."""
    many = suffix_of(entry.path) in ARRAYS
    return f"{entry.path}#{entry.member}" if many else entry.path


def _commonest(reasons: Mapping[str, int]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered[:3])


def _label_counts(cohort: Cohort) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = {}
    for record in cohort.records:
        for name, value in record.labels.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: dict(sorted(counts[name].items())) for name in sorted(counts)}


def _range(values: Sequence[int]) -> tuple[int, int, int]:
    return min(values), median_low(values), max(values)


def _joined(cohort: Cohort) -> int:
    """How many named patients share a group of duplicates with another named patient."""
    groups: dict[int, set[str]] = {}
    for record in cohort.records:
        if record.link >= 0 and record.patient:
            groups.setdefault(record.link, set()).add(record.patient)
    return len(set().union(*(names for names in groups.values() if len(names) > 1)))
