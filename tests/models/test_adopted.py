"""An autoencoder of another make stays what it was when medsynth takes it over."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL, VQModel

from medsynth.errors import DataError
from medsynth.models.adopted import adopt
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.foreign import open_foreign

KL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def images(channels: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(2, channels, 16, 16) * 2 - 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quant", [True, False])
def test_what_it_reconstructs_does_not_change(tmp_path, channels, quant):
    torch.manual_seed(0)
    net = AutoencoderKL(**KL, use_quant_conv=quant, use_post_quant_conv=quant)
    net.save_pretrained(tmp_path / "vae")
    adopted = adopt(tmp_path, channels=channels)
    wanted = open_foreign(tmp_path).reconstruct(images(channels))
    with torch.inference_mode():
        torch.testing.assert_close(adopted.reconstruct(images(channels)), wanted)
        adopted.save(tmp_path)
        again = Autoencoder.load(tmp_path)
        torch.testing.assert_close(again.reconstruct(images(channels)), wanted)


def test_its_scaling_and_shift_are_the_latents_deviation_and_mean(tmp_path):
    torch.manual_seed(0)
    net = AutoencoderKL(**KL, scaling_factor=0.18215, shift_factor=0.1).eval()
    net.save_pretrained(tmp_path)
    with torch.inference_mode():
        wanted = (net.encode(images(3)).latent_dist.mode() - 0.1) * 0.18215
        torch.testing.assert_close(adopt(tmp_path, channels=3).encode(images(3)), wanted)


def test_another_kind_or_other_channels_are_refused(tmp_path):
    VQModel(**KL, num_vq_embeddings=4).save_pretrained(tmp_path / "vq")
    with pytest.raises(DataError, match="is a VQModel: expected an AutoencoderKL"):
        adopt(tmp_path / "vq", channels=3)
    AutoencoderKL(**KL, in_channels=1, out_channels=1).save_pretrained(tmp_path / "grey")
    with pytest.raises(DataError, match="takes 1 channels, the images have 3"):
        adopt(tmp_path / "grey", channels=3)
