"""What a small network is to learn a label from: images, their classes, and in which order.

Every class is drawn equally often, however rare, and a patient's duplicates count once. Draws
follow from their number alone, as those of the loader do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ..cohort import Cohort
from ..runtime import derive_seed
from .loader import draw

Show = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(indices (n,), numbers of the draws (n,)) -> images (n, C, H, W) float32 in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """N images and which class (N,) of 0 … `values` - 1 each shows; of `channels` colours.

    The network sees `images` of them, repeats counted. `groups` are (N,) numbers, which duplicates
    share. With `classical` it sees them changed by RandAugment and, unless the mirror image of a
    class is `another` class, turned and flipped within the domain's symmetry; else as they are.
    """

    show: Show
    classes: np.ndarray
    values: int
    channels: int
    images: int
    seed: int
    groups: np.ndarray | None = None
    classical: bool = False
    another: bool = False


Classify = Callable[[np.ndarray], np.ndarray]
"""(n, C, H, W) float32 in [-1, 1] -> (n, K) probabilities of the classes, float32."""
Teach = Callable[[Lesson, Path], Classify]
"""A lesson, and a folder for the training's state -> a network that has learned it."""
Find = Callable[[np.ndarray], np.ndarray]
"""(n, C, H, W) float32 in [-1, 1] -> shares (n, K, H, W) of each pixel that classes cover."""


class Segment(Protocol):
    """Teaches a network to find masks (N, K, H, W) uint8 shares in images (N, C, H, W)."""

    def __call__(
        self,
        images: np.ndarray,
        maps: np.ndarray,
        *,
        seed: int,
        folder: Path,
        most_images: int,
    ) -> Find: ...


def show_cohorts(parts: Sequence[tuple[Cohort, np.ndarray]]) -> Show:
    """Return what shows images of several cohorts, one cohort after the other: (cohort, indices)
    each. Pixels are read as they are asked for."""
    ends = np.cumsum([len(chosen) for _, chosen in parts])

    def show(indices: np.ndarray, draws: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(ends, indices, side="right")
        cohort = parts[0][0]
        shape = (len(indices), cohort.channels, cohort.size_px, cohort.size_px)
        found = np.empty(shape, np.float32)
        for number, (one, chosen) in enumerate(parts):
            rows = np.flatnonzero(owner == number)
            if len(rows):
                first = ends[number] - len(chosen)
                found[rows] = one.floats(chosen[indices[rows] - first])
        return found

    return show


def draw_evenly(
    classes: np.ndarray,
    values: int,
    *,
    start: int,
    count: int,
    seed: int,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the indices (count,) of the draws start .. start + count, which take the classes in
    turn; each class's images come in endless shuffled passes. A class without images is left
    out."""
    there = [value for value in range(values) if (classes == value).any()]
    numbers = np.arange(start, start + count)
    chosen = np.empty(count, np.int64)
    for turn, value in enumerate(there):
        mine = np.flatnonzero(numbers % len(there) == turn)
        members = np.flatnonzero(classes == value)
        if not len(mine):
            continue
        same = None if groups is None else np.unique(groups[members], return_inverse=True)[1]
        first = int(numbers[mine[0]]) // len(there)
        chosen[mine] = members[
            draw(len(members), start=first, count=len(mine),
                 seed=derive_seed(seed, "class", value), groups=same)
        ]  # fmt: skip
    return chosen
