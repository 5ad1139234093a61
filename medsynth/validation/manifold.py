"""How well two clouds of features cover each other: nearest-neighbour measures.

precision, recall: Kynkäänniemi et al. 2019, arXiv 1904.06991 (improved precision and recall).
density, coverage: Naeem et al. 2020, arXiv 2002.09797.

Each function returns one number an image, whose mean is the measure, so that an interval can be
taken over patients. Features are (N, D).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1024


def precision(synthetic: np.ndarray, real: np.ndarray, k: int = 3) -> np.ndarray:
    """Return (N,) 0 or 1 for each synthetic image: inside the ball of any real one."""
    return _inside(synthetic, real, radii(real, k)).any(1).astype(np.float64)


def recall(synthetic: np.ndarray, real: np.ndarray, k: int = 3) -> np.ndarray:
    """Return (M,) 0 or 1 for each real image: inside the ball of any synthetic one."""
    return precision(real, synthetic, k)


def density(synthetic: np.ndarray, real: np.ndarray, k: int = 5) -> np.ndarray:
    """Return (N,) for each synthetic image: the real balls it is in, over k (1 = typical)."""
    return _inside(synthetic, real, radii(real, k)).sum(1) / k


def coverage(synthetic: np.ndarray, real: np.ndarray, k: int = 5) -> np.ndarray:
    """Return (M,) 0 or 1 for each real image: a synthetic image is in its ball."""
    nearest = np.concatenate([block.min(1) for block in _blocks(real, synthetic)])
    return (nearest <= radii(real, k)).astype(np.float64)


def radii(features: np.ndarray, k: int) -> np.ndarray:
    """Return (N,) squared distance from each point to its k-th nearest other point."""
    k = min(k, len(features) - 1)
    # The point itself is the nearest of all, so the k-th other stands at index k.
    return np.concatenate(
        [np.partition(block, k, 1)[:, k] for block in _blocks(features, features)]
    )


def _inside(points: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.concatenate([block <= radius for block in _blocks(points, centres)])


def _blocks(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield squared distances of rows of `a` to all of `b`, a block of rows at a time."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    centre = b.mean(0)  # distances from products lose digits far from the origin
    a, b = a - centre, b - centre
    squares = (b**2).sum(1)
    for start in range(0, len(a), BLOCK):
        rows = a[start : start + BLOCK]
        squared = (rows**2).sum(1, keepdims=True) + squares - 2 * rows @ b.T
        yield np.maximum(squared, 0)
