"""The lens: a frozen feature extractor that the evidence is measured in.

Trained here by instance discrimination on training and held-out patients alike, so that it
treats both the same, or read from a local file that the protocol pins by its sha256.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import DataError
from ..runtime import digest_file

Features = Callable[[np.ndarray], np.ndarray]
"""(N, C, H, W) float32 in [-1, 1] -> (N, D) float32."""

LOOKED_AT = 256  # images at a time


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut, pre-activated."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Lens(nn.Module):
    """A small residual network: 4x4 squares in, halved twice, then a feature vector of what is
    seen at each of `places` x `places` places: where a thing is tells images apart as well as what
    it is. With 0 places, as older versions trained it, of what there is anywhere."""

    def __init__(self, *, channels: int, width: int, features: int, places: int = 4):
        super().__init__()
        self.config = {
            "channels": channels,
            "width": width,
            "features": features,
            "places": places,
        }
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=4),
            Residual(width),
            nn.Conv2d(width, 2 * width, 2, stride=2),
            Residual(2 * width),
            nn.Conv2d(2 * width, 4 * width, 2, stride=2),
            Residual(4 * width),
            nn.GroupNorm(8, 4 * width),
            nn.SiLU(),
        )
        self.out = nn.Linear(4 * width * (places**2 or 2), features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [-1, 1] -> (N, features)."""
        maps, places = self.body(images), self.config["places"]
        if places == 0:  # mean and largest value: what there is, and whether it is anywhere
            return self.out(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
        return self.out(F.adaptive_avg_pool2d(maps, places).flatten(1))

    def save(self, path: Path) -> None:
        """Write weights and shape into one safetensors file."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, path, metadata={"medsynth_lens": json.dumps(self.config)})

    @classmethod
    def load(cls, path: Path) -> Lens:
        """Read what `save` wrote. Raises DataError on any other safetensors file."""
        with safe_open(path, "pt") as file:
            config = (file.metadata() or {}).get("medsynth_lens")
        if config is None:
            raise DataError(f"{path.name} is no lens of medsynth: its shape is not in the file")
        lens = cls(**{"places": 0, **json.loads(config)})
        lens.load_state_dict(load_file(path))
        return lens.eval()


def open_weights(path: Path, sha256: str) -> nn.Module:
    """Open a local weights file: a lens (.safetensors) or a network saved by torch.export (.pt2).

    Raises DataError where the file is absent, is not the one that was pinned, or is of another
    kind.
    """
    if not path.is_file():
        raise DataError(f"the lens's weights file {path.name} does not exist")
    if (found := digest_file(path)) != sha256:
        raise DataError(
            f"{path.name} is not the pinned file: expected sha256 {sha256}, got {found}"
        )
    if path.suffix == ".safetensors":
        return Lens.load(path)
    if path.suffix == ".pt2":
        return _Exported(torch.export.load(path).module())
    raise DataError(f"expected a .safetensors or .pt2 file for the lens, got {path.name}")


class _Exported(nn.Module):
    """A network of another make: takes RGB in [0, 1]."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return self.network((rgb + 1) / 2)


def features(lens: nn.Module, *, device: str, batch: int = LOOKED_AT) -> Features:
    """Return a function from numpy images in [-1, 1] to features (N, D) of unit length."""
    lens = lens.to(device)

    def apply(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            rows = [
                F.normalize(lens(torch.from_numpy(chunk).to(device)), dim=1).float().cpu()
                for chunk in np.array_split(images, max(1, -(-len(images) // batch)))
            ]
        return torch.cat(rows).numpy()

    return apply
