"""The cohort's test: do the most suspicious images fall on training patients more than by chance?

Patients were divided into training and held-out ones at random, before anything was trained. For
a generator that learnt nothing of single patients every division of the same sizes was therefore
as likely as the one that happened, whatever its images look like: smooth, shrunk to the mean,
of few classes or of few modes. Whatever is computed from the images and the pooled patients alone
meets every division alike, so the place of the division that happened among drawn ones is an
exact p-value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CUT_COUNTS = (5, 10, 20, 40)
CUT_SHARES = (0.05, 0.2, 1.0)
BLOCK = 256  # divisions at a time


@dataclass(frozen=True)
class Ranking:
    """One space: the nearest patient of each image and the score, most suspicious image first.

    `patients` are (Q,) numbers. `scores` are (Q,) in [0, 1], 0 = a copy, 1 = no nearer to one
    patient than to the next. Both were found without knowing who was trained on.
    """

    patients: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Standardised:
    """What each of P patients adds to each of K statistics if trained on, (K, P), the statistics'
    means and deviations over all divisions, (K,), and where each family of statistics ends."""

    rows: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    ends: tuple[int, ...]

    def largest(self, divisions: np.ndarray) -> np.ndarray:
        """Return (B, F), the largest standardised statistic of each of F families for (B, P)
        divisions."""
        named = np.flatnonzero(self.rows.any(0))  # the others add nothing
        sums = divisions[:, named].astype(np.float64) @ self.rows[:, named].T
        found = np.split((sums - self.mean) / self.spread, self.ends[:-1], axis=1)
        return np.round(np.stack([family.max(1) for family in found], 1), 9)  # ties must stay ties


def rank(patients: np.ndarray, scores: np.ndarray, rng: np.random.Generator) -> Ranking:
    """Put (Q,) images in order of suspicion; ties fall at random, since else the order in which
    images were drawn or searched would decide."""
    order = rng.permutation(len(scores))
    order = order[np.argsort(scores[order], kind="stable")]
    return Ranking(patients[order], scores[order])


def attribution_test(
    rankings: Sequence[Ranking],
    is_train: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Return the p-value of "the most suspicious lie nearest to training patients by chance".

    `is_train` is (P,) bool. Near 0 = copied; evenly spread over (0, 1] = nothing. Two families of
    statistics look for copies in two ways; of each the largest standardised one over all rankings
    (spaces) counts:

    - counts, over cut-offs, of the training patients among the nearest of the most suspicious
      images, once an image and once a patient: many copies, or ones that hardly stand out;
    - weights, each patient's largest (1 - score)^2, summed over training patients: few copies
      that stand out, however many there are, and no cut-off has to hit that number.

    A family's p-value is its place among all divisions, and the smaller of the two is taken
    for every division too, so that looking twice costs what it must: the p-value that is returned
    is exact. Sources: Westfall and Young 1993, for the largest and the smallest over one set of
    permutations; Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9 (2010), for (1 + b) / (1 + B).
    """
    statistics = standardise(weights(rankings, len(is_train)).values(), is_train)
    blocks = _divisions(is_train, permutations, rng)
    largest = np.concatenate([statistics.largest(divisions) for divisions in blocks])
    smallest = np.stack([_places(column) for column in largest.T], 1).min(1)
    return int((smallest <= smallest[0]).sum()) / len(smallest)


def sums_test(
    rows: np.ndarray, is_train: np.ndarray, permutations: int, rng: np.random.Generator
) -> float:
    """Return the p-value of "training patients' sums are no larger than chance makes them".

    `rows` are (K, P), what each patient adds to each of K sums, found without knowing who was
    trained on; the largest standardised sum counts. Exact, for the reasons above.
    """
    statistics = standardise([rows], is_train)
    blocks = _divisions(is_train, permutations, rng)
    largest = np.concatenate([statistics.largest(divisions)[:, 0] for divisions in blocks])
    return int((largest >= largest[0]).sum()) / len(largest)


def standardise(families: Iterable[np.ndarray], is_train: np.ndarray) -> Standardised:
    """Return families of sums, (K, P) each, ready to be taken of any division of the same sizes;
    the moments are those of drawing training patients without replacement."""
    families = list(families)
    rows = np.concatenate(families).astype(np.float64)
    n, k = len(is_train), int(is_train.sum())
    around = rows - rows.mean(1, keepdims=True)
    variance = k * (n - k) / (n * max(1, n - 1)) * (around**2).sum(1)
    spread = np.where(variance > 1e-12, np.sqrt(variance), np.inf)  # without any, nothing is said
    ends = np.cumsum([len(family) for family in families])
    return Standardised(rows, rows.sum(1) * k / n, spread, tuple(ends.tolist()))


def weights(rankings: Sequence[Ranking], patients: int) -> Mapping[str, np.ndarray]:
    """Return {family: (K, P)}: what each of P patients adds to each statistic if trained on."""
    return {
        "counts": np.stack([row for r in rankings for row in _counts(r, patients)]),
        "weights": np.stack([_largest_weight(r, patients) for r in rankings]),
    }


def cut_offs(n: int) -> list[int]:
    """Return at how many of the most suspicious images the counts look: all at least."""
    cuts = {*CUT_COUNTS, *(math.ceil(share * n) for share in CUT_SHARES)}
    return sorted(cut for cut in cuts if cut <= n)


def _counts(ranking: Ranking, patients: int) -> Iterable[np.ndarray]:
    for cut in cut_offs(len(ranking.patients)):
        images = np.bincount(ranking.patients[:cut], minlength=patients)
        yield from (images, np.minimum(images, 1))


def _largest_weight(ranking: Ranking, patients: int) -> np.ndarray:
    found = np.zeros(patients)
    np.maximum.at(found, ranking.patients, np.clip(1 - ranking.scores, 0, 1) ** 2)
    return found


def _divisions(
    is_train: np.ndarray, permutations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield (B, P) bool: the division that happened, then drawn ones of the same sizes."""
    yield is_train[None]
    for start in range(0, permutations, BLOCK):
        count = min(BLOCK, permutations - start)
        yield rng.permuted(np.tile(is_train, (count, 1)), axis=1)


def _places(values: np.ndarray) -> np.ndarray:
    """Return (B,): which share of all is at least as large, for each."""
    below = np.searchsorted(np.sort(values), values, side="left")
    return 1 - below / len(values)
