"""A second look at images, which nothing was trained for: how bright and how rough, and where.

A lens that was taught to know an image again through blur and noise hardly sees either, and takes
grain for a chest; this look sees both. Bands are differences between an image and itself at half
the size (a Laplacian pyramid: Burt and Adelson, IEEE Trans. Commun. 31, 1983).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

PLACES = 4
QUIET = 1e-4  # added to a band's energy, so that flat places are not minus infinity


def octaves(images: np.ndarray) -> np.ndarray:
    """Return (N, D) float64 for images (N, C, H, W): at each of 4 x 4 places the brightness, and
    the logarithm of the energy in each octave down to squares of 4 x 4 values."""
    x = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    rows = []
    while x.shape[-1] > PLACES:
        coarse = F.avg_pool2d(x, 2)
        band = x - F.interpolate(coarse, size=x.shape[2:], mode="bilinear", align_corners=False)
        rows.append((F.adaptive_avg_pool2d(band**2, PLACES) + QUIET).log())
        x = coarse
    rows.append(F.adaptive_avg_pool2d(x, PLACES))
    return torch.cat([row.flatten(1) for row in rows], 1).double().numpy()


def standardised(real: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return `octaves` in units of their deviation among real images (M, C, H, W)."""
    known = octaves(real)
    mean, spread = known.mean(0), known.std(0) + 1e-6

    def look(images: np.ndarray) -> np.ndarray:
        return (octaves(images) - mean) / spread

    return look
