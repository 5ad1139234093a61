"""Means over images whose patients are drawn again and again, the same draws for every number.

Because all numbers share their draws, the difference of two of them on the same images has an
interval of its own, which is narrower than their two intervals say: a paired bootstrap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .statistics import Estimate, clopper_pearson

FEWEST = 2  # patients, below which no interval follows


@dataclass(frozen=True, eq=False)
class Resampled:
    """A number, the same number in every draw (D,), and how many images and patients it is from."""

    value: float
    drawn: np.ndarray
    images: int
    patients: int

    def estimate(self) -> Estimate:
        """Return the number with its 95 % percentile interval; NaN ends with fewer than 2 patients.

        Draws may be infinite, as a size is that nothing reaches.
        """
        if self.patients < FEWEST or math.isnan(self.value):
            return Estimate(self.value, math.nan, math.nan)
        drawn = self.drawn[~np.isnan(self.drawn)]
        low, high = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
        return Estimate(self.value, min(float(low), self.value), max(float(high), self.value))

    def share(self) -> Estimate:
        """Return the same of a share of yes and no.

        Where all draws say the same, the ends are those of Clopper and Pearson over patients: ten
        patients of whom all agree do not prove that everybody does.
        """
        if self.patients >= FEWEST and self.value in (0.0, 1.0):
            return clopper_pearson(round(self.value * self.patients), self.patients)
        return self.estimate()

    def __sub__(self, other: Resampled) -> Resampled:
        return Resampled(
            self.value - other.value,
            self.drawn - other.drawn,
            min(self.images, other.images),
            min(self.patients, other.patients),
        )


class Resampling:
    """Draws of whole patients, with all their images. `patients` are (N,) numbers, one an image."""

    def __init__(self, patients: np.ndarray, *, draws: int, rng: np.random.Generator):
        self.groups = np.unique(patients, return_inverse=True)[1]
        count = int(self.groups.max(initial=-1)) + 1
        self.times = rng.multinomial(count, np.full(count, 1 / count), size=draws)  # (D, P)

    def mean(self, values: np.ndarray) -> Resampled:
        """Return the mean of (N,) values, NaN left out; NaN where there is no other."""
        known = np.isfinite(values)
        size = self.times.shape[1]
        sums = np.bincount(self.groups[known], values[known], minlength=size)
        counts = np.bincount(self.groups[known], minlength=size)
        n = int(counts.sum())
        value = float(sums.sum() / n) if n else math.nan
        below = self.times @ counts
        drawn = np.where(below > 0, self.times @ sums / np.maximum(below, 1), math.nan)
        return Resampled(value, drawn, n, int((counts > 0).sum()))
