"""The first look: a window of each image against every place of every real image, by products.

Windows are written as cosines: a few of them hold what a first look needs, the ways of a
symmetry only change their signs or swap rows with columns, and so four small matrix products
twice do the work of eight convolutions. Real images are taken in blocks, so that memory is that
of one block. A normalised cross-correlation of the window's coarser structure comes out.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from ..domains import Symmetry

TILE = {"cpu": 2**17, "cuda": 2**25}
"""How many (place, window) pairs are held at a time."""


def ways(symmetry: Symmetry) -> list[tuple[bool, int, int]]:
    """Return the ways of a symmetry, in `registration.symmetric`'s order, as what they do to
    cosines: whether rows and columns are swapped, and whether the odd ones change sign along
    rows and along columns."""
    turns = [(False, 0, 0), (True, 1, 0), (False, 1, 1), (True, 0, 1)]
    turned = turns if "rotations" in symmetry else turns[:1]
    mirrored = [(swap, u, 1 - v) for swap, u, v in turned] if "flip" in symmetry else []
    return [*turned, *mirrored]


@cache
def _waves(window_px: int, radius: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return cosines (M, window_px), which pairs of them count, rows u and columns v, at
    most `radius` waves in any direction and the mean left out, and how many of these come first
    because u + v is even."""
    places = torch.arange(window_px) + 0.5
    count = min(radius + 1, window_px)
    rows = [torch.cos(math.pi * k * places / window_px) for k in range(count)]
    pairs = [(u, v) for u in range(count) for v in range(count)]
    pairs = [pair for pair in pairs if 0 < math.hypot(*pair) <= radius]
    pairs.sort(key=lambda pair: (pair[0] + pair[1]) % 2)
    even = sum((u + v) % 2 == 0 for u, v in pairs)
    return torch.stack([row / row.norm() for row in rows]), torch.tensor(pairs), even


def look(
    windows: torch.Tensor,
    images: torch.Tensor,
    symmetry: Symmetry,
    *,
    radius: int,
    floor: float,
    stride: int = 1,
) -> torch.Tensor:
    """Return (Q, P, N) likeness in [-1, 1]: the best of all places and ways of the symmetry.

    `windows` are (Q, P, w, w), `images` (N, 1, S, S). A place with less energy than `floor` is
    held to have that much, so that emptiness resembles nothing.
    """
    count, window_px = windows.shape[0] * windows.shape[1], windows.shape[-1]
    cosines, pairs, even = _waves(window_px, radius)
    cosines, pairs = cosines.to(images.device), pairs.to(images.device)
    wave = cosines @ windows.flatten(0, 1) @ cosines.T  # (QP, u, v)
    asked = [wave[:, u, v] for u, v in (pairs.T, pairs.T.flip(0))]  # as it is, rows for columns
    asked = [each / each.norm(dim=1, keepdim=True).clamp_min(1e-6) for each in asked]
    places = len(range(0, images.shape[-1] - window_px + 1, stride)) ** 2
    block = max(1, TILE[images.device.type] // (places * count))
    found = []
    for few in images[:, 0].split(block):
        waves = _places(few, cosines, pairs, stride)
        length = waves.square().sum(1, keepdim=True).clamp_min(floor).sqrt()
        best = _best(waves / length, asked, pairs, even, ways(symmetry))
        found.append(best.view(len(few), places, count).amax(1))
    return torch.cat(found).T.reshape(*windows.shape[:2], len(images))


def energy(images: torch.Tensor, window_px: int, radius: int) -> float:
    """Return the mean energy of all places of (N, 1, S, S) images."""
    cosines, pairs, _ = _waves(window_px, radius)
    cosines, pairs = cosines.to(images.device), pairs.to(images.device)
    sums = [
        float(_places(few, cosines, pairs, 1).square().sum(1).mean()) * len(few)
        for few in images[:, 0].split(256)
    ]
    return sum(sums) / len(images)


def _places(images, cosines, pairs, stride: int) -> torch.Tensor:
    """Return the cosines (places, K) of every window of (n, S, S) images."""
    waves, window_px = cosines.shape
    starts = range(0, images.shape[-1] - window_px + 1, stride)
    laid = images.new_zeros(len(starts), waves, images.shape[-1])
    for place, start in enumerate(starts):
        laid[place, :, start : start + window_px] = cosines
    laid = laid.flatten(0, 1)
    both = (laid @ images @ laid.T).view(-1, len(starts), waves, len(starts), waves)  # y, u, x, v
    flat = both.transpose(2, 3).reshape(-1, waves**2)
    return flat.index_select(1, pairs[:, 0] * waves + pairs[:, 1])


def _best(waves, asked, pairs, even: int, symmetry) -> torch.Tensor:
    """Return (places, QP): the largest product over all ways.

    A half turn only changes the sign of the odd sums u + v, so that two ways cost one product:
    even + |odd|. A mirroring changes the sign of the odd u; the other mirroring follows by a half
    turn.
    """
    mirrored = torch.where(pairs[:, 0] % 2 == 1, -1.0, 1.0).to(waves)
    best = None
    for swap, mirror in sorted({(swap, u != v) for swap, u, v in symmetry}):
        wave = asked[swap] * mirrored if mirror else asked[swap]
        total = waves[:, :even] @ wave[:, :even].T
        odd = waves[:, even:] @ wave[:, even:].T
        turned = {v for other, u, v in symmetry if (other, u != v) == (swap, mirror)}
        total += odd.abs_() if len(turned) == 2 else odd * (-1) ** turned.pop()
        best = total if best is None else torch.maximum(best, total, out=best)
    return best
