"""Autoencoders of every make, tiny and random, written by the tests and opened again."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, UNet2DModel, VQModel
from monai.networks import nets
from tiny import study

from medsynth.errors import DataError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.foreign import Foreign, filled_up, find, open_foreign

KL = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def images(n: int = 2, channels: int = 3, size: tuple[int, int] = (16, 16)) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(n, channels, *size) * 2 - 1


def kl(**changes) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**{**KL, **changes}).eval()


MAKES = {
    "AutoencoderKL": (kl, 2),
    "stable diffusion": (lambda: kl(scaling_factor=0.18215, shift_factor=0.1), 2),
    "without quant convolutions": (lambda: kl(use_quant_conv=False, use_post_quant_conv=False), 2),
    "VQModel": (lambda: VQModel(**KL, num_vq_embeddings=16), 2),
    "AutoencoderTiny": (
        lambda: AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        2,
    ),
    "AutoencoderDC": (
        lambda: AutoencoderDC(
            latent_channels=4,
            encoder_block_out_channels=(8, 16),
            decoder_block_out_channels=(8, 16),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
        ),
        2,
    ),
}


@pytest.mark.parametrize("make", MAKES)
def test_a_diffusers_folder_reconstructs_as_diffusers_does(make, tmp_path):
    torch.manual_seed(0)
    build, multiple = MAKES[make]
    net = build().eval()
    net.save_pretrained(tmp_path / "vae")
    opened = open_foreign(tmp_path)  # as a pipeline's folder holds it
    with torch.inference_mode():
        coded = net.encode(images(), return_dict=False)[0]
        z = coded if isinstance(coded, torch.Tensor) else coded.mode()
        wanted = net.decode(z, return_dict=False)[0].clamp(-1, 1)
    assert opened.multiple_px == multiple
    assert type(net).__name__ in opened.kind
    torch.testing.assert_close(opened.reconstruct(images()), wanted)


def test_nothing_is_drawn_and_the_batch_does_not_matter(tmp_path):
    kl().save_pretrained(tmp_path)
    opened = open_foreign(tmp_path)
    at_once = opened.reconstruct(images(5))
    torch.testing.assert_close(at_once, opened.reconstruct(images(5)), rtol=0, atol=0)
    one = torch.cat([opened.reconstruct(x[None]) for x in images(5)])
    torch.testing.assert_close(at_once, one, rtol=1e-4, atol=1e-5)


def test_weights_in_half_precision_are_opened_in_single(tmp_path):
    kl().half().save_pretrained(tmp_path, variant="fp16")
    out = open_foreign(tmp_path).reconstruct(images())
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, made_by(kl(), images()), rtol=0, atol=0.02)


def made_by(net, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net.decode(net.encode(x).latent_dist.mode()).sample.clamp(-1, 1)


@pytest.mark.parametrize("deep", [False, True])
def test_a_medsynth_run_and_its_folder_are_the_same(tmp_path, deep):
    net = Autoencoder.build(study().autoencoder, channels=1).eval()
    folder = tmp_path / "autoencoder"
    net.save(folder)
    opened = open_foreign(tmp_path if deep else folder)
    x = images(channels=1, size=(32, 32))
    torch.testing.assert_close(opened.reconstruct(x), net.reconstruct(x).detach())
    assert (opened.channels, opened.multiple_px) == (1, 4)


def stand_in(coder, *, channels: int = 3, **options) -> Foreign:
    return Foreign(torch.nn.Identity(), coder, kind="stand-in", channels=channels, **options)


@pytest.mark.parametrize("size", [(16, 16), (13, 18), (3, 40), (1, 1)])
def test_sides_are_filled_up_and_cut_off_again(size):
    seen = []

    def coder(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[-2:]))
        return x

    x = images(size=size)
    out = stand_in(coder, multiple_px=8).reconstruct(x)
    assert all(side % 8 == 0 for side in seen[0])
    torch.testing.assert_close(out, x)


def test_filling_up_reflects_what_is_there():
    x = torch.arange(5.0).reshape(1, 1, 1, 5).expand(1, 1, 2, 5)
    assert filled_up(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]


def test_a_grey_image_goes_three_times_into_a_network_for_colour():
    out = stand_in(lambda x: x * torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1)).reconstruct(
        images(channels=1)
    )
    torch.testing.assert_close(out, images(channels=1) / 2)


def test_a_colour_image_goes_into_a_grey_network_channel_by_channel():
    out = stand_in(lambda x: x / 2, channels=1).reconstruct(images())
    torch.testing.assert_close(out, images() / 2)


def test_a_network_for_other_channels_is_refused():
    with pytest.raises(DataError, match="takes 4 channels, the images have 3"):
        stand_in(lambda x: x, channels=4).reconstruct(images())


def test_a_network_for_values_from_0_to_1_gets_them_and_gives_them():
    seen = []

    def coder(x: torch.Tensor) -> torch.Tensor:
        seen.append((float(x.min()), float(x.max())))
        return x

    x = images()
    torch.testing.assert_close(stand_in(coder, low=0.0, high=1.0).reconstruct(x), x)
    assert 0 <= seen[0][0] < seen[0][1] <= 1


def test_values_beyond_black_and_white_are_cut_off():
    out = stand_in(lambda x: x * 3).reconstruct(images())
    assert (float(out.min()), float(out.max())) == (-1.0, 1.0)


def test_no_image_is_none():
    assert stand_in(lambda x: x).reconstruct(images(0)).shape == (0, 3, 16, 16)


# MONAI --------------------------------------------------------------------------------------------

MONAI_KL = {
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [4, 8],
    "num_res_blocks": 1,
    "attention_levels": [False, False],
    "latent_channels": 2,
    "norm_num_groups": 4,
}
MONAI_VQ = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "channels": [8, 8],
    "num_res_layers": 1,
    "num_res_channels": [8, 8],
    "downsample_parameters": [[2, 4, 1, 1], [2, 4, 1, 1]],
    "upsample_parameters": [[2, 4, 1, 1, 0], [2, 4, 1, 1, 0]],
    "num_embeddings": 8,
    "embedding_dim": 4,
}


def write_bundle(folder, definition, state, *, file="model.pt", config=None, metadata=None):
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    text = json.dumps({"network_def": definition, **(config or {})})
    (folder / "configs" / "inference.json").write_text(text)
    if metadata is not None:
        (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(state, folder / "models" / file)
    return folder


def monai_kl() -> nets.AutoencoderKL:
    torch.manual_seed(0)
    return nets.AutoencoderKL(**MONAI_KL).eval()


@pytest.mark.parametrize("file", ["model.pt", "model_autoencoder.pt"])
def test_a_monai_bundle_opens_with_its_references(tmp_path, file):
    net = monai_kl()
    definition = {"_target_": "monai.networks.nets.AutoencoderKL", **MONAI_KL}
    definition |= {"in_channels": "@image_channels", "out_channels": "@sizes::out"}
    config = {"image_channels": 1, "sizes": {"out": 1}, "run": "$import os"}
    write_bundle(tmp_path, definition, net.state_dict(), file=file, config=config)
    opened = open_foreign(tmp_path)
    x = images(channels=1)
    with torch.inference_mode():
        wanted = (net.reconstruct((x + 1) / 2) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(opened.reconstruct(x), wanted)
    assert (opened.channels, opened.multiple_px) == (1, 2)


def test_a_bundle_says_which_values_it_takes(tmp_path):
    definition = {"_target_": "AutoencoderKL", **MONAI_KL}
    metadata = {"network_data_format": {"inputs": {"image": {"value_range": [-1, 1]}}}}
    write_bundle(tmp_path, definition, monai_kl().state_dict(), metadata=metadata)
    opened = open_foreign(tmp_path)
    assert (opened.low, opened.high) == (-1.0, 1.0)


def test_a_monai_vqvae_opens(tmp_path):
    torch.manual_seed(0)
    net = nets.VQVAE(**MONAI_VQ).eval()
    definition = {"_target_": "monai.networks.nets.VQVAE", **MONAI_VQ}
    write_bundle(tmp_path, definition, {"state_dict": net.state_dict()})
    opened = open_foreign(tmp_path)
    with torch.inference_mode():
        wanted = (net((images() + 1) / 2)[0] * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(opened.reconstruct(images()), wanted)
    assert opened.multiple_px == 4


def test_weights_of_the_older_generative_package_open_by_their_old_names(tmp_path):
    net = monai_kl()
    old = {key.replace("postconv", "conv"): v for key, v in net.state_dict().items()}
    for block in {key.split(".attn.")[0] for key in old if ".attn." in key}:
        for new, name in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v")):
            for part in ("weight", "bias"):
                old[f"{block}.{name}.{part}"] = old.pop(f"{block}.attn.{new}.{part}")
        for part in ("weight", "bias"):
            old[f"{block}.proj_attn.{part}"] = old.pop(f"{block}.attn.out_proj.{part}")
    settings = {**MONAI_KL, "num_channels": MONAI_KL["channels"]}
    del settings["channels"]
    definition = {"_target_": "generative.networks.nets.AutoencoderKL", **settings}
    write_bundle(tmp_path / "whole", definition, old)
    x = images(channels=1)
    with torch.inference_mode():
        wanted = (net.reconstruct((x + 1) / 2) * 2 - 1).clamp(-1, 1)
    torch.testing.assert_close(open_foreign(tmp_path / "whole").reconstruct(x), wanted)
    del old["decoder.blocks.0.conv.weight"]
    write_bundle(tmp_path / "half", definition, old)
    with pytest.raises(DataError, match="no weights that fit"):
        open_foreign(tmp_path / "half")


# What is not opened -------------------------------------------------------------------------------


def test_python_in_the_definition_is_refused_and_not_run(tmp_path):
    definition = {"_target_": "AutoencoderKL", **MONAI_KL, "channels": "$open('x', 'w')"}
    write_bundle(tmp_path, definition, {})
    with pytest.raises(DataError, match="Python code, which is not run"):
        open_foreign(tmp_path)


def test_references_in_a_circle_are_refused(tmp_path):
    definition = {"_target_": "AutoencoderKL", **MONAI_KL, "channels": "@a"}
    write_bundle(tmp_path, definition, {}, config={"a": "@b", "b": "@a"})
    with pytest.raises(DataError, match="circle"):
        open_foreign(tmp_path)


class Stranger:
    """What a pickle may hold beside tensors."""


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path):
    write_bundle(tmp_path, {"_target_": "AutoencoderKL", **MONAI_KL}, {})
    (tmp_path / "models" / "model.pt").write_bytes(pickle.dumps(Stranger()))
    with pytest.raises(DataError, match="no file of tensors alone"):
        open_foreign(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spatial_dims": 3}, "not 2D"),
        ({"colour": 1}, "unknown settings colour"),
        ({"norm_num_groups": 3}, "can't be built"),
        ({"channels": [8, 8]}, "no weights that fit"),
    ],
)
def test_a_bundle_that_does_not_fit_says_why(tmp_path, changes, words):
    definition = {"_target_": "AutoencoderKL", **MONAI_KL, **changes}
    write_bundle(tmp_path, definition, monai_kl().state_dict())
    with pytest.raises(DataError, match=words):
        open_foreign(tmp_path)


def test_a_class_that_is_on_no_list_is_refused(tmp_path):
    UNet2DModel(
        block_out_channels=(32,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    ).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="'UNet2DModel': expected one of AutoencoderKL"):
        open_foreign(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path):
    kl().save_config(tmp_path)
    with pytest.raises(DataError, match="holds no weights"):
        open_foreign(tmp_path)


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path):
    kl().save_pretrained(tmp_path)
    kl(block_out_channels=(4, 8)).save_config(tmp_path)
    with pytest.raises(DataError, match="do not fit together"):
        open_foreign(tmp_path)


def test_a_folder_without_any_autoencoder_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match="holds no autoencoder: expected"):
        find(tmp_path)
    with pytest.raises(DataError, match="is neither"):
        open_foreign(tmp_path / "absent")


# torch.export -------------------------------------------------------------------------------------


class Halve(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_an_exported_network_takes_images_from_0_to_1(tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Halve(), (torch.zeros(2, 1, 16, 16),), dynamic_shapes={"x": {0: batch}}
    )
    torch.export.save(program, tmp_path / "net.pt2")
    opened = open_foreign(tmp_path / "net.pt2")
    x = images(3, channels=1)
    torch.testing.assert_close(opened.reconstruct(x), (x - 1) / 2)
    with pytest.raises(DataError, match="does not take images of 32 x 32 px"):
        opened.reconstruct(images(channels=1, size=(32, 32)))
    (tmp_path / "broken.pt2").write_bytes(b"nothing")
    with pytest.raises(DataError, match="was not saved by"):
        open_foreign(tmp_path / "broken.pt2")
