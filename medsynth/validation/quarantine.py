"""The image's test: which single images do not leave, whatever the gate says of the rest.

Each synthetic image gets a conformal p-value: how many held-out patients' images are as much
nearer to one training patient than to the next? Those at or under the protocol's rate are taken
out. The cohort's tests are made before that, on all images: a cohort that was cleaned of what a
search finds would always look innocent to that search. What remains is never filled up again.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import write_text
from . import Case
from .statistics import clopper_pearson, share_at_attempts

if TYPE_CHECKING:
    from .attack import Attack

FILE, MASKS = "quarantine.csv", "masks"
BEARABLE = 0.01  # share of innocent images that may go so that one more space can be looked at


@dataclass(frozen=True)
class Quarantine:
    """Each image's p-value, (N,), and whether it is taken out, (N,) bool.

    `rate` is the share of innocent images that is taken at most; above the protocol's where
    `held_out` images are too few to resolve that. `spaces` were looked at.
    """

    p: np.ndarray
    taken: np.ndarray
    rate: float
    held_out: int
    spaces: tuple[str, ...]

    @property
    def kept(self) -> np.ndarray:
        """The indices of the images that remain."""
        return np.flatnonzero(~self.taken)


def conformal_p(scores: np.ndarray, innocent: np.ndarray) -> np.ndarray:
    """Return (N,) p-values of scores against those of innocent images, small = suspicious.

    A fresh innocent score has p <= a with at most probability a, if scores are exchangeable.
    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005).
    """
    return (1 + np.searchsorted(np.sort(innocent), scores, side="right")) / (len(innocent) + 1)


def judge_images(
    case: Case, attack: Attack, spaces: Sequence[str], exact: np.ndarray
) -> Quarantine:
    """Judge every synthetic image by its smallest p-value over spaces, times their number.

    Registered structure is always looked at, more spaces only as far as there are held-out images
    enough. `exact` are (N,) bool, copies that are taken whatever their p-value.
    """
    held_out = len(attack.holdout.registered.score)
    most = int(max(case.settings.quarantine, BEARABLE) * (held_out + 1))
    looked = tuple(dict.fromkeys(("registered", *spaces)))[: max(1, most)]
    own = [
        conformal_p(attack.synthetic["train"].spaces[name].score, attack.holdout.spaces[name].score)
        for name in looked
    ]
    p = np.minimum(1, len(looked) * np.min(own, axis=0))
    smallest = len(looked) / (held_out + 1)
    steps = math.floor(case.settings.quarantine / smallest + 1e-9)
    rate = max(1, steps) * smallest
    return Quarantine(p, (p <= rate + 1e-12) | exact, rate, held_out, looked)


def finding(judged: Quarantine, asked: float) -> Finding:
    """Report the share of images that the quarantine took."""
    taken, n = int(judged.taken.sum()), len(judged.taken)
    share = clopper_pearson(taken, n)
    coarse = (
        f", where {asked:.2g} was asked for, which {judged.held_out} held-out images can't resolve"
        if judged.rate > asked
        else ""
    )
    return Finding(
        "memorization.quarantined",
        share.value,
        share.low,
        share.high,
        n,
        "share of synthetic images",
        "lower is better",
        f"images whose conformal p-value against held-out images is at most {judged.rate:.2g}"
        f"{coarse}, in {' and '.join(judged.spaces)} together, and exact copies; they do not "
        "leave. Clopper-Pearson interval",
        judged.rate,
        "what innocent images would lose at most",
        share_at_attempts(taken, n),
    )


def write(folder: Path, cohort: Cohort, judged: Quarantine) -> None:
    """Write quarantine.csv, most suspicious first: for the hospital only."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["synthetic", "p", "quarantined"])
    for i in np.argsort(judged.p, kind="stable"):
        table.writerow([cohort.records[i].id, f"{judged.p[i]:.6g}", int(judged.taken[i])])
    write_text(folder / FILE, text.getvalue())


def remaining(cohort: Cohort, folder: Path) -> Cohort:
    """Return the images of a cohort that quarantine.csv in `folder` leaves, in their order; where
    masks were judged too, in a folder of their own, an image goes with its mask."""
    taken = _taken(folder / FILE)
    if (folder / MASKS / FILE).exists():
        taken |= _taken(folder / MASKS / FILE)
    kept = [i for i, record in enumerate(cohort.records) if record.id not in taken]
    return cohort if len(kept) == len(cohort) else cohort.take(kept)


def _taken(path: Path) -> set[str]:
    with path.open(newline="") as file:
        return {row["synthetic"] for row in csv.DictReader(file) if row["quarantined"] != "0"}
