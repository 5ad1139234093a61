"""How alike two images are once one is laid over the other as well as it can be.

From a rough pose each of the two finds its way: a few Gauss-Newton steps over the six numbers of
an affine map, then a smooth field of small moves, because a copy may be bent. What is left apart
is compared at full size, where both images are; the places that one image doesn't show don't
count. Everybody is bent alike, so it is the score between patients that tells a copy, not the
likeness. Fixed arithmetic, trained on nobody.

Sources: Evangelidis and Psarakis, IEEE TPAMI 30 (2008), for steps on the normalised difference;
Lucas and Kanade, IJCAI 1981, for the field.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .nearest import NEVER

AFFINE_STEPS, ELASTIC_STEPS = 4, 4
WORKING_PX = 32  # the steps are taken at this size
WINDOW_PX, SMOOTH_PX = 2.0, 1.5  # what moves together, and how smooth the field stays (of 32)
STEP_PX, REACH_PX = 1.0, 2.0  # the field's largest step and move (of 32)
RIDGE = 0.05
SHOWN = 0.5  # so much of an image must be shown by the other


@dataclass(frozen=True)
class Aligned:
    """B pairs: `likeness` (B,) in [-1, 1] and `places` (B, S, S, 2), where each pixel of the first
    image lies in the second, (x, y) in pixels from the middle."""

    likeness: torch.Tensor
    places: torch.Tensor


def align(images: torch.Tensor, others: torch.Tensor, poses: torch.Tensor) -> Aligned:
    """Lay `others` over `images`, both (B, S, S), from affine maps (B, 2, 3) of pixels counted
    from the middle."""
    factor = images.shape[-1] // WORKING_PX
    small, beside = (F.avg_pool2d(x[:, None], factor) for x in (images, others))
    beside = torch.cat([beside, *slopes(beside)], 1)
    scale = poses.new_tensor([1.0, 1.0, factor])
    maps = straighten(small, beside, poses / scale)
    field = bend(small, beside, maps)
    places = lattice(images.shape[-1], images) @ maps[:, None, :, :2].transpose(2, 3)
    places = places + factor * (maps[:, None, None, :, 2] + _enlarge(field, factor))
    moved, shown = look_up(others[:, None], places)
    return Aligned(_correlate(images[:, None], moved, shown)[0], places)


def straighten(image: torch.Tensor, other: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return the best affine maps (B, 2, 3) met on the way from `maps`.

    `image` is (B, 1, s, s), `other` (B, 3, s, s): the second image and its slopes.
    """
    line = lattice(image.shape[-1], image)
    unit = torch.cat([line / (image.shape[-1] / 2), torch.ones_like(line[..., :1])], -1)
    best, kept = maps.new_full((len(maps),), NEVER), maps
    for step in range(AFFINE_STEPS + 1):
        places = line @ maps[:, None, :, :2].transpose(2, 3) + maps[:, None, None, :, 2]
        seen, shown = look_up(other, places)
        likeness, apart, gain = _correlate(image, seen[:, :1], shown)
        better = likeness > best
        best, kept = best.where(~better, likeness), kept.where(~better[:, None, None], maps)
        if step < AFFINE_STEPS:
            maps = maps + _affine_step(apart, seen[:, 1:] * gain * shown, unit)
    return kept


def _affine_step(apart: torch.Tensor, slope: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Solve the normal equations of one Gauss-Newton step; -> (B, 2, 3)."""
    each = (slope[:, :, None] * unit.permute(2, 0, 1)).flatten(1, 2).flatten(2)  # (B, 6, n)
    each = each - each.mean(2, keepdim=True)
    normal = each @ each.transpose(1, 2)
    steady = 0.01 * normal.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] + 1e-9
    normal = normal + steady * torch.eye(6, device=normal.device)
    step = torch.linalg.solve(normal, each @ apart.flatten(1)[..., None]).reshape(-1, 2, 3)
    step = step / (step.abs().amax((1, 2), keepdim=True) / STEP_PX).clamp_min(1.0)
    half = step.new_tensor([2 / apart.shape[-1], 2 / apart.shape[-1], 1.0])
    return step * half


def bend(image: torch.Tensor, other: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Return the field of moves (B, s, s, 2) that is left after an affine map."""
    line = lattice(image.shape[-1], image)
    start = line @ maps[:, None, :, :2].transpose(2, 3) + maps[:, None, None, :, 2]
    field = torch.zeros_like(start)
    for _ in range(ELASTIC_STEPS):
        seen, shown = look_up(other, start + field)
        _, apart, gain = _correlate(image, seen[:, :1], shown)
        x, y = (seen[:, 1:] * gain * shown).split(1, 1)
        sums = soften(torch.cat([x * x, x * y, y * y, x * apart, y * apart], 1), WINDOW_PX)
        xx, xy, yy, xe, ye = sums.split(1, 1)
        steady = RIDGE * (xx + yy).mean((2, 3), keepdim=True) + 1e-9
        xx, yy = xx + steady, yy + steady
        step = torch.cat([yy * xe - xy * ye, xx * ye - xy * xe], 1) / (xx * yy - xy * xy)
        moved = field.permute(0, 3, 1, 2) + step.clamp(-STEP_PX, STEP_PX)
        field = soften(moved, SMOOTH_PX).clamp(-REACH_PX, REACH_PX).permute(0, 2, 3, 1)
    return field


def lattice(side: int, like: torch.Tensor) -> torch.Tensor:
    """Return (side, side, 2): x and y of each pixel, counted from the middle."""
    line = torch.arange(side, device=like.device, dtype=like.dtype) - (side - 1) / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y], -1)


def slopes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how (B, 1, s, s) images rise along x and along y, 0 at the border."""
    across = F.pad((x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2, (1, 1, 1, 1))
    down = F.pad((x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2, (1, 1, 1, 1))
    return across, down


def look_up(x: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, C, S, S) images as seen at places (B, S, S, 2), and where they show anything,
    (B, 1, S, S) of 0 and 1."""
    grid = places / ((x.shape[-1] - 1) / 2)
    seen = F.grid_sample(x, grid, align_corners=True, padding_mode="border")
    return seen, (grid.abs().amax(-1) <= 1.0).to(x.dtype)[:, None]


def soften(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur (B, C, s, s) with a Gaussian, cut off at the border and where it is next to nothing."""
    line = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    weights = torch.exp(-((line[:, None] - line) ** 2) / (2 * sigma**2))
    weights = weights.where(weights > 1e-4, torch.zeros_like(weights))
    weights = (weights / weights.sum(1, keepdim=True)).T
    across = x @ weights
    return (across.transpose(-1, -2).contiguous() @ weights).transpose(-1, -2)


def _correlate(image, seen, shown) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the likeness (B,) where both are shown, what is left apart (B, 1, s, s), and by how
    much the second image is to be strengthened (B, 1, 1, 1)."""
    area = shown.sum((2, 3), keepdim=True).clamp_min(1.0)
    a, b = ((x - (x * shown).sum((2, 3), keepdim=True) / area) * shown for x in (image, seen))
    long_a, long_b = (x.norm(dim=(2, 3), keepdim=True).clamp_min(1e-6) for x in (a, b))
    likeness = (a * b).sum((2, 3), keepdim=True) / (long_a * long_b)
    gain = likeness.clamp_min(0.2) * long_a / long_b
    enough = shown.mean((1, 2, 3)) >= SHOWN
    return likeness.flatten().where(enough, likeness.new_tensor(NEVER)), a - gain * b, gain


def _enlarge(field: torch.Tensor, factor: int) -> torch.Tensor:
    x = field.permute(0, 3, 1, 2)
    large = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    return large.permute(0, 2, 3, 1)
