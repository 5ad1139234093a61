"""n synthetic images are worth m real ones: where the real images' learning curve is as high.

The curve begins at chance for no image, runs straight to its first point and then straight in the
logarithm of the number of images; where chance makes it fall, its points are pooled until it no
longer does. It is read in every draw of patients and trainings, which gives the interval. No number
beyond the last point is ever said: there are no more real images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .resampling import Resampled

STEP = 3  # each point of the curve has so many times the images of the one before
FEWEST = 2  # images a class at the first point
MOST_POINTS = 6


def sizes(most: int, classes: int) -> list[int]:
    """Return the numbers of real images on the curve, rising, the last of them all there are."""
    found = [most]
    while len(found) < MOST_POINTS and found[0] // STEP >= FEWEST * classes:
        found.insert(0, found[0] // STEP)
    return found


def read(curve: Mapping[int, Resampled], at: Resampled, *, chance: float) -> Resampled:
    """Return how many real images are as good as `at`: 0 = none, the last size = all or more.

    It can't be told, and is NaN, where all real images together are not clearly above chance.
    """
    counts = np.array([0, *sorted(curve)], float)
    scores = [curve[int(count)] for count in counts[1:]]
    drawn = np.stack([one.drawn for one in scores], axis=1)
    last = scores[-1]
    if not last.estimate().low > chance:
        return Resampled(math.nan, np.full(len(drawn), math.nan), at.images, at.patients)
    value = reach(counts, [chance, *(one.value for one in scores)], at.value)
    found = [
        reach(counts, [chance, *row], height) for row, height in zip(drawn, at.drawn, strict=True)
    ]
    return Resampled(value, np.array(found), at.images, at.patients)


def reach(counts: np.ndarray, scores, height: float) -> float:
    """Return where a curve through (count, score) points, counts from 0 on, first is as high;
    the last count where it never is. Points that fall are pooled (isotonic regression)."""
    from scipy.optimize import isotonic_regression

    if math.isnan(height) or np.isnan(scores).any():
        return math.nan
    rising = isotonic_regression(np.asarray(scores, float)).x
    place = int(np.searchsorted(rising, height))
    if place == 0:
        return 0.0
    if place == len(counts):
        return float(counts[-1])
    low, high = counts[place - 1], counts[place]
    share = (height - rising[place - 1]) / (rising[place] - rising[place - 1])
    if low == 0:
        return float(share * high)
    return float(low * (high / low) ** share)
