"""A diffusers AutoencoderKL of any make, turned into the one that medsynth trains and samples with.

What it reconstructs does not change. For grey images its first layer gets the sum over the
colours, its last one the mean: as if every image came three times over. Its scaling and shift
factor become the latents' deviation and mean, so nothing is measured on anybody's images.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from ..errors import DataError
from .autoencoder import Autoencoder
from .foreign import find, open_diffusers


def adopt(path: Path, *, channels: int) -> Autoencoder:
    """Return a diffusers AutoencoderKL as a medsynth autoencoder of 1 or 3 channels, not trained
    further.

    Raises DataError where the folder holds another kind, or one for other channels.
    """
    net = open_diffusers(find(path))
    if not isinstance(net, AutoencoderKL):
        raise DataError(f"{path.name}/ is a {type(net).__name__}: expected an AutoencoderKL")
    config = {key: value for key, value in net.config.items() if not key.startswith("_")}
    has, state = config["in_channels"], net.state_dict()
    if has != channels:
        if (has, channels) != (3, 1):
            raise DataError(f"{path.name}/ takes {has} channels, the images have {channels}")
        state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"].sum(1, keepdim=True)
        for part in ("weight", "bias"):
            name = f"decoder.conv_out.{part}"
            state[name] = state[name].mean(0, keepdim=True)
    for name, size in (("quant_conv", 2), ("post_quant_conv", 1)):
        if f"{name}.weight" not in state:
            width = size * config["latent_channels"]
            state[f"{name}.weight"] = torch.eye(width)[:, :, None, None]
            state[f"{name}.bias"] = torch.zeros(width)
    config |= {
        "in_channels": channels,
        "out_channels": channels,
        "use_quant_conv": True,
        "use_post_quant_conv": True,
    }
    made = AutoencoderKL(**config)
    made.load_state_dict(state)
    adopted = Autoencoder(made)
    mean, deviation = _scale(config)
    adopted.set_scale(mean, deviation)
    return adopted.eval()


def _scale(config: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents' mean and deviation a channel, (c,) each, as the config has them."""
    channels = config["latent_channels"]
    mean = config["latents_mean"] or [config["shift_factor"] or 0.0] * channels
    deviation = config["latents_std"] or [1 / config["scaling_factor"]] * channels
    return torch.tensor(mean), torch.tensor(deviation)
