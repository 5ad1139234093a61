"""Were training and held-out patients divided by chance? What an audit can't know, it can doubt.

The permutation test is exact only if the division into training and held-out patients was drawn
at random. In a run medsynth draws it; an audit is handed two folders. A classifier that tells
unseen patients of one folder from those of the other shows that they differ by more than chance:
another scanner, another year, another disease.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy import optimize, special, stats

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import derive_seed
from . import Case
from .fidelity import detail
from .search import in_batches
from .statistics import Estimate

FOLDS, REPEATS = 5, 4
PENALTY = 10.0  # of half the squared weights, beside the loss summed over patients
FEWEST = 4  # patients a side


def measure(case: Case) -> Iterable[Finding]:
    """Measure `audit.split_auc`: 0.5 = nothing tells the sides apart, 1 = everything does."""
    train, holdout = (_describe(case, side) for side in (case.train, case.holdout))
    rng = np.random.default_rng(derive_seed(case.seed, "division"))
    estimate = separability(train, holdout, rng)
    yield Finding(
        "audit.split_auc",
        estimate.value,
        estimate.low,
        estimate.high,
        len(train) + len(holdout),
        "probability",
        "lower is better",
        "area under the curve: logistic regression on lens features, brightness, contrast and fine "
        f"detail, means over each patient's images; {FOLDS}-fold cross-validated over patients, "
        f"{REPEATS} times; Newcombe's interval",
        0.5,
        "patients divided by chance",
    )


def separability(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Return how well unseen rows of `first` (N, D) are told from those of `second` (M, D).

    That is the area under the curve of a logistic regression, cross-validated; only rows of one
    fold are compared, for scores of different classifiers have no common zero. NaN in [0, 1] with
    fewer than 4 rows a side.
    """
    smallest = min(len(first), len(second))
    if smallest < FEWEST:
        return Estimate(math.nan, 0.0, 1.0)
    folds = min(FOLDS, smallest // 2)
    values = [_cross_validated(first, second, folds, rng) for _ in range(REPEATS)]
    return auc_interval(float(np.mean(values)), len(first), len(second))


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the share of pairs in which the positive scores higher, ties counting half."""
    ranks = stats.rankdata(np.concatenate([positive, negative]))[: len(positive)]
    n, m = len(positive), len(negative)
    return float((ranks.sum() - n * (n + 1) / 2) / (n * m))


def auc_interval(value: float, positives: int, negatives: int, *, level: float = 0.95) -> Estimate:
    """Return an area under the curve with its interval, which holds near 0 and 1, too.

    The ends are where the value would lie at the edge of what their own spread allows.
    Source: Newcombe, Stat. Med. 25 (2006), method 5.
    """
    z, size = float(stats.norm.ppf(0.5 + level / 2)), (positives + negatives) / 2 - 1

    def beyond(end: float) -> float:
        spread = 1 + size * ((1 - end) / (2 - end) + end / (1 + end))
        return (end - value) ** 2 - z**2 * end * (1 - end) * spread / (positives * negatives)

    tiny = 1e-12
    low = 0.0 if value <= tiny else optimize.brentq(beyond, 0.0, min(value, 1 - tiny))
    high = 1.0 if value >= 1 - tiny else optimize.brentq(beyond, max(value, tiny), 1.0)
    return Estimate(value, float(low), float(high))


def _cross_validated(
    first: np.ndarray, second: np.ndarray, folds: int, rng: np.random.Generator
) -> float:
    """Return the area over all pairs of rows of the same fold."""
    fold_a, fold_b = (rng.permutation(len(side)) % folds for side in (first, second))
    hits = pairs = 0.0
    for fold in range(folds):
        a, b = fold_a == fold, fold_b == fold
        weights = _fit(first[~a], second[~b])
        count = a.sum() * b.sum()
        hits += count * auc(first[a] @ weights, second[b] @ weights)
        pairs += count
    return hits / pairs


def _fit(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Fit a logistic regression, both sides weighing the same; return its weights (D,)."""
    rows = np.concatenate([first, second])
    spread = np.maximum(rows.std(0), 1e-9)
    x = np.column_stack([(rows - rows.mean(0)) / spread, np.ones(len(rows))])
    sign = np.repeat([1.0, -1.0], [len(first), len(second)])
    share = len(rows) / 2 / np.repeat([len(first), len(second)], [len(first), len(second)])
    held = np.append(np.ones(rows.shape[1]), 0.0) * PENALTY  # the offset is free

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ w)
        value = share @ np.logaddexp(0, -margin) + 0.5 * held @ w**2
        return value, held * w - x.T @ (share * sign * special.expit(-margin))

    found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B")
    return found.x[:-1] / spread


def _describe(case: Case, side: Cohort) -> np.ndarray:
    """(P, D): what each patient's images look like on average."""
    rows = np.column_stack([in_batches(case.lens, side), in_batches(_plain, side)])
    patients = np.unique(side.patients, return_inverse=True)[1]
    sums = np.zeros((patients.max() + 1, rows.shape[1]))
    np.add.at(sums, patients, rows)
    return sums / np.bincount(patients)[:, None]


def _plain(images: np.ndarray) -> np.ndarray:
    """What a lens learns not to see: brightness, contrast, and fine detail in decades."""
    fine = np.log10(detail(images) + 1e-9)
    return np.column_stack([images.mean((2, 3)), images.std((2, 3)), fine])
