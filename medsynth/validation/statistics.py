"""Intervals and tests: what may be said of a number, given how many it was measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

GROUPS = 20  # of the jackknife
CUT_COUNTS = (5, 10, 20, 40)
CUT_SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its interval."""

    value: float
    low: float
    high: float


def clopper_pearson(hits: int, n: int, *, level: float = 0.95) -> Estimate:
    """Return hits / n with its exact two-sided interval; nothing known (n = 0) is NaN in [0, 1].

    Source: Clopper and Pearson, Biometrika 26 (1934).
    """
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0)
    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(stats.beta.ppf(tail, hits, n - hits + 1))
    high = 1.0 if hits == n else float(stats.beta.ppf(1 - tail, hits + 1, n - hits))
    return Estimate(hits / n, low, high)


def bootstrap_mean(
    values: np.ndarray, groups: np.ndarray, draws: int, rng: np.random.Generator
) -> Estimate:
    """Return the mean of (N,) values with a 95 % percentile interval over whole groups.

    `groups` are (N,) patient numbers: a drawn patient brings all its images along.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return _around(float(np.mean(values)), float(low), float(high))


def jackknife(statistic: Callable[[np.ndarray], float], groups: int) -> Estimate:
    """Return a smooth statistic with its delete-a-group interval (Student, groups - 1 degrees);
    from a single group no interval follows, and its ends are NaN.

    `statistic` is told which groups to keep, (groups,) bool. A bootstrap would repeat images,
    and a repeated image shrinks the covariance and looks like a copy to its twin: distances
    between distributions come out wrong. Deleting repeats nothing.
    Source: Shao and Wu, Ann. Statist. 17 (1989).
    """
    value = statistic(np.ones(groups, bool))
    if groups < 2:
        return Estimate(value, math.nan, math.nan)
    keep = ~np.eye(groups, dtype=bool)
    left = np.array([statistic(row) for row in keep])
    error = math.sqrt((groups - 1) / groups * float(((left - left.mean()) ** 2).sum()))
    reach = float(stats.t.ppf(0.975, groups - 1)) * error
    return Estimate(value, value - reach, value + reach)


def divide(sides: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Return (N,) group numbers for each side, given its (N,) patients: whole patients, in as many
    random groups on each side, of nearly equal count; at most 20, at most one a patient."""
    patients = [np.unique(side, return_inverse=True)[1] for side in sides]
    groups = min(GROUPS, *(int(side.max()) + 1 for side in patients))
    return [(rng.permutation(side.max() + 1) % groups)[side] for side in patients]


def conformal_threshold(scores: np.ndarray, rate: float) -> tuple[float, float]:
    """Return (threshold, its true rate): a fresh score from the same source is at or under it
    with at most that probability, if scores are exchangeable.

    With so few scores that no threshold reaches `rate`, the smallest score is taken and the
    true rate, 1 / (n + 1), is larger than asked for.
    """
    rank = max(1, math.floor(rate * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1]), rank / (len(scores) + 1)


def cut_offs(n: int) -> np.ndarray:
    """Return at how many of the most suspicious images the attribution test looks."""
    cuts = {*CUT_COUNTS, *(math.ceil(share * n) for share in CUT_SHARES)}
    return np.array(sorted(cut for cut in cuts if cut <= n), np.int64)


def attribution_test(
    rankings: Sequence[np.ndarray],
    is_train: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Return the p-value of "the most suspicious lie nearest to training patients by chance".

    Each ranking is (Q,) numbers of the nearest patients, most suspicious image first, in one way
    of measuring likeness; `is_train` is (P,) bool. Patients were divided at random before anything
    was trained, so for a generator that learnt nothing of single patients every division of the
    same sizes was as likely as the one that happened. The statistic is the largest standardised
    count of training patients over all rankings and cut-offs, and it meets every division alike:
    the p-value is exact whatever the generator looks like, however smooth or shrunk, as long as
    rankings were made without the label. Near 0 = copied, evenly spread over (0, 1] = nothing.
    Source: Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010), for (1 + b) / (1 + B).
    """
    divisions = [is_train, *(rng.permutation(is_train) for _ in range(permutations))]
    counts = np.stack([_counts(rankings, division) for division in divisions])
    spread = counts.std(0)
    z = (counts - counts.mean(0)) / np.where(spread > 0, spread, np.inf)
    largest = np.round(z.max(1), 9)  # equal counts must stay equal
    return float((largest >= largest[0]).sum()) / len(largest)


def _counts(rankings: Sequence[np.ndarray], division: np.ndarray) -> np.ndarray:
    parts = [np.cumsum(division[nearest])[cut_offs(len(nearest)) - 1] for nearest in rankings]
    return np.concatenate(parts).astype(np.float64)


def _around(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, min(low, value), max(high, value))
