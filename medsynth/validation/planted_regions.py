"""Known regions: a part of a training image in somebody else's image.

What a generator would do that drew a new image around a remembered lesion: the region is
mirrored or turned by a quarter as the search looks for, moved by up to 1/16 of the side, turned by
up to 4 degrees, its gamma, contrast and brightness changed, its border blended. It comes from a
place with more structure than most: of black background nothing can be copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..domains import Symmetry

SIDES: Mapping[str, float] = {"quarter": 0.25, "third": 1 / 3, "half": 0.5}
"""Sides of planted regions as shares of the image's, between the middles of blended borders;
their areas are 1/16, 1/9 and 1/4."""
SHIFT, DEGREES, BORDER = 1 / 16, 4.0, 0.15


@dataclass(frozen=True)
class Graft:
    """An image (C, H, W) in [-1, 1] with a region of another, and the region's middle, x and y as
    shares of the side."""

    image: np.ndarray
    middle: tuple[float, float]


def plant(
    bases: np.ndarray, sources: np.ndarray, side: float, symmetry: Symmetry, seed: int
) -> list[Graft]:
    """Put a region of each source, (N, C, H, W) in [-1, 1], into the base beside it; each with
    random numbers of its own."""
    children = np.random.SeedSequence(seed).spawn(len(bases))
    return [
        graft(base, source, side, symmetry, np.random.default_rng(child))
        for base, source, child in zip(bases, sources, children, strict=True)
    ]


def graft(
    base: np.ndarray,
    source: np.ndarray,
    side: float,
    symmetry: Symmetry,
    rng: np.random.Generator,
) -> Graft:
    """Put a region of `source`, of `side` times the image's side, into `base`."""
    size = base.shape[1]
    half = side * size / 2
    source = _turn(source, symmetry, rng)
    there = _choose(source, half, rng)
    here = np.clip(there + rng.uniform(-SHIFT, SHIFT, 2) * size, half, size - 1 - half)
    away = np.mgrid[:size, :size] - here[:, None, None]
    angle = np.radians(rng.uniform(-DEGREES, DEGREES))
    c, s = np.cos(angle), np.sin(angle)
    places = np.tensordot([[c, -s], [s, c]], away, 1) + there[:, None, None]
    moved = [ndimage.map_coordinates(x, places, order=1, mode="reflect") for x in source]
    moved = _brighten(np.stack(moved), rng)
    inward = np.clip((half - np.abs(away).max(0)) / (2 * half * BORDER) + 0.5, 0, 1)
    share = inward**2 * (3 - 2 * inward)
    image = np.clip(base * (1 - share) + moved * share, -1, 1).astype(np.float32)
    return Graft(image, (float(here[1] / (size - 1)), float(here[0] / (size - 1))))


def _turn(image: np.ndarray, symmetry: Symmetry, rng: np.random.Generator) -> np.ndarray:
    turns = int(rng.integers(4)) if "rotations" in symmetry else 0
    turned = np.rot90(image, turns, axes=(1, 2))
    return turned[:, :, ::-1] if "flip" in symmetry and rng.integers(2) else turned


def _choose(image: np.ndarray, half: float, rng: np.random.Generator) -> np.ndarray:
    """Return a middle (y, x), drawn from the half of all places that has more structure."""
    size = image.shape[1]
    grey = image.mean(0)
    fine = grey - ndimage.gaussian_filter(grey, size / 12)
    strength = ndimage.uniform_filter(fine**2, max(3, round(2 * half)))
    first, last = int(np.ceil(half)), int(size - 1 - half)
    inside = strength[first : last + 1, first : last + 1]
    places = np.argwhere(inside >= np.median(inside))
    return places[rng.integers(len(places))] + float(first)


def _brighten(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    unit = ((np.clip(image, -1, 1) + 1) / 2) ** rng.uniform(0.8, 1.25)
    return (2 * unit - 1) * rng.uniform(0.85, 1.15) + rng.uniform(-0.1, 0.1)
