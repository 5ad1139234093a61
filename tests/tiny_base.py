"""A Stable Diffusion folder of random weights, so small that a test can write it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from medsynth.pipeline.prompted import draft_base

PROMPT = "a chest x-ray, {finding}"
MERGES = ["n o", "no r", "nor m", "norm a", "norma l</w>", "r a", "ra y</w>"]


def write_base(folder: Path, *, objective: str = "epsilon", **unet) -> Path:
    """Write a base for grey images of 32 px: latents of 4 channels and 8 px."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    write_text(folder)
    knobs = {"block_out_channels": (16, 32), "cross_attention_dim": 24, **unet}
    levels = len(knobs["block_out_channels"]) - 1
    net = UNet2DConditionModel(
        **knobs,
        sample_size=16,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels + ("UpBlock2D",),
        attention_head_dim=2,
    )
    with torch.no_grad():  # as it comes, it hardly hears what it is told
        for name, weight in net.named_parameters():
            if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
                weight *= 5
    net.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=8,
        scaling_factor=0.4,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=objective,
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=True,
    ).save_pretrained(folder / "scheduler")
    return folder


def write_text(folder: Path) -> None:
    """Write a tokenizer of letters and a few words, and an encoder of them."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(n) for n in range(33, 127)]
    merged = ["".join(pair.split()) for pair in MERGES]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *merged, *ends]
    place = folder / "tokenizer"
    place.mkdir(parents=True)
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(place)
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=48,
            bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1,
            pad_token_id=len(words) - 1,
        )
    ).save_pretrained(folder / "text_encoder")


def asking(folder: Path, prompt: str = PROMPT) -> dict:
    """Return the changes that make the tiny study one with this base: study(**asking(folder))."""
    sections = draft_base(folder, prompt)
    return {
        f"{section}.{knob}": value
        for section, row in sections.items()
        for knob, value in row.items()
    } | {"autoencoder.fold_px": 1, "autoencoder.principal_start": False}
