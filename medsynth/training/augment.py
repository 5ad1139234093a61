"""Changes under which an image stays the same image: what the lens learns not to see.

All work on batches (N, C, H, W) float32 in [-1, 1] and draw from torch's global generator, which
the loop seeds for every step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..domains import Symmetry

KNOTS = 6  # along a side, of the smooth field that bends an image


def views_of(symmetry: Symmetry) -> tuple[tuple[int, bool], ...]:
    """Return a symmetry's changes as (quarter turns, mirrored afterwards); the first is none."""
    quarters = (0, 1, 2, 3) if symmetry in ("rotations", "flips and rotations") else (0,)
    mirrors = (False, True) if symmetry in ("flip", "flips and rotations") else (False,)
    return tuple((quarter, mirrored) for mirrored in mirrors for quarter in quarters)


def draw_turns(count: int, symmetry: Symmetry, device: str) -> torch.Tensor:
    """Draw one of the symmetry's changes for each image: (count, 2) int64, a coin for mirroring
    and quarter turns; both are drawn where either is allowed."""
    if symmetry == "identity":
        return torch.zeros(count, 2, dtype=torch.int64, device=device)
    coins = torch.rand(count, 1, 1, 1, device=device) < 0.5
    turns = torch.zeros(count, dtype=torch.int64, device=device)
    if symmetry in ("rotations", "flips and rotations"):
        turns = torch.randint(0, 4, (count,), device=device)
    mirrored = coins.flatten() & (symmetry in ("flip", "flips and rotations"))
    return torch.stack([mirrored.long(), turns], 1)


def flip_and_turn(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Mirror and turn images as `draw_turns` says of each."""
    mirrored, quarters = turns.unbind(1)
    images = torch.where((mirrored == 1)[:, None, None, None], images.flip(3), images)
    for quarter in (1, 2, 3):
        chosen = (quarters == quarter)[:, None, None, None]
        images = torch.where(chosen, images.rot90(quarter, (2, 3)), images)
    return images


def move(
    images: torch.Tensor, *, zoom: float, degrees: float, shift: float, bend: float = 0.0
) -> torch.Tensor:
    """Zoom in by 1 to 1 / `zoom`, rotate by up to `degrees`, shift by up to a share `shift`, and
    bend smoothly by up to a share `bend` of the side, root mean square along each axis."""
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
    if bend:
        grid = grid + 2 * bend * _smooth_fields(images)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _smooth_fields(images: torch.Tensor) -> torch.Tensor:
    """(N, H, W, 2): random numbers at KNOTS x KNOTS places, joined smoothly, of a root mean square
    that is drawn from 0 to 1."""
    count, device = len(images), images.device
    down, across = (
        F.interpolate(
            torch.eye(KNOTS, device=device)[None], size, mode="linear", align_corners=False
        )[0]
        for size in images.shape[2:]
    )
    field = down.T @ torch.randn(count, 2, KNOTS, KNOTS, device=device) @ across
    spread = field.std((2, 3), keepdim=True) + 1e-6
    amount = torch.rand(count, 1, 1, 1, device=device)
    return (field / spread * amount).permute(0, 2, 3, 1)


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
    """Blur every second image, at random, with a 3x3 binomial kernel, the border repeated."""
    rows = (images[:, :, :1], images, images[:, :, -1:])
    tall = torch.cat(rows, 2)
    tall = (tall[:, :, :-2] + 2 * images + tall[:, :, 2:]) / 4
    wide = torch.cat((tall[..., :1], tall, tall[..., -1:]), 3)
    blurred = (wide[..., :-2] + 2 * tall + wide[..., 2:]) / 4
    coins = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(coins, blurred, images)


def compress(images: torch.Tensor, *, worst: float, best: float) -> torch.Tensor:
    """Round every second image, at random, in blocks of 8 x 8 cosines as a JPEG of a quality from
    `worst` to `best`, up to 50, would; the table is that for brightness, for every channel.

    Source: ITU-T T.81, annex K.1; its scaling as in libjpeg.
    """
    count, _, height, width = images.shape
    device = images.device
    down, across = (_cosines(-(-size // 8), device) for size in (height, width))
    spare = (0, len(across) - width, 0, len(down) - height)
    quality = worst + (best - worst) * torch.rand(count, 1, 1, device=device)
    steps = (_TABLE.to(device) * 50 / quality).clamp(min=1.0) / 127.5
    steps = steps.repeat(1, len(down) // 8, len(across) // 8)[:, None]
    waves = down @ F.pad(images, spare, "replicate") @ across.T
    back = down.T @ ((waves / steps).round() * steps) @ across
    coins = torch.rand(count, 1, 1, 1, device=device) < 0.5
    return torch.where(coins, back[..., :height, :width].clamp(-1.0, 1.0), images)


def _cosines(blocks: int, device: torch.device) -> torch.Tensor:
    """(8 B, 8 B): the orthonormal cosine transform of each of B runs of 8 pixels."""
    waves, places = torch.arange(8.0, device=device)[:, None], torch.arange(8.0, device=device)
    matrix = torch.cos(math.pi * (2 * places + 1) * waves / 16) / 2
    matrix[0] /= math.sqrt(2)
    return torch.block_diag(*[matrix] * blocks)


_TABLE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)


def disguise(images: torch.Tensor) -> torch.Tensor:
    """Return the images as a copy of them might come: cropped, turned, bent, recoloured, noisy,
    soft, compressed.

    Only a little of what moves them: the search shows the lens each image mirrored, turned and
    cropped, so that it need not learn not to see that.
    """
    moved = move(images, zoom=0.9, degrees=4.0, shift=0.02, bend=0.02)
    return compress(soften(change_light(moved, strength=0.25, noise=0.1)), worst=20, best=50)
