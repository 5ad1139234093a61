"""How masks are learned: as images are, by the denoiser's own loss, on folded masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from .. import protocol
from ..domains import Symmetry
from ..models.denoiser import Denoiser
from ..models.folded import Folded
from ..runtime import derive_seed
from .diffusion import encode_views, fit_diffusion


class Shown:
    """Masks (N, K, H, W) uint8 shares as Frames are read: float32 in [-1, 1]."""

    def __init__(self, shares: np.ndarray):
        self.shares = shares

    def __len__(self) -> int:
        return len(self.shares)

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        return self.shares[indices] * np.float32(2 / 255) - 1

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self), size):
            yield self[slice(start, start + size)]


class Painted(Folded):
    """As Folded, but decodes to what can be looked at: grey levels (N, 1, H, W) in [-1, 1]."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        shares = (super().decode(z).clamp(-1, 1) + 1) / 2
        classes = shares.shape[1]
        levels = torch.arange(1, classes + 1, device=z.device) / classes
        return 2 * (shares * levels[:, None, None]).sum(1, keepdim=True).clamp(0, 1) - 1


def fit_masks(
    shares: np.ndarray,
    conditions: torch.Tensor,
    held: tuple[np.ndarray, torch.Tensor],
    folded: Folded,
    settings: protocol.Diffusion,
    *,
    symmetry: Symmetry,
    tokens: int,
    seed: int,
    folder: Path,
    device: str,
    cache: Path,
    groups: np.ndarray,
    progress=lambda what, share: None,
) -> Denoiser:
    """Train a denoiser of masks (N, K, H, W) uint8 into `folder`; `conditions` (V, N, L) are of
    every view, `held` masks and conditions (N, L) of patients that are not trained on."""
    folded = folded.to(device)
    views = encode_views(folded, Shown(shares), symmetry, cache / "train.npy", device)
    others = encode_views(folded, Shown(held[0]), "identity", cache / "held.npy", device)[0]
    return fit_diffusion(
        views,
        conditions,
        (others, held[1]),
        Painted(**folded.config),
        settings,
        tokens=tokens,
        seed=derive_seed(seed, "masks"),
        folder=folder,
        device=device,
        groups=groups,
        progress=lambda what, share: progress("masks", share),
    )
