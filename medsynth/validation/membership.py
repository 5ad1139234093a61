"""Can somebody tell whose images were trained on? Attacks' scores of patients, made findings.

A patient is the unit: the attacks give each training and each held-out patient one score, higher
= rather trained on. How well that separates them is said in three ways: the area under the curve,
an average over all thresholds; and the share of training patients who are found at a threshold
that so few held-out patients pass, which is what one who is found cares for
(Carlini et al., arXiv 2112.03570).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..finding import Finding
from .attribution import sums_test
from .division import auc, auc_interval
from .statistics import Estimate, at_attempts, clopper_pearson

RATES = {"tpr_1": 0.01, "tpr_01": 0.001}
"""Shares of held-out patients who may be taken for training patients, by the findings' names."""
TAILS = (0.02, 0.1)  # shares of patients at the top that the test looks at, too


@dataclass(frozen=True)
class Guess:
    """What an attack thinks of every patient: `scores` (P,), higher = rather trained on.

    `naive` (P,) is what one guesses who knows the patient's images but nothing of the generator;
    `how` and `naively` say in words what either is. Neither was told who was trained on.
    """

    name: str
    scores: np.ndarray
    naive: np.ndarray
    how: str
    naively: str


def findings(guess: Guess, is_train: np.ndarray) -> Iterable[Finding]:
    """Say how well a guess tells training patients, `is_train` (P,) bool, from held-out ones.

    Scores that are not numbers (a space that is not believed) give findings that are none.
    """
    inside, outside = guess.scores[is_train], guess.scores[~is_train]
    naive = guess.naive[is_train], guess.naive[~is_train]
    sides = f"{len(inside)} training and {len(outside)} held-out patients"
    blind = bool(np.isnan(guess.scores).any())
    value = math.nan if blind else auc(inside, outside)

    def area(level: float) -> Estimate:
        if blind:
            return Estimate(math.nan, 0.0, 1.0)
        return auc_interval(value, len(inside), len(outside), level=level)

    yield _finding(
        guess,
        "auc",
        area,
        len(is_train),
        "probability",
        f"area under the curve of {sides}; {guess.how}; Newcombe's interval",
        auc(*naive),
    )
    for name, rate in RATES.items():

        def share(level: float, rate: float = rate) -> Estimate:
            if blind:
                return Estimate(math.nan, 0.0, 1.0)
            return true_positives(inside, outside, rate, level=level)

        yield _finding(
            guess,
            name,
            share,
            len(inside),
            "share of training patients",
            f"found at a threshold that {100 * rate:g} % of held-out patients pass, among {sides}"
            f"{_unresolved(len(outside), rate)}; {guess.how}; exact interval, the threshold's "
            "own doubt included",
            true_positives(*naive, rate).value,
        )


def tested(
    name: str,
    guesses: Sequence[Guess],
    is_train: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> Finding:
    """Test all guesses that are numbers together; NaN where none is."""
    seeing = [guess for guess in guesses if not np.isnan(guess.scores).any()]
    p = p_value(seeing, is_train, permutations, rng)
    names = " and ".join(guess.name for guess in seeing) or "no attack"
    return Finding(
        name,
        p,
        p,
        p,
        len(is_train),
        "probability",
        "higher is better",
        f"patient-permutation test, {permutations} permutations, largest standardised sum of ranks "
        f"and of the highest-scored 2 % and 10 % of patients, by {names}; exact, so both ends are "
        "the p-value",
    )


def p_value(
    guesses: Sequence[Guess], is_train: np.ndarray, permutations: int, rng: np.random.Generator
) -> float:
    """Return the p-value of "the guesses find training patients no better than chance".

    Of every guess the sum of the training patients' ranks and how many of them are among the
    highest-scored are looked at, and the largest standardised one counts; exact, as
    `attribution` says. NaN without a guess.
    """
    rows = [row for guess in guesses for row in _rows(guess.scores)]
    return sums_test(np.stack(rows), is_train, permutations, rng) if rows else math.nan


def true_positives(
    inside: np.ndarray, outside: np.ndarray, rate: float, *, level: float = 0.95
) -> Estimate:
    """Return the share of members over the threshold that `rate` of non-members exceed.

    `inside` and `outside` are scores of both, higher = rather a member. The value is taken at the
    lowest threshold that a fresh non-member exceeds with at most that probability, an order
    statistic; it is NaN where there are fewer than 1 / rate - 1 non-members. The interval is for
    the true threshold's share: how many of m non-members exceed the true threshold is binomial
    (m, rate), so two order statistics enclose it, and the share's Clopper-Pearson end is taken at
    each. Either end fails with at most (1 - level) / 2, half of it for the threshold and half for
    the share; ties only widen. Patients count as independent draws.
    Source: David and Nagaraja, Order Statistics, 7.1 (intervals for quantiles).
    """
    n, m = len(inside), len(outside)
    highest = np.sort(outside)[::-1]
    fails = (1 - level) / 4
    # at least so many of m exceed the true threshold, and at most so many, but for `fails`
    least, most = (
        int(k) for k in (stats.binom.ppf(fails, m, rate), stats.binom.isf(fails, m, rate))
    )

    def ends(place: int) -> Estimate:
        over = int((inside > highest[place - 1]).sum())
        return clopper_pearson(over, n, level=(1 + level) / 2)

    place = math.floor(rate * (m + 1) + 1e-9)
    return Estimate(
        float((inside > highest[place - 1]).mean()) if place else math.nan,
        ends(least).low if least else 0.0,
        ends(most + 1).high if most < m else 1.0,
    )


def per_patient(values: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return (P,): the sum of each patient's standardised (N,) values, over the root of their
    number, so that patients of many images and of few are equally spread.

    `patients` are (N,) numbers from 0, all of which occur.
    """
    standard = (values - values.mean()) / max(float(values.std()), 1e-12)
    return np.bincount(patients, standard) / np.sqrt(np.bincount(patients))


def _rows(scores: np.ndarray) -> Iterable[np.ndarray]:
    """Yield what each patient adds to each statistic; ties share what they would get."""
    yield stats.rankdata(scores)
    for share in TAILS:
        count = math.ceil(share * len(scores))
        edge = np.sort(scores)[-count]
        above, tied = scores > edge, scores == edge
        yield above + tied * (count - above.sum()) / tied.sum()


def _unresolved(held_out: int, rate: float) -> str:
    if rate * (held_out + 1) >= 1 - 1e-9:
        return ""
    return f", too few to resolve it: that takes {math.ceil(1 / rate - 1e-9) - 1} held-out ones"


def _finding(guess, what, interval, n, unit, method, naive) -> Finding:
    found = interval(0.95)
    return Finding(
        f"membership.{guess.name}.{what}",
        found.value,
        found.low,
        found.high,
        n,
        unit,
        "lower is better",
        method,
        naive if math.isfinite(naive) else None,
        f"guessed without the generator, by {guess.naively}" if math.isfinite(naive) else "",
        at_attempts(interval),
    )
