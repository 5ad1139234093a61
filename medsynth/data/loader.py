"""Batches from a cohort: a memory-mapped array and the indices to take, nothing in between.

Which images a step sees follows from the seed and from how many were seen before, so that
training that was killed goes on with the very batches that it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from ..cohort import Cohort, group_pictures
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

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) int64: the number of each image's picture, in order of first appearance.

        Linked duplicates share a number: they count once in training.
        """
        return group_pictures([self.cohort.records[i] for i in self.chosen])

    @property
    def weights(self) -> np.ndarray:
        """(N,) float64: what each image counts for, so that every picture counts for 1."""
        return 1 / np.bincount(self.groups)[self.groups]

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """Give all images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[slice(start, start + size)]


def draw(
    images: int, *, start: int, count: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """Return the indices (count,) of the draws start .. start + count; see `Order`."""
    return Order(images, seed=seed, groups=groups).draw(start, count)


class Order:
    """Endless shuffled passes over images, of which the last ones are kept at hand: to shuffle
    millions of images at each step would take longer than the step.

    Each pass over `images` images takes every one once, in an order of its own. With `groups`, as
    Frames has them, each pass takes one image of every group, a random one each time; where no
    group has two, that is the same.
    """

    def __init__(self, images: int, *, seed: int, groups: np.ndarray | None = None):
        self.groups = np.arange(images) if groups is None else groups
        self.sizes, self.seed = np.bincount(self.groups), seed
        self.members = None
        if self.sizes.max() > 1:
            self.members = np.argsort(self.groups, kind="stable")
        self.passes: dict[int, np.ndarray] = {}

    def draw(self, start: int, count: int) -> np.ndarray:
        """Return the indices (count,) of the draws start .. start + count."""
        long = len(self.sizes)
        passes = range(start // long, (start + count - 1) // long + 1)
        self.passes = {n: self.passes[n] if n in self.passes else self._one_pass(n) for n in passes}
        parts = [
            self.passes[n][max(0, start - n * long) : start + count - n * long] for n in passes
        ]
        return np.concatenate(parts)

    def _one_pass(self, number: int) -> np.ndarray:
        seed = derive_seed(self.seed, "pass", number)
        order = np.random.default_rng(seed).permutation(len(self.sizes))
        if self.members is None:
            return order
        chances = np.random.default_rng(derive_seed(seed, "member")).random(len(self.sizes))
        starts = np.cumsum(self.sizes) - self.sizes
        return self.members[starts + (chances * self.sizes).astype(np.int64)][order]
