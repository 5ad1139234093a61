"""A ControlNet for the denoiser: a copy of its encoder that reads control maps.

The copy's answers go through convolutions that start at zero and are added to the denoiser's
skips and middle, so that before any training nothing changes. The denoiser itself is locked.
diffusers' class is used as it is: a saved folder opens with `ControlNetModel.from_pretrained`.
Source: Zhang et al., arXiv 2302.05543.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import ControlNetModel
from torch import nn

from .denoiser import predict
from .prompted import AnyDenoiser

HINT_WIDTHS = (16, 32, 96, 256)  # of the paper; each after the first halves the map


def build_control(denoiser: AnyDenoiser, *, channels: int, downscale: int) -> ControlNetModel:
    """Return an untrained control for maps of `channels`, `downscale` times a latent's side."""
    steps = downscale.bit_length() - 1
    if downscale != 2**steps:
        raise ValueError(f"expected a downscale that is a power of 2, got {downscale}")
    widths = (HINT_WIDTHS + HINT_WIDTHS[-1:] * steps)[: steps + 1]
    net = ControlNetModel.from_unet(
        denoiser.unet, conditioning_embedding_out_channels=widths, conditioning_channels=channels
    )
    return net.to(next(denoiser.parameters()).device)


def open_control(folder: Path) -> ControlNetModel:
    """Read a control from the folder that `save_pretrained` wrote."""
    return ControlNetModel.from_pretrained(folder, local_files_only=True).eval()


class Controlled(nn.Module):
    """A denoiser that obeys control maps (N, K, H, W) float32 in [0, 1].

    The locked denoiser is held, not owned: it is among neither the parameters nor the state, so
    that no optimiser finds it and nothing saves it twice. `to` does not move it.
    """

    def __init__(self, denoiser: AnyDenoiser, net: ControlNetModel):
        super().__init__()
        self._held = (denoiser.requires_grad_(False).eval(),)
        self.net = net

    @property
    def denoiser(self) -> AnyDenoiser:
        """The locked denoiser."""
        return self._held[0]

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor, maps: torch.Tensor
    ) -> torch.Tensor:
        """Predict for x (N, C, h, w), times t (N,), conditions (N, L) and control maps."""
        heard = self.denoiser.hear(condition)
        down, middle = self.net(
            x, t, heard.words, maps, class_labels=heard.label, return_dict=False
        )
        return predict(self.denoiser.unet, x, t, heard, down=down, middle=middle)

    def under(self, maps: torch.Tensor):
        """Return a denoiser(x, t, condition) under these maps, for `guided`.

        A batch that holds every image twice, once without its condition, gets the maps twice: both
        branches are controlled.
        """

        def denoiser(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
            return self(x, t, condition, maps.repeat(len(x) // len(maps), 1, 1, 1))

        return denoiser
