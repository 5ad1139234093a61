"""Intervals and thresholds: what may be said of a number, given how many it was measured on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

GROUPS = 20  # of the jackknife
ATTEMPTS = 12  # at the gate for which intervals are taken


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
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betainccinv(hits + 1, n - hits, tail))
    return Estimate(hits / n, low, high)


def at_attempts(interval: Callable[[float], Estimate]) -> tuple[tuple[float, float], ...]:
    """Return (low, high) at attempt 1, 2, … of `interval(level)`, a two-sided one.

    An end of attempt j's interval fails with at most 0.05 / 2^j, so that the ends of all attempts
    together fail with at most 0.05: whoever tries again and again does not end below the truth.
    The first attempt's interval is the usual one of 95 %.
    """
    spent = (interval(1 - 0.05 / 2**earlier) for earlier in range(ATTEMPTS))
    return tuple((found.low, found.high) for found in spent)


def share_at_attempts(hits: int, n: int) -> tuple[tuple[float, float], ...]:
    """Return the Clopper-Pearson ends of hits / n at attempt 1, 2, …"""
    return at_attempts(lambda level: clopper_pearson(hits, n, level=level))


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


def one_of_each(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the index of one member of each group, drawn at random; `groups` are (N,) numbers,
    and what is returned follows their order."""
    order = rng.permutation(len(groups))
    _, first = np.unique(np.asarray(groups)[order], return_index=True)
    return order[first]


def conformal_threshold(scores: np.ndarray, rate: float) -> tuple[float, float]:
    """Return (threshold, its true rate): a fresh score from the same source is at or under it
    with at most that probability, if scores are exchangeable.

    With so few scores that no threshold reaches `rate`, the smallest score is taken and the
    true rate, 1 / (n + 1), is larger than asked for.
    """
    rank = max(1, math.floor(rate * (len(scores) + 1)))
    return float(np.sort(scores)[rank - 1]), rank / (len(scores) + 1)


def _around(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, min(low, value), max(high, value))
