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
    """Return the indices (count,) of the draws start .. start + count of endless shuffled passes.

    Each pass over `images` images takes every one once, in an order of its own. With `groups`, as
    Frames has them, each pass takes one image of every group, a random one each time; where no
    group has two, that is the same.
    """
    groups = np.arange(images) if groups is None else groups
    sizes = np.bincount(groups)
    passes = range(start // len(sizes), (start + count - 1) // len(sizes) + 1)
    orders = [_one_pass(groups, sizes, seed=derive_seed(seed, "pass", n)) for n in passes]
    offset = start - passes[0] * len(sizes)
    return np.concatenate(orders)[offset : offset + count]


def _one_pass(groups: np.ndarray, sizes: np.ndarray, *, seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(sizes))
    if sizes.max() == 1:
        return order
    members = np.argsort(groups, kind="stable")
    chances = np.random.default_rng(derive_seed(seed, "member")).random(len(sizes))
    chosen = np.cumsum(sizes) - sizes + (chances * sizes).astype(np.int64)
    return members[chosen][order]
