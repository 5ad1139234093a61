"""How hard an image is, whoever was trained on it: what an attack must take off.

A smooth image is easy for every denoiser, and an attack on its loss takes it for one that was
trained on. What other patients' images make one expect of such an image is learnt by regression,
where others train reference models.
Sources: Watson et al., arXiv 2111.08440 (calibration by difficulty); Tang et al., arXiv
2312.05140 (regression on images in place of reference models; theirs is of a quantile, this one
of the mean).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

FOLDS = 10
SMALLEST_PX = 8  # the coarsest octave of detail that is looked at
PENALTY = 1.0  # of the squared weights, beside the sum of squared errors


def traits(images: np.ndarray) -> np.ndarray:
    """Return what (N, C, H, W) images look like, (N, D): the octaves of their detail, then each
    channel's brightness and contrast."""
    return np.column_stack([octaves(images), images.mean((2, 3)), images.std((2, 3))])


def octaves(images: np.ndarray) -> np.ndarray:
    """Return the log of the energy of the detail of (N, C, H, W) images in octaves, (N, K), the
    finest first."""
    rest, found = torch.from_numpy(images), []
    while rest.shape[-1] >= SMALLEST_PX and rest.shape[-1] % 2 == 0:
        coarse = F.avg_pool2d(rest, 2)
        detail = rest - F.interpolate(coarse, scale_factor=2.0)
        found.append((detail.square().mean((1, 2, 3)) + 1e-8).log())
        rest = coarse
    return torch.stack(found, 1).numpy()


def expect(
    values: np.ndarray, traits: np.ndarray, patients: np.ndarray, *, seed: int
) -> np.ndarray:
    """Return what is expected of each of (N,) values, given `traits` (N, D): by ridge regression
    on them and their squares, from the images of other patients, in 10 folds at most.

    The offset is everybody's mean: one of other patients alone would lie the lower, the higher a
    patient's own values are.
    """
    rng = np.random.default_rng(seed)
    people = int(patients.max()) + 1
    fold = (rng.permutation(people) % min(FOLDS, people))[patients]
    x = _unit(traits.astype(np.float64))
    x = _unit(np.column_stack([x, x**2]))
    around = values - values.mean()
    expected = np.empty(len(values))
    for number in range(fold.max() + 1):
        left = fold != number
        known = x[left].T @ x[left] + PENALTY * np.eye(x.shape[1])
        expected[~left] = x[~left] @ np.linalg.solve(known, x[left].T @ around[left])
    return expected + values.mean()


def _unit(columns: np.ndarray) -> np.ndarray:
    return (columns - columns.mean(0)) / np.maximum(columns.std(0), 1e-9)
