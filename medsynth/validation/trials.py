"""Numbers of several trainings, asked about the same held-out patients, with one interval each.

What comes out depends on which patients were held out and on the chance in each training. Both are
drawn again, the same draws for every number: patients as a bootstrap does, and for the trainings a
Student's t about their mean, which is what a few of them allow to be said. So differences have
intervals of their own, as in `resampling`.
Source of the area under the curve: Hand and Till, Mach. Learn. 45 (2001), one class against the
rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .resampling import Resampled, Resampling
from .statistics import Estimate

BLOCK = 50  # draws at a time
Number = Callable[["Trials", np.ndarray], Resampled]


class Trials:
    """Held-out images (N,) with their classes and patients, about which `trainings` networks were
    asked.

    An answer of all of them is (S, N, K) probabilities. A class of -1 is not asked about.
    """

    def __init__(
        self,
        truth: np.ndarray,
        patients: np.ndarray,
        *,
        trainings: int,
        draws: int,
        rng: np.random.Generator,
    ):
        self.truth, self.patients = truth, patients
        self.resampling = Resampling(patients, draws=draws, rng=rng)
        spread = rng.normal(size=(draws, trainings))
        scale = np.sqrt(rng.chisquare(max(1, trainings - 1), draws) / max(1, trainings - 1))
        self.chance = spread / scale[:, None] / math.sqrt(trainings * max(1, trainings - 1))

    def mean(self, values: np.ndarray) -> Resampled:
        """Return the mean of (S, N) values over images and trainings; NaN counts nowhere."""
        means = [self.resampling.mean(row) for row in values]
        return self._together(
            np.array([one.value for one in means]),
            np.array([one.drawn for one in means]),
            means[0].images,
            means[0].patients,
        )

    def accuracy(self, said: np.ndarray) -> Resampled:
        """Return the balanced accuracy: each class's share of right answers, averaged."""
        right = said.argmax(2) == self.truth
        classes = [self.truth == value for value in np.unique(self.truth[self.truth >= 0])]
        shares = [
            [self.resampling.mean(np.where(own, row, np.nan)) for own in classes] for row in right
        ]
        each = np.array([[one.value for one in row] for row in shares]).mean(1)
        drawn = _known_mean(np.array([[one.drawn for one in row] for row in shares]), axis=1)
        return self._together(each, drawn, *self._count(classes))

    def recall(self, said: np.ndarray, value: int) -> Resampled:
        """Return the share of right answers about one class."""
        right = (said.argmax(2) == self.truth).astype(float)
        return self.mean(np.where(self.truth == value, right, np.nan))

    def area(self, said: np.ndarray, inside: np.ndarray | None = None) -> Resampled:
        """Return the area under the curve of each class against the rest, averaged; of two classes
        there is one. `inside` (N,) bool asks about some images only."""
        asked = self.truth >= 0 if inside is None else inside & (self.truth >= 0)
        there = [int(v) for v in np.unique(self.truth[asked])]
        classes = there[1:] if len(there) == 2 else there
        if len(there) < 2:
            empty = np.full(self.chance.shape[0], math.nan)
            return Resampled(math.nan, empty, int(asked.sum()), 0)
        areas = [[self._area(row[:, v], self.truth == v, asked) for v in classes] for row in said]
        each = np.array([[value for value, _ in row] for row in areas]).mean(1)
        drawn = _known_mean(np.array([[drawn for _, drawn in row] for row in areas]), axis=1)
        return self._together(each, drawn, *self._count([asked & (self.truth == v) for v in there]))

    def _area(
        self, scores: np.ndarray, positive: np.ndarray, asked: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Return one area and that of every draw of patients; ties count half."""
        _, level = np.unique(scores[asked], return_inverse=True)
        order = np.argsort(level, kind="stable")
        starts = np.searchsorted(level[order], np.arange(level.max() + 1))
        is_positive = positive[asked][order]
        group = self.resampling.groups[asked][order]

        def of(weights: np.ndarray) -> np.ndarray:  # (D, n) -> (D,)
            up, down = weights * is_positive, weights * ~is_positive
            ups, downs = (np.add.reduceat(mass, starts, axis=1) for mass in (up, down))
            below = np.cumsum(downs, axis=1) - downs / 2
            total = up.sum(1) * down.sum(1)
            with np.errstate(invalid="ignore"):
                return np.where(total > 0, (ups * below).sum(1) / total, math.nan)

        times = self.resampling.times
        blocks = [of(times[i : i + BLOCK][:, group]) for i in range(0, len(times), BLOCK)]
        return float(of(np.ones((1, len(group))))[0]), np.concatenate(blocks)

    def _count(self, classes: list[np.ndarray]) -> tuple[int, int]:
        """Return how many images are asked about, and the patients of the rarest class."""
        rarest = min(len(np.unique(self.patients[own])) for own in classes)
        return int(sum(own.sum() for own in classes)), rarest

    def _together(
        self, each: np.ndarray, drawn: np.ndarray, images: int, patients: int
    ) -> Resampled:
        """Average trainings (S,) and (S, D), with what chance in training adds to each draw."""
        value = float(each.mean())
        return Resampled(value, drawn.mean(0) + self.chance @ (each - value), images, patients)


def share(number: Resampled, *, lowest: float = 0.0) -> Estimate:
    """Return a number between `lowest` and 1 with its 95 % interval, cut off there."""
    found = number.share() if number.value in (0.0, 1.0) else number.estimate()
    return Estimate(found.value, *np.clip([found.low, found.high], lowest, 1.0).tolist())


def _known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Average what is known: a class that a draw of patients leaves out counts nothing in it."""
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis)
    return np.where(known.any(axis), sums / np.maximum(known.sum(axis), 1), math.nan)
