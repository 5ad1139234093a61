"""How far two clouds of features are apart: Frechet and kernel distance.

Both are taken apart into sums over groups, so that leaving one group out for the jackknife costs
next to nothing. Features are (N, D), groups (N,) numbers from 0, as many on both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .statistics import Estimate, jackknife

BLOCK = 1024


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Return the squared Frechet distance of the Gaussians fitted to two clouds; 0 = the same.

    It grows as samples get fewer: compare only numbers taken at the same count.
    Source: Dowson and Landau, J. Multivar. Anal. 12 (1982); Heusel et al. 2017, arXiv 1706.08500.
    """
    return _frechet(_moments(a), _moments(b))


def frechet_interval(
    a: np.ndarray, b: np.ndarray, groups_a: np.ndarray, groups_b: np.ndarray
) -> Estimate:
    """Return `frechet` with a jackknife interval over groups of patients."""
    return jackknife(
        lambda keep: _frechet(_moments(a[keep[groups_a]]), _moments(b[keep[groups_b]])),
        int(groups_a.max()) + 1,
    )


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    """Return the unbiased squared kernel distance (KID), cubic kernel; about 0 = the same.

    Unbiased, so it may be a little below 0. Source: Bińkowski et al. 2018, arXiv 1801.01401.
    """
    return _kernel(a, b, np.zeros(len(a), int), np.zeros(len(b), int))(np.ones(1, bool))


def kernel_interval(
    a: np.ndarray, b: np.ndarray, groups_a: np.ndarray, groups_b: np.ndarray
) -> Estimate:
    """Return `kernel` with a jackknife interval over groups of patients."""
    return jackknife(_kernel(a, b, groups_a, groups_b), int(groups_a.max()) + 1)


Moments = tuple[np.ndarray, np.ndarray]


def _moments(features: np.ndarray) -> Moments:
    x = np.asarray(features, np.float64)
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def _frechet(a: Moments, b: Moments) -> float:
    (mean_a, cov_a), (mean_b, cov_b) = a, b
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    # Symmetric, so its eigenvalues are real and the root's trace needs no matrix square root.
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    apart = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * shared
    return max(0.0, float(apart))


def _kernel(
    a: np.ndarray, b: np.ndarray, groups_a: np.ndarray, groups_b: np.ndarray
) -> Callable[[np.ndarray], float]:
    aa, own_a, count_a = _kernel_sums(a, a, groups_a, groups_a)
    bb, own_b, count_b = _kernel_sums(b, b, groups_b, groups_b)
    ab, _, _ = _kernel_sums(a, b, groups_a, groups_b)

    def of(keep: np.ndarray) -> float:
        n, m = count_a[keep].sum(), count_b[keep].sum()
        pairs = np.ix_(keep, keep)
        within_a = (aa[pairs].sum() - own_a[keep].sum()) / (n * (n - 1))
        within_b = (bb[pairs].sum() - own_b[keep].sum()) / (m * (m - 1))
        return float(within_a + within_b - 2 * ab[pairs].sum() / (n * m))

    return of


def _kernel_sums(a, b, groups_a, groups_b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kernel sums between groups (G, G), of points with themselves (G,), and counts (G,)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    one_a, one_b = (np.eye(groups.max() + 1)[groups] for groups in (groups_a, groups_b))
    sums = np.zeros((one_a.shape[1], one_b.shape[1]))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        sums += one_a[rows].T @ _cubic(a[rows] @ b.T, a.shape[1]) @ one_b
    own = one_a.T @ _cubic((a**2).sum(1), a.shape[1])
    return sums, own, one_a.sum(0)


def _cubic(products: np.ndarray, dimension: int) -> np.ndarray:
    return (products / dimension + 1) ** 3
