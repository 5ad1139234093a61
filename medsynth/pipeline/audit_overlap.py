"""The stage `overlap` of an audit, and the sides of the comparison without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort, Record, csv_line
from ..runtime import derive_seed, read_json, write_json, write_text
from .audit_study import PARTS, WORDS, Folders, listing
from .run import Run

if TYPE_CHECKING:
    from ..data.loader import Frames
    from ..data.overlap import Matches, Overlap

HEADER = ("what", "first", "second", "correlation")


@dataclass(frozen=True)
class Sides:
    """What is compared: the held-out side without what overlaps with the training side."""

    train: Cohort
    holdout: Cohort
    synthetic: Cohort

    @cached_property
    def real(self) -> Cohort:
        """All real images: the training side, then the held-out one."""
        links = max((record.link for record in self.train.records), default=-1) + 1
        records = [
            *(replace(record, id=f"train-{record.id}") for record in self.train.records),
            *(_moved(record, links) for record in self.holdout.records),
        ]
        pixels = np.concatenate([self.train.pixels, self.holdout.pixels])
        return Cohort(self.train.domain, tuple(records), pixels)

    @property
    def parts(self) -> np.ndarray:
        """(N,) words: on which side each of the real images is."""
        return np.repeat(["train", "holdout"], [len(self.train), len(self.holdout)])

    def frames(self, seed: int) -> Frames:
        """Return all real images in random order, so that nothing says which is which."""
        from ..data.loader import Frames

        order = np.random.default_rng(derive_seed(seed, "audit")).permutation(len(self.real))
        return Frames(self.real, order)


def _moved(record: Record, links: int) -> Record:
    link = record.link + links if record.link >= 0 else -1
    return replace(record, id=f"holdout-{record.id}", link=link)


def read_sides(run: Run) -> Sides:
    """Open the three cohorts, without the held-out images that `find` took out."""
    train, holdout, synthetic = (Cohort.read(run.folder / part) for part in PARTS)
    out = set(read_json(run.folder / "overlap" / "overlap.json")["taken_out"])
    kept = [i for i, record in enumerate(holdout.records) if record.id not in out]
    return Sides(train, holdout.take(kept) if out else holdout, synthetic)


def find(run: Run, folders: Folders, workspace: Path) -> None:
    """Write overlap.json, which counts, and overlap.csv, which names the files."""
    from ..data.overlap import find_overlap

    cohorts = {part: Cohort.read(run.folder / part) for part in PARTS}
    found = find_overlap(*cohorts.values(), correlation=run.protocol.data.duplicate_correlation)
    taken = [cohorts["holdout"].records[i].id for i in np.flatnonzero(~found.kept)]
    patients = np.unique(cohorts["holdout"].patients[~found.kept])
    facts = {
        "images": {part: len(cohort) for part, cohort in cohorts.items()},
        "patients_on_both_sides": len(found.shared_patients),
        "holdout_in_train": found.holdout_in_train.counts,
        "holdout_patients_taken_out": len(patients),
        "synthetic_in_train": found.synthetic_in_train.counts,
        "synthetic_in_holdout": found.synthetic_in_holdout.counts,
        "taken_out": taken,
    }
    rows = [HEADER, *_rows(run, folders, cohorts, found)]
    write_text(workspace / "overlap.csv", "".join(map(csv_line, rows)))
    write_json(workspace / "overlap.json", facts)


def _rows(
    run: Run, folders: Folders, cohorts: dict[str, Cohort], found: Overlap
) -> Iterator[tuple[str, str, str, str]]:
    """Yield one row an image that overlaps, and one for each of a patient's on both sides."""
    names = {part: _names(run, folders[part], part, cohorts[part]) for part in PARTS}
    pairs: list[tuple[str, str, Matches]] = [
        ("holdout", "train", found.holdout_in_train),
        ("synthetic", "train", found.synthetic_in_train),
        ("synthetic", "holdout", found.synthetic_in_holdout),
    ]
    for here, there, matches in pairs:
        for i in np.flatnonzero(matches.found):
            kind = "exact" if matches.exact[i] else "near"
            yield (
                f"{kind}: {WORDS[here]} image in {WORDS[there]} images",
                names[here][i],
                names[there][matches.other[i]],
                f"{matches.correlation[i]:.3f}",
            )
    for part in ("train", "holdout"):
        for i, record in enumerate(cohorts[part].records):
            if record.patient in found.shared_patients:
                yield "patient on both sides", names[part][i], record.patient, ""


def name_quarantined(run: Run, folders: Folders, synthetic: Cohort, private: Path) -> None:
    """Write quarantined_files.csv into `private`: the synthetic images that must not be shared."""
    from ..validation.quarantine import remaining

    kept = {record.id for record in remaining(synthetic, private).records}
    names = _names(run, folders.synthetic, "synthetic", synthetic)
    pairs = zip(names, synthetic.records, strict=True)
    rows = [("path",), *((name,) for name, record in pairs if record.id not in kept)]
    write_text(private / "quarantined_files.csv", "".join(map(csv_line, rows)))


def _names(run: Run, raw: Path, part: str, cohort: Cohort) -> list[str]:
    """Return each image's path in the folder that it came from, as `part`/path."""
    from ..data.account import written
    from ..data.deidentify import pseudonym, read_or_make_secret

    secret = read_or_make_secret(run.folder / "site.key")
    paths = {entry.path for entry in listing(raw, run.protocol, part).entries}
    known = {pseudonym(secret, "source", path): written(path) for path in paths}
    return [f"{part}/{known.get(record.source, record.id)}" for record in cohort.records]
