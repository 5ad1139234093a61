"""MONAI's tutorial of a 2D latent diffusion model, which is made for images of 64 px.

Its networks and settings: an AutoencoderKL by absolute error, KL and, after a tenth of the time, a
PatchDiscriminator with least squares; a DiffusionModelUNet by LatentDiffusionInferer with latents
scaled by 1 / their deviation; Adam at 1e-4, batches of 64; images in [0, 1]; no condition.

What differs: its perceptual term (weight 0.001) is left out, since its weights are a download, and
so is its random affine change of the images; DDIM with 50 steps stands for DDPM with 1,000, and
x_0 is not clipped at 1, which its scheduler does by default and which suits no latents.
Source: Project-MONAI/GenerativeModels, tutorials/generative/2d_ldm.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import LatentDiffusionInferer
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import AutoencoderKL, DiffusionModelUNet, PatchDiscriminator
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from timed import Drawn, draw_in_batches, train_for

from medsynth.runtime import choose_device

BATCH, STEPS, RATE = 64, 50, 1e-4
BETAS = {"schedule": "linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}


def compete(
    images: np.ndarray, classes: np.ndarray, *, seconds: float, share: float, count: int, seed: int
) -> Drawn:
    """Train on images (N, C, H, W), whatever their classes (N,), and draw `count` images."""
    torch.manual_seed(seed)
    device = choose_device()
    pixels = (torch.from_numpy(images).to(device) + 1) / 2
    autoencoder = _autoencoder(pixels.shape[1]).to(device)
    first, coded = train_for(share * seconds, _reconstruct(autoencoder, pixels))
    autoencoder.requires_grad_(False).eval()
    with torch.no_grad():
        z = autoencoder.encode_stage_2_inputs(pixels[:BATCH])
    noising = DDPMScheduler(num_train_timesteps=1000, clip_sample=False, **BETAS)
    inferer = LatentDiffusionInferer(noising, scale_factor=float(1 / z.std()))
    unet = _unet(z.shape[1]).to(device)
    step = _denoise(unet, inferer, autoencoder, pixels, z.shape[1:])
    second, denoised = train_for(seconds - first, step)
    draw = _sampler(unet.eval(), inferer, autoencoder, z)
    made, rate = draw_in_batches(draw, count, batch=50)
    return Drawn(
        made,
        rate,
        {"autoencoder": first, "diffusion": second},
        {"autoencoder": BATCH * coded, "diffusion": BATCH * denoised},
    )


def _autoencoder(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        spatial_dims=2,
        in_channels=channels,
        out_channels=channels,
        channels=(64, 128, 128),
        num_res_blocks=(1, 1, 1),
        attention_levels=(False, False, True),
        latent_channels=3,
    )


def _unet(channels: int) -> DiffusionModelUNet:
    return DiffusionModelUNet(
        spatial_dims=2,
        in_channels=channels,
        out_channels=channels,
        channels=(128, 256, 256),
        num_res_blocks=(1, 1, 1),
        attention_levels=(False, False, True),
        num_head_channels=256,
    )


def _reconstruct(autoencoder: AutoencoderKL, images: torch.Tensor):
    discriminator = PatchDiscriminator(
        spatial_dims=2, num_layers_d=3, channels=32, in_channels=images.shape[1]
    ).to(images.device)
    fooling = PatchAdversarialLoss(criterion="least_squares")
    optimiser = torch.optim.Adam(autoencoder.parameters(), lr=RATE)
    judges = torch.optim.Adam(discriminator.parameters(), lr=5 * RATE)

    def step(share: float) -> None:
        real = images[torch.randint(0, len(images), (BATCH,))]
        made, mean, sigma = autoencoder(real)
        divergence = 0.5 * (mean**2 + sigma**2 - torch.log(sigma**2) - 1).flatten(1).sum(1).mean()
        loss = F.l1_loss(made, real) + 1e-6 * divergence
        if share > 0.1:
            scores = discriminator(made)[-1]
            loss = loss + 0.01 * fooling(scores, target_is_real=True, for_discriminator=False)
        _update(optimiser, loss)
        if share > 0.1:
            fake = discriminator(made.detach())[-1]
            told = fooling(fake, target_is_real=False, for_discriminator=True) + fooling(
                discriminator(real)[-1], target_is_real=True, for_discriminator=True
            )
            _update(judges, 0.01 * 0.5 * told)

    return step


def _denoise(unet: DiffusionModelUNet, inferer, autoencoder: AutoencoderKL, images, shape):
    optimiser = torch.optim.Adam(unet.parameters(), lr=RATE)

    def step(share: float) -> None:
        real = images[torch.randint(0, len(images), (BATCH,))]
        noise = torch.randn(BATCH, *shape, device=real.device)
        t = torch.randint(0, 1000, (BATCH,), device=real.device)
        made = inferer(
            inputs=real,
            diffusion_model=unet,
            noise=noise,
            timesteps=t,
            autoencoder_model=autoencoder,
        )
        _update(optimiser, F.mse_loss(made, noise))

    return step


def _update(optimiser, loss: torch.Tensor) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _sampler(unet: DiffusionModelUNet, inferer, autoencoder: AutoencoderKL, like: torch.Tensor):
    walking = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, **BETAS)
    walking.set_timesteps(STEPS)

    @torch.inference_mode()
    def draw(count: int) -> torch.Tensor:
        made = inferer.sample(
            input_noise=torch.randn(count, *like.shape[1:], device=like.device),
            diffusion_model=unet,
            scheduler=walking,
            autoencoder_model=autoencoder,
            verbose=False,
        )
        return 2 * made.clamp(0, 1) - 1

    return draw
