"""Masks as latents: nothing is learned for it, so there is nothing that remembers anybody."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LEAST_DEVIATION = 1e-3


class Folded(nn.Module):
    """Folds squares of `fold_px` pixels into channels, each class brought to mean 0, deviation 1.

    It stands where an autoencoder does: `encode` takes masks (N, K, H, W) in [-1, 1], 1 where a
    class covers all of a pixel, and `decode` gives them back.
    """

    def __init__(self, *, fold_px: int, mean: list[float], deviation: list[float]):
        super().__init__()
        self.downscale = fold_px
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).reshape(1, -1, 1, 1))

    @classmethod
    def of(cls, shares: np.ndarray, *, fold_px: int) -> Folded:
        """Measure the classes of masks (N, K, H, W) uint8, 255 for all of a pixel."""
        levels = [2 * (shares[:, k] / np.float32(255)) - 1 for k in range(shares.shape[1])]
        return cls(
            fold_px=fold_px,
            mean=[float(level.mean()) for level in levels],
            deviation=[max(float(level.std()), LEAST_DEVIATION) for level in levels],
        )

    @property
    def config(self) -> dict[str, object]:
        """What `Folded(**config)` makes it again from."""
        found = {name: getattr(self, name).flatten().tolist() for name in ("mean", "deviation")}
        return {"fold_px": self.downscale, **found}

    def encode(self, masks: torch.Tensor) -> torch.Tensor:
        """(N, K, H, W) -> (N, K f f, H / f, W / f), f = fold_px."""
        return F.pixel_unshuffle((masks - self.mean) / self.deviation, self.downscale)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(N, K f f, H / f, W / f) -> (N, K, H, W)."""
        return F.pixel_shuffle(z, self.downscale) * self.deviation + self.mean
