"""What the lens is shown of an image, and how its features are compared.

A lens that has learnt little does not see that a cropped, shifted or turned image is the same. So
it is shown real images whole, in parts and a little turned, and an image that is looked up in
every way of the domain's symmetry, whole and its middle: of all these pairs the best counts. On
phantoms and radiographs that found many times as many planted copies as one look at each.

Features are whitened: what all images share weighs no more than what tells them apart. Whitening
is reckoned from training and held-out images together, which of them is which plays no part.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from ..domains import Symmetry
from .nearest import PATIENTS
from .neighbours import Neighbours, Parts, nearest

Pose = tuple[float, float, float, float]
"""Side of the window as a share of the image's, its middle right of and below the image's as a
share of half the side, and degrees by which it is turned."""

WINDOW, ASIDE, TURN = 0.9, 0.07, 5.0
WHOLE: Pose = (1.0, 0.0, 0.0, 0.0)
MIDDLE: Pose = (WINDOW, 0.0, 0.0, 0.0)
PARTS: tuple[Pose, ...] = (
    MIDDLE,
    *((WINDOW, x, y, 0.0) for x in (-ASIDE, ASIDE) for y in (-ASIDE, ASIDE)),
    *((0.95, 0.0, 0.0, degrees) for degrees in (-TURN, TURN)),
)
LEAST = 0.01  # of the mean variance, added to that of every direction
LEADING = 128  # so many directions are kept


def views(images: np.ndarray, symmetry: Symmetry) -> list[np.ndarray]:
    """Return (N, C, H, W) images in every way of a symmetry, the first as they are."""
    turns = range(4) if "rotations" in symmetry else range(1)
    ways = [np.rot90(images, turn, axes=(2, 3)) for turn in turns]
    ways += [way[..., ::-1] for way in ways] if "flip" in symmetry else []
    return [np.ascontiguousarray(way) for way in ways]


def window(images: np.ndarray, pose: Pose) -> np.ndarray:
    """Return a window of (N, C, H, W) images, enlarged to their size, the border reflected."""
    if pose == WHOLE:
        return images
    share, right, down, degrees = pose
    c, s = (share * f(math.radians(degrees)) for f in (math.cos, math.sin))
    matrix = torch.tensor([[c, -s, right], [s, c, down]]).expand(len(images), 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    seen = torch.from_numpy(np.ascontiguousarray(images, np.float32))
    mode = {"padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(seen, grid, **mode).numpy()


def seen_by(
    lens: Callable[[np.ndarray], np.ndarray],
    symmetry: Symmetry,
    way: int,
    pose: Pose,
    images: np.ndarray,
) -> np.ndarray:
    """Return a lens's features of a window of images in one of the ways of a symmetry."""
    return lens(window(views(images, symmetry)[way], pose))


@dataclass(frozen=True)
class Whitening:
    """Takes features (..., D) to (..., K) of length 1, K at most 128: less their mean, in
    directions of about equal variance."""

    mean: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Whitening:
        """Reckon it from (N, D) features; the fewer images for so many features, the less it
        does, since held-out images, of which it knows, must look no stranger than new ones."""
        n, size = features.shape
        mean = features.double().mean(0)
        around = features.double() - mean
        variance, directions = torch.linalg.eigh(around.T @ around / n)  # the largest last
        variance, directions = variance.flip(0)[:LEADING], directions.flip(1)[:, :LEADING]
        held = variance > 1e-9 * variance[0]
        held[0] = True
        added = (LEAST + size / n) * variance.clamp(min=0).sum() / size + 1e-12
        weights = directions[:, held] / (variance[held].clamp(min=0) + added).sqrt()
        return cls(mean.float(), weights.float())

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize((features - self.mean) @ self.weights, dim=-1)


@dataclass(frozen=True)
class Shown:
    """What a lens sees of N real images: `whole` (N, K) and `windows` (N * W, K), the W of one
    image together, the whole of it among them."""

    whiten: Whitening
    whole: torch.Tensor
    windows: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor, windows: torch.Tensor) -> Shown:
        """Whiten features of whole images (N, D) and of their windows (W - 1, N, D)."""
        whiten = Whitening.of(features)
        whole = whiten(features)
        every = torch.stack([whole, *(whiten(few) for few in windows)], 1)
        return cls(whiten, whole, every.flatten(0, 1))

    def nearest(
        self, ways: torch.Tensor, middles: torch.Tensor, parts: Parts, *, count: int
    ) -> dict[str, dict[str, Neighbours]]:
        """Find who is most like each query, {space: {part: neighbours}}: in "lens" by the best of
        its ways (V, Q, D), in "local" by those and its middles (M, Q, D) against all windows."""
        each = len(self.windows) // len(self.whole)
        ways, middles = self.whiten(ways), self.whiten(middles)
        every = torch.cat([ways, middles])
        lens = nearest(ways, self.whole, parts, count=count, people=PATIENTS)
        local = nearest(every, self.windows, parts.repeated(each), count=count, people=PATIENTS)
        images = {name: _of_images(near, each) for name, near in local.items()}
        return {"local": images, "lens": lens}  # what finds more comes first


def _of_images(near: Neighbours, each: int) -> Neighbours:
    """Say images in place of their windows, -1 where there is none."""
    images, leaders = (
        windows.div(each, rounding_mode="floor") for windows in (near.images, near.leaders)
    )
    return replace(near, images=images, leaders=leaders)
