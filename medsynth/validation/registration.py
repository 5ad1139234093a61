"""Likeness of two images whichever way one was mirrored, turned, cropped, shifted or brightened.

An image is reduced to grey and band-passed: structure stays, brightness and shading go. Its
middle, mirrored, turned and scaled in every way that is looked for, is laid over every place of
the other image; the likeness of the pair is the largest normalised cross-correlation. It is fixed
arithmetic, trained on nobody, so it can't favour the training patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from ..domains import Symmetry

BASE_PX = 64
FINE_SIGMA, COARSE_SIGMA = 0.8, 5.0


@dataclass(frozen=True)
class Grid:
    """At what size, and in which ways, pairs are compared.

    `side_px` is the size of the images, `window_px` that of the middle that is moved over the
    other image. `poses` are (scale, degrees): scale 0.9 finds an image that is 0.9 of the other,
    enlarged.
    """

    side_px: int
    window_px: int
    poses: tuple[tuple[float, float], ...]


ROUGH = Grid(32, 24, ((0.92, 0.0), (1.0, 0.0)))
FINE = Grid(
    ROUGH.side_px,
    ROUGH.window_px,
    (
        *((scale, 0.0) for scale in (0.8, 0.87, 0.93, 1.0, 1.08)),
        *((scale, turn) for turn in (-5.0, 5.0) for scale in (0.87, 0.93, 1.0)),
    ),
)


def structure(images: np.ndarray) -> np.ndarray:
    """Return (N, BASE_PX, BASE_PX) float32: grey, reduced, band-passed, robust to single spots.

    `images` are (N, C, H, W) floats in [-1, 1].
    """
    grey = torch.from_numpy(np.ascontiguousarray(images.mean(1, keepdims=True), np.float32))
    mode = {"mode": "bilinear", "antialias": True, "align_corners": False}
    small = F.interpolate(grey, size=(BASE_PX, BASE_PX), **mode)[:, 0].numpy()
    fine = ndimage.gaussian_filter(small, (0, FINE_SIGMA, FINE_SIGMA), mode="nearest")
    band = fine - ndimage.gaussian_filter(small, (0, COARSE_SIGMA, COARSE_SIGMA), mode="nearest")
    spread = band.std((1, 2), keepdims=True) + 1e-6
    return np.tanh(band / (2 * spread)).astype(np.float32)


def symmetric(x: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """Return (G, ..., H, W): `x` in all the ways of a symmetry, the first as it is."""
    turns = range(4) if "rotations" in symmetry else range(1)
    turned = [torch.rot90(x, turn, (-2, -1)) for turn in turns]
    mirrored = [t.flip(-1) for t in turned] if "flip" in symmetry else []
    return torch.stack([*turned, *mirrored])


def reduce(structures: torch.Tensor, side_px: int) -> torch.Tensor:
    """Return (N, 1, side_px, side_px) of (N, BASE_PX, BASE_PX)."""
    return F.avg_pool2d(structures[:, None], BASE_PX // side_px)


def templates(structures: torch.Tensor, grid: Grid, symmetry: Symmetry) -> torch.Tensor:
    """Return (N, T, window_px, window_px): each image's middle in all poses and symmetries.

    Each has mean 0 and length 1.
    """
    step = BASE_PX // grid.side_px
    sharp = F.avg_pool2d(structures[:, None], step, stride=1)  # as `reduce` sees it, everywhere
    poses = [
        F.grid_sample(
            sharp,
            _lattice(grid, pose, len(sharp), sharp.shape[-1]),
            align_corners=True,
            padding_mode="border",
        )[:, 0]
        for pose in grid.poses
    ]
    every = symmetric(torch.stack(poses, 1), symmetry)  # (G, N, P, w, w)
    flat = every.movedim(1, 0).flatten(1, 2)
    flat = flat - flat.mean((-2, -1), keepdim=True)
    return flat / flat.flatten(2).norm(dim=2).clamp_min(1e-6)[..., None, None]


def _lattice(grid: Grid, pose: tuple[float, float], count: int, side: int) -> torch.Tensor:
    scale, degrees = pose
    reach = (grid.window_px - 1) / 2 / scale * (BASE_PX / grid.side_px) / ((side - 1) / 2)
    line = torch.linspace(-reach, reach, grid.window_px)
    y, x = torch.meshgrid(line, line, indexing="ij")
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.stack([c * x - s * y, s * x + c * y], -1).expand(count, -1, -1, -1)


def window_norms(reduced: torch.Tensor, window_px: int) -> torch.Tensor:
    """Return (N, 1, S, S): root of the summed squared deviation in each window of the images.

    A window with hardly any structure gets a floor, so that emptiness resembles nothing.
    """
    return to_norms(window_energy(reduced, window_px))


def window_energy(reduced: torch.Tensor, window_px: int) -> torch.Tensor:
    """Return (N, 1, S, S): the summed squared deviation in each window of the images."""
    mean = F.avg_pool2d(reduced, window_px, stride=1)
    square = F.avg_pool2d(reduced**2, window_px, stride=1)
    return (square - mean**2).clamp_min(0) * window_px**2


def to_norms(energy: torch.Tensor) -> torch.Tensor:
    """Return the roots of windows' energies, which are all that there are, with a floor."""
    return energy.clamp_min(0.05 * float(energy.mean()) + 1e-6).sqrt()


def match(template: torch.Tensor, reduced: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Return (M,) likeness in [-1, 1] of one image's (T, w, w) templates to M reduced images."""
    response = F.conv2d(reduced, template[:, None])  # (M, T, S, S)
    return (response.amax(1, keepdim=True) / norms).flatten(1).amax(1)


def locate(
    template: torch.Tensor, reduced: torch.Tensor, norms: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return `match`'s likeness (M,), which of `symmetric`'s ways it needs (M,), and then where
    the image lies: affine maps (M, 2, 3) from its pixels to the other's, at BASE_PX and counted
    from the middle."""
    response = F.conv2d(reduced, template[:, None]) / norms  # (M, T, S, S)
    likeness, at = response.flatten(1).max(1)
    places = response.shape[-1]
    way = at // places**2 // len(grid.poses)
    pose = torch.tensor(grid.poses, device=at.device)[at // places**2 % len(grid.poses)]
    ways = len(template) // len(grid.poses)
    mirrored = (way >= ways // 2) & (ways in (2, 8))  # `symmetric` puts the mirrored ones last
    turn = torch.deg2rad(pose[:, 1]) * torch.where(mirrored, -1.0, 1.0)
    c, s = pose[:, 0] * torch.cos(turn), pose[:, 0] * torch.sin(turn)
    step = BASE_PX // grid.side_px
    down, across = (step * (i - (places - 1) / 2) for i in (at % places**2 // places, at % places))
    rows = [torch.stack([c, s, across], -1), torch.stack([-s, c, down], -1)]
    return likeness, way, torch.stack(rows, -2)
