"""Canaries among the synthetic images: a generator may copy them too, and they never leave.

Every synthetic image is looked up among all canaries as it is among patients: registered, and
scored by how much nearer the nearest canary is than the next. One that is nearer to a canary that
was trained on than held-out images are goes into the quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..finding import Finding
from ..runtime import choose_device, derive_seed
from . import Case, search
from .statistics import conformal_threshold

HELD_OUT = 500  # images at most from which the threshold is taken
CANDIDATES = 5


@dataclass(frozen=True)
class Copies:
    """Which synthetic images copy a canary, (N,) bool, and the share of innocent ones that would
    be taken for copies at most."""

    taken: np.ndarray
    rate: float


def find(case: Case) -> Copies:
    """Find the synthetic images that copy a canary that was trained on; none without canaries."""
    if case.canaries is None:
        return Copies(np.zeros(len(case.synthetic), bool), 0.0)
    canaries = case.canaries
    nearest = search.finder(
        canaries.cohort,
        np.arange(len(canaries.cohort)),
        case.lens,
        case.domain.symmetries,
        candidates=CANDIDATES,
        device=choose_device(),
    )
    rng = np.random.default_rng(derive_seed(case.seed, "canary copies"))
    held_out = nearest(case.holdout.take(rng.permutation(len(case.holdout))[:HELD_OUT]))
    threshold, rate = conformal_threshold(held_out.score, case.settings.quarantine)
    found = nearest(case.synthetic)
    return Copies((found.score <= threshold) & canaries.included[found.image], rate)


def findings(case: Case, copies: Copies) -> Iterable[Finding]:
    """Give `canary.copied`, a count; nothing where no canary was planted."""
    if case.canaries is None:
        return
    count, n = float(copies.taken.sum()), len(copies.taken)
    yield Finding(
        "canary.copied",
        count,
        count,
        count,
        n,
        "synthetic images",
        "lower is better",
        f"nearest, registered, to one of {int(case.canaries.included.sum())} canaries that were "
        f"trained on, at a score that held-out images pass at {copies.rate:.2g}; quarantined; a "
        f"count, so both ends are the value",
        copies.rate * n,
        "what innocent images would give at most",
    )
