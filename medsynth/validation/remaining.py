"""What the quarantine leaves is a new cohort: the same questions once more, of it alone.

What was searched for each image stays as it was found, so nothing is searched again. These
answers can't replace those on the whole cohort: who removes what an attack finds, and asks the
attack again, hears nothing of what it misses. So the bound of the copy rate is taken over from
the whole, as if no copy had been removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..finding import Finding
from ..runtime import derive_seed
from . import Case
from .attack import Attack
from .attribution import attribution_test, rank
from .quarantine import Quarantine
from .statistics import clopper_pearson

NAME = "memorization.remaining"


def measure(
    case: Case,
    attack: Attack,
    judged: Quarantine,
    exact: np.ndarray,
    rate: Finding,
    spaces: Sequence[str],
) -> Iterable[Finding]:
    """Measure the images that remain; nothing where none does. `rate` is the whole cohort's
    copy rate, `exact` its exact copies, (N,) bool."""
    kept = judged.kept
    if not len(kept):
        return
    if spaces:
        yield _p_value(case, attack, kept, spaces)
    yield _copy_rate(attack, kept, rate)
    count = float(exact[kept].sum())
    yield Finding(
        f"{NAME}.exact_copies",
        count,
        count,
        count,
        len(kept),
        "synthetic images",
        "lower is better",
        "as memorization.exact_copies, among the images that the quarantine left",
    )


def _p_value(case: Case, attack: Attack, kept: np.ndarray, spaces: Sequence[str]) -> Finding:
    rng = np.random.default_rng(derive_seed(case.seed, "permutations of the rest"))
    found = attack.synthetic["everyone"].spaces
    rankings = [rank(found[name].patient[kept], found[name].score[kept], rng) for name in spaces]
    is_train = attack.pool.patient_is_train
    p = attribution_test(rankings, is_train, case.settings.permutations, rng)
    return Finding(
        f"{NAME}.p_value",
        p,
        p,
        p,
        len(kept),
        "probability",
        "higher is better",
        "as memorization.p_value, on the images that the quarantine left: it took those nearest to "
        "training patients, so this can only be too large",
    )


def _copy_rate(attack: Attack, kept: np.ndarray, rate: Finding) -> Finding:
    """Estimate the share of copies among what remains.

    Its bound is the whole cohort's, over fewer images: of the images that were taken out none is
    counted as a copy.
    """
    n = len(kept)
    hits = int(attack.flags(attack.synthetic).copied[kept].sum())
    share = clopper_pearson(hits, n)
    value = max(0.0, share.value - rate.reference)
    more = rate.n / n
    ends = tuple((0.0, max(value, min(1.0, high * more))) for _, high in rate.at_attempts)
    return Finding(
        f"{NAME}.copy_rate",
        value,
        *ends[0],
        n,
        "share of synthetic images",
        "lower is better",
        "flagged among the images that the quarantine left, less the held-out share; high end the "
        "whole cohort's, as if no copy had been taken out: a copy that the attack misses remains",
        rate.reference,
        rate.reference_is,
        ends,
    )
