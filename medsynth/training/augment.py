"""Changes under which an image stays the same image: what the lens learns not to see.

All work on batches (N, C, H, W) float32 in [-1, 1] and draw from torch's global generator, which
the loop seeds for every step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..domains import Symmetry


def views_of(symmetry: Symmetry) -> tuple[tuple[int, bool], ...]:
    """Return a symmetry's changes as (quarter turns, mirrored afterwards); the first is none."""
    quarters = (0, 1, 2, 3) if symmetry in ("rotations", "flips and rotations") else (0,)
    mirrors = (False, True) if symmetry in ("flip", "flips and rotations") else (False,)
    return tuple((quarter, mirrored) for mirrored in mirrors for quarter in quarters)


def flip_and_turn(images: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """Apply one of the symmetry's changes to each image, drawn at random."""
    if symmetry == "identity":
        return images
    coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    if symmetry in ("flip", "flips and rotations"):
        images = torch.where(coins, images.flip(3), images)
    if symmetry in ("rotations", "flips and rotations"):
        turns = torch.randint(0, 4, (len(images),), device=images.device)
        for quarter in (1, 2, 3):
            chosen = (turns == quarter)[:, None, None, None]
            images = torch.where(chosen, images.rot90(quarter, (2, 3)), images)
    return images


def move(images: torch.Tensor, *, zoom: float, degrees: float, shift: float) -> torch.Tensor:
    """Zoom in by 1 to 1 / `zoom`, rotate by up to `degrees` and shift by up to a share `shift`."""
    count, device = len(images), images.device
    scale = zoom + (1 - zoom) * torch.rand(count, device=device)
    angle = (2 * torch.rand(count, device=device) - 1) * math.radians(degrees)
    offset = (2 * torch.rand(count, 2, device=device) - 1) * (1 - scale[:, None] + shift)
    matrix = torch.stack(
        [
            scale * angle.cos(),
            -scale * angle.sin(),
            offset[:, 0],
            scale * angle.sin(),
            scale * angle.cos(),
            offset[:, 1],
        ],
        1,
    ).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def change_light(images: torch.Tensor, *, strength: float, noise: float) -> torch.Tensor:
    """Change contrast, brightness and gamma by up to `strength`, and add noise up to `noise`."""
    count, device = len(images), images.device

    def draw() -> torch.Tensor:
        return (2 * torch.rand(count, 1, 1, 1, device=device) - 1) * strength

    bright = ((images + 1) / 2).clamp(1e-4, 1.0) ** draw().exp()
    changed = (2 * bright - 1) * (1 + draw()) + draw()
    amount = noise * torch.rand(count, 1, 1, 1, device=device)
    return (changed + amount * torch.randn_like(images)).clamp(-1.0, 1.0)


def soften(images: torch.Tensor) -> torch.Tensor:
    """Blur every second image, at random, with a 3x3 binomial kernel."""
    row = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = (row[:, None] * row[None, :]).expand(images.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), "reflect"), kernel, groups=images.shape[1])
    coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(coins, blurred, images)


def disguise(images: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """Return the images as a copy of them might come: cropped, turned, recoloured, noisy, soft."""
    moved = move(flip_and_turn(images, symmetry), zoom=0.75, degrees=10.0, shift=0.05)
    return soften(change_light(moved, strength=0.25, noise=0.1))
