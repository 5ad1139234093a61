"""Negatives: the same picture with black and white exchanged, as some radiographs are stored.

Fine structure in a negative is that of its original with the sign changed, so that no search for
likeness finds one from the other. Where a domain has negatives, every image, real or not, is
first held against the mean of all real ones, training and held-out together, in all ways of the
symmetry; one whose negative resembles that mean more is turned into its negative before it is
looked at. Images that are no negatives stay as they are, so nothing is lost where there are none;
an archive that is half of negatives has no such mean, and there this sees nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..cohort import Cohort
from ..domains import Domain
from .registration import symmetric
from .search import Images, in_batches

SIDE_PX = 16


@dataclass(frozen=True)
class Righted:
    """Images (N, C, H, W) in [-1, 1], read by slices, those that are negatives turned over."""

    images: Images
    usual: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice) -> np.ndarray:
        cohort = isinstance(self.images, Cohort)
        images = self.images.floats(chosen) if cohort else self.images[chosen]
        signs = np.where(is_negative(images, self.usual), -1, 1).astype(np.float32)
        return images * signs[:, None, None, None]


def usual(domain: Domain, sides: Sequence[Images]) -> np.ndarray | None:
    """Return the mean of all real images in all ways, (G, D) thumbnails; None where the domain
    has no negatives."""
    if not domain.negatives:
        return None
    sums = [in_batches(thumbnails, side).sum(0) for side in sides]
    mean = torch.from_numpy(np.sum(sums, axis=0)).view(SIDE_PX, SIDE_PX)
    return _centred(symmetric(mean, domain.symmetries).flatten(1).numpy())


def righted(images: Images, mean: np.ndarray | None) -> Images | Righted:
    """Return images as they are to be looked at, given what `usual` returned."""
    return images if mean is None else Righted(images, mean)


def is_negative(images: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return (N,) bool: the images whose negatives resemble the mean more."""
    alike = _centred(thumbnails(images)) @ mean.T
    return alike.max(1) < -alike.min(1)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return (N, D) small grey images."""
    grey = torch.from_numpy(np.ascontiguousarray(images.mean(1, keepdims=True), np.float32))
    return F.adaptive_avg_pool2d(grey, SIDE_PX).flatten(1).numpy()


def _centred(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)
