"""Augmentation that the denoiser is told of, so that it does not come into the samples.

    the data       each training image is encoded some more times, zoomed, turned, shifted and
                   perhaps mirrored by amounts of its own
    the network    gets those amounts as a condition; all zero says that nothing was changed
    sampling       tells it nothing, which is zero

Images are changed and then encoded: a latent that is itself turned or zoomed is none that the
encoder makes. The cost is one pass of the encoder a view, once; a training step costs the same.
Source: Karras et al., arXiv 2206.00364, section 5 (non-leaky augmentation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .. import protocol
from ..data.loader import Frames
from ..models.autoencoder import Autoencoder
from ..runtime import derive_seed
from .filling import fill

ENCODED = 64  # images at a time


@dataclass(frozen=True)
class Told:
    """Changed views of the training images, K of each: latents (K, N, c, h, w) float32, what was
    done (K, N, AMOUNTS) float32 as `draw_amounts` gives it, conditions (K, N, L) int64, and the
    share of what training draws that is changed."""

    latents: np.ndarray
    amounts: np.ndarray
    conditions: torch.Tensor
    share: float

    def mix(
        self, z: np.ndarray, condition: torch.Tensor, chosen: np.ndarray, own: slice
    ) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Put a changed view of itself in the place of a share of the images `chosen` (n,), with
        conditions (n, L) and, for the rows `own`, latents z (m, c, h, w); return also these rows'
        amounts (m, AMOUNTS)."""
        coins = (torch.rand(len(chosen)) < self.share).numpy()
        views = torch.randint(0, len(self.latents), (len(chosen),)).numpy()
        mixed = torch.where(
            torch.from_numpy(coins)[:, None], self.conditions[views, chosen], condition
        )
        coins, views, chosen = coins[own], views[own], chosen[own]
        amounts = np.where(coins[:, None], self.amounts[views, chosen], np.float32(0))
        z = np.where(coins[:, None, None, None], self.latents[views, chosen], z)
        return z, mixed, torch.from_numpy(amounts)


def draw_amounts(settings: protocol.Told, count: int, *, view: int, seed: int) -> np.ndarray:
    """Return how each of `count` images is changed in a view: (count, AMOUNTS) float32.

    The columns are zoom, turn, shift across and shift down, from -1 to 1 for the smallest and the
    largest that the protocol asks for, and 1 for mirrored: every second view is, where asked for.
    """
    random = np.random.default_rng(derive_seed(seed, "told", view))
    amounts = random.uniform(-1, 1, (count, protocol.AMOUNTS)).astype(np.float32)
    amounts[:, -1] = float(mirrored(settings, view))
    return amounts


def mirrored(settings: protocol.Told, view: int) -> bool:
    """True where a view shows mirror images."""
    return settings.mirror and view % 2 == 1


def change(images: torch.Tensor, amounts: torch.Tensor, settings: protocol.Told) -> torch.Tensor:
    """Change images (N, C, H, W) in [-1, 1] by amounts (N, AMOUNTS); zeros change nothing.

    Mirrored first, then turned, zoomed and shifted; what comes in at the border is a reflection.
    """
    zoom, turn, across, down, mirror = amounts.unbind(1)
    scale = torch.exp(-zoom * math.log1p(settings.zoom))  # of the sampling grid: zooming in is < 1
    angle = turn * math.radians(settings.degrees)
    flip = torch.where(mirror > 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [flip * cos, -flip * sin, torch.zeros_like(cos), sin, cos, torch.zeros_like(cos)]
    matrix = torch.stack(rows, 1).reshape(-1, 2, 3)
    moved = -2 * settings.shift * torch.stack([across, down], 1)  # a side is 2 long
    matrix[:, :, 2] = (matrix[:, :, :2] @ moved[:, :, None])[:, :, 0]
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    made = F.grid_sample(
        images, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return made.clamp(-1.0, 1.0)


def encode_changed(
    autoencoder: Autoencoder,
    frames: Frames,
    settings: protocol.Told,
    path: Path,
    *,
    seed: int,
    device: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Encode the changed views of all frames once: latents (K, N, c, h, w) float32, memory mapped
    at `path`, and amounts (K, N, AMOUNTS). Several processes divide the frames."""
    amounts = np.stack(
        [draw_amounts(settings, len(frames), view=k, seed=seed) for k in range(settings.views)]
    )

    def encode(columns: slice) -> np.ndarray:
        images = torch.from_numpy(frames[columns]).to(device)
        with torch.inference_mode():
            made = [
                autoencoder.encode(change(images, torch.from_numpy(rows).to(device), settings))
                for rows in amounts[:, columns]
            ]
        return torch.stack(made).cpu().numpy()

    return fill(path, len(frames), encode, block=ENCODED), amounts
