"""A plain diffusers training loop: what its documentation's training tutorial does, on latents.

An AutoencoderKL by squared error and KL, its latents scaled to unit deviation; a UNet2DModel with
classes that predicts noise on the linear schedule, AdamW at 1e-4, 500 steps of warm-up and a
cosine, gradients clipped at 1; DDIM with 50 steps, x_0 not clipped, since latents are no images.
The tutorial's network has six levels for pixels; latents of 16 x 16 have room for three.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DModel
from timed import Drawn, draw_in_batches, train_for

from medsynth.runtime import choose_device

BATCH, STEPS, RATE, WARM_UP = 16, 50, 1e-4, 500


def compete(
    images: np.ndarray, classes: np.ndarray, *, seconds: float, share: float, count: int, seed: int
) -> Drawn:
    """Train on images (N, C, H, W) and classes (N,) for so long, and draw `count` images."""
    torch.manual_seed(seed)
    device = choose_device()
    pixels, labels = torch.from_numpy(images).to(device), torch.from_numpy(classes).to(device)
    autoencoder = _autoencoder(pixels.shape[1]).to(device)
    first, coded = train_for(share * seconds, _reconstruct(autoencoder, pixels))
    autoencoder.requires_grad_(False).eval()
    z = torch.cat([autoencoder.encode(part).latent_dist.mean for part in pixels.split(64)])
    scale = 1 / z.std()
    unet = _unet(z.shape[1], z.shape[2], int(classes.max()) + 1).to(device)
    second, denoised = train_for(seconds - first, _denoise(unet, z * scale, labels))
    draw = _sampler(unet.eval(), autoencoder, scale, labels)
    made, rate = draw_in_batches(draw, count, batch=50)
    return Drawn(
        made,
        rate,
        {"autoencoder": first, "diffusion": second},
        {"autoencoder": BATCH * coded, "diffusion": BATCH * denoised},
    )


def _autoencoder(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(64, 128, 256),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
    )


def _unet(channels: int, side: int, classes: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(128, 256, 512),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )


def _reconstruct(autoencoder: AutoencoderKL, images: torch.Tensor):
    optimiser = torch.optim.AdamW(autoencoder.parameters(), lr=RATE)

    def step(share: float) -> None:
        real = images[torch.randint(0, len(images), (BATCH,))]
        posterior = autoencoder.encode(real).latent_dist
        made = autoencoder.decode(posterior.sample()).sample
        _update(optimiser, F.mse_loss(made, real) + 1e-6 * posterior.kl().mean())

    return step


def _denoise(unet: UNet2DModel, latents: torch.Tensor, labels: torch.Tensor):
    noising = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=RATE)
    done = itertools.count(1)

    def step(share: float) -> None:
        chosen = torch.randint(0, len(latents), (BATCH,))
        clean, noise = latents[chosen], torch.randn_like(latents[chosen])
        t = torch.randint(0, 1000, (BATCH,), device=clean.device)
        made = unet(noising.add_noise(clean, noise, t), t, labels[chosen]).sample
        # A warm-up of more than a tenth of the time is cut to that, as for all.
        warm = min(1.0, max(next(done) / WARM_UP, 10 * share))
        optimiser.param_groups[0]["lr"] = RATE * warm * (1 + math.cos(math.pi * share)) / 2
        _update(optimiser, F.mse_loss(made, noise), unet)

    return step


def _update(optimiser, loss: torch.Tensor, clipped: torch.nn.Module | None = None) -> None:
    optimiser.zero_grad()
    loss.backward()
    if clipped is not None:
        torch.nn.utils.clip_grad_norm_(clipped.parameters(), 1.0)
    optimiser.step()


def _sampler(unet: UNet2DModel, autoencoder: AutoencoderKL, scale, labels: torch.Tensor):
    walking = DDIMScheduler(num_train_timesteps=1000, clip_sample=False)
    walking.set_timesteps(STEPS)

    @torch.inference_mode()
    def draw(count: int) -> torch.Tensor:
        wanted = labels[torch.randint(0, len(labels), (count,))]
        config = unet.config
        z = torch.randn(count, config.in_channels, config.sample_size, config.sample_size)
        z = z.to(labels.device)
        for t in walking.timesteps:
            z = walking.step(unet(z, t, wanted).sample, t, z).prev_sample
        return autoencoder.decode(z / scale).sample.clamp(-1, 1)

    return draw
