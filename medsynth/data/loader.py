"""Batches from a cohort: a memory-mapped array and the indices to take, nothing in between.

Which images a step sees follows from the seed and from how many were seen before, so that
training that was killed goes on with the very batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..cohort import Cohort
from ..runtime import derive_seed


class Frames:
    """Some images of a cohort, read from disk as they are asked for.

    `frames[indices]` gives (n, C, H, W) float32 in [-1, 1]; indices count within these frames.
    """

    def __init__(self, cohort: Cohort, chosen: np.ndarray):
        self.cohort, self.chosen = cohort, np.asarray(chosen, np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        return self.cohort.floats(self.chosen[indices])

    @property
    def channels(self) -> int:
        return self.cohort.channels

    @property
    def patients(self) -> np.ndarray:
        """(N,) int64 patient numbers."""
        return self.cohort.patients[self.chosen]

    @property
    def labels(self) -> list[dict[str, str]]:
        return [dict(self.cohort.records[i].labels) for i in self.chosen]

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """Give all images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[slice(start, start + size)]


def draw(images: int, *, start: int, count: int, seed: int) -> np.ndarray:
    """Return the indices (count,) of the draws start .. start + count of endless shuffled passes.

    Each pass over `images` images takes every one once, in an order of its own.
    """
    passes = range(start // images, (start + count - 1) // images + 1)
    orders = [_order(images, seed=derive_seed(seed, "pass", number)) for number in passes]
    offset = start - passes[0] * images
    return np.concatenate(orders)[offset : offset + count]


def _order(images: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(images)
