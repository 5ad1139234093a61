"""Does a segmenter outline the same in the reconstruction as in the original?

Segmenters learned masks from ORIGINALS, cross-validated by patient: each image is outlined by one
that saw nothing of its patient. At a small size a thin vessel covers part of a pixel, so masks are
shares of pixels, and Dice is 2 sum(min(a, b)) / sum(a + b): the usual one where shares are 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..cohort import Cohort
from ..finding import Direction
from ..runtime import derive_seed
from .agreement import FOLDS

FEWEST = 6  # patients with masks: two a fold
MOST = 500  # images that are outlined, one of each patient before any second
BATCH = 32
NOTHING = 1e-3  # of a pixel on average: no outline at all

Find = Callable[[np.ndarray], np.ndarray]
"""Images (n, C, H, W) in [-1, 1] -> shares of classes (n, K, H, W) in [0, 1]."""

SEGMENTED: dict[str, tuple[Direction, str]] = {
    "agreement": ("higher is better", "Dice of its outlines in the reconstruction and original"),
    "dice": ("higher is better", "Dice of its outlines in the reconstruction and the masks"),
    "dice_lost": ("lower is better", "Dice with the masks in the original less that in the rest"),
}


@dataclass(frozen=True, eq=False)
class Segmenter:
    """Segmenters and masks of a cohort's images.

    `masked` (M,) are the images' numbers, `maps` (M, K, H, W) uint8 shares of 255, `fold` (M,) says
    which of `nets` outlines each, and `values` (K,) are the classes in the masks' files.
    """

    cohort: Cohort
    masked: np.ndarray
    maps: np.ndarray
    values: tuple[int, ...]
    fold: np.ndarray
    nets: Sequence[Find]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"class_{value}" for value in self.values)

    @cached_property
    def right(self) -> dict[str, float]:
        """By class the mean Dice with the masks on originals: what the rest is worth."""
        parts = np.array_split(self.masked, -(-len(self.masked) // BATCH))
        rows = [self.outline(self.cohort.floats(part), part)[1] for part in parts]
        return dict(zip(self.names, _mean(np.concatenate(rows)), strict=True))

    def compare(
        self, before: np.ndarray, after: np.ndarray, places: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return {segmenter.class.number: (n,)} of originals and reconstructions (n, C, H, W) that
        stand at `places` of the cohort; NaN without a mask, or where the class is not in it."""
        asked = np.isin(places, self.masked)
        rows = np.full((len(SEGMENTED), len(places), len(self.values)), np.nan)
        if asked.any():
            first, right = self.outline(before[asked], places[asked])
            second, still = self.outline(after[asked], places[asked])
            rows[:, asked] = dice(first, second), still, right - still
        return {
            f"segmenter.{name}.{number}": rows[i, :, k]
            for k, name in enumerate(self.names)
            for i, number in enumerate(SEGMENTED)
        }

    def outline(self, images: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the outlines (n, K, H, W) in images that have masks, and their Dice (n, K)."""
        at = np.searchsorted(self.masked, places)
        found = np.zeros((len(images), *self.maps.shape[1:]), np.float32)
        for number, net in enumerate(self.nets):
            mine = self.fold[at] == number
            if mine.any():
                found[mine] = net(np.ascontiguousarray(images[mine]))
        return found, dice(self.maps[at].astype(np.float32) / 255, found)


def dice(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return (n, K) the Dice of shares (n, K, H, W); NaN where nothing was wanted."""
    wanted, found = wanted.astype(np.float64), found.astype(np.float64)
    both = 2 * np.minimum(wanted, found).sum((2, 3))
    there = wanted.mean((2, 3)) > NOTHING
    return np.where(there, both / np.maximum((wanted + found).sum((2, 3)), 1e-12), np.nan)


def divide(patients: np.ndarray, *, seed: int) -> np.ndarray:
    """Return (M,) the fold of each image, by patient at random; folds are as large as can be."""
    known, place = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(derive_seed(seed, "segmenter folds")).permutation(len(known))
    return (order % FOLDS)[place]


def _mean(values: np.ndarray) -> list[float]:
    known = np.isfinite(values)
    return [
        float(v[k].mean()) if k.any() else np.nan for v, k in zip(values.T, known.T, strict=True)
    ]
