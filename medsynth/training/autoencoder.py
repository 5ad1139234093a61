"""How the autoencoder learns: Medfusion's losses, as far as they can be had without a download.

    reconstruction   squared error + w (1 - SSIM) and others (detail.py), at full and half size
    KL               1e-6 of the divergence of the posterior from a standard normal
    second stage     hinge loss of a patch discriminator with the adaptive weight of VQGAN

Medfusion sums over pixels and adds LPIPS, whose weights are a download; the terms here are those
sums divided by the number of values, which Adam does not feel.
Source: Müller-Franzes et al., Sci Rep 13:12098 (2023); Esser et al., arXiv 2012.09841.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import nn

from .. import protocol
from ..data.loader import Frames, Order, draw
from ..domains import Symmetry
from ..models.autoencoder import Autoencoder
from ..pictures import write_grid
from ..runtime import derive_seed, writes
from .augment import draw_turns, flip_and_turn
from .batches import send
from .detail import FeatureLoss, ReconstructionLoss
from .lens import fit_lens
from .loop import Modules, Player, Task, learning_rate, train

PRINCIPAL_IMAGES = 1000  # images whose squares the principal start is computed from
SHOWN = 8
SCALED = 50_000  # images, at most, that the latents' scale is measured on

Drawn = tuple[torch.Tensor, torch.Tensor]
"""Images (N, C, H, W) in [-1, 1], and the noise (N, c, h, w) of their latents."""


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """Return the divergence of N(mean, exp(log_variance)) from N(0, 1), a mean over images."""
    values = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance)
    return values.flatten(1).sum(1).mean()


class Losses:
    """The losses of the autoencoder and of its discriminator; `look` is a distance in features,
    where the settings ask for one."""

    def __init__(self, settings: protocol.Autoencoder, look: FeatureLoss | None = None):
        self.settings, self.look = settings, look
        self.reconstruction = ReconstructionLoss(
            settings.ssim_weight,
            ssim_scales=settings.ssim_scales,
            gradient_weight=settings.gradient_weight,
            frequency_weight=settings.frequency_weight,
            energy_weight=settings.energy_weight,
        )
        self.hinge = PatchAdversarialLoss(criterion="hinge", reduction="mean")

    def loss(self, modules: Modules, drawn: Drawn):
        """Return the autoencoder's loss, and what it is made of."""
        images, noise = drawn
        made, half, mean, log_variance = modules["autoencoder"](images, noise)
        made = made.float()
        error = self.reconstruction(made, images)
        if half is not None:
            error = error + self.reconstruction(half.float(), F.avg_pool2d(images, 2))
        if self.look is not None:
            error = error + self.settings.perceptual.weight * self.look(made, images)
        divergence = kl_divergence(mean.float(), log_variance.float())
        total = error + self.settings.kl_weight * divergence / images[0].numel()
        logs = {"reconstruction": error.detach(), "kl": divergence.detach()}
        if "discriminator" in modules:  # the second stage
            fooled, weight = self._fool(modules, made, error)
            total = total + weight * fooled
            logs |= {"adversarial": fooled.detach(), "adversarial_weight": weight}
        return total, logs

    def _fool(self, modules: Modules, made: torch.Tensor, error: torch.Tensor):
        """Return the generator's hinge loss and the adaptive weight that balances it."""
        scores = modules["discriminator"](made)
        fooled = self.hinge(scores[-1:], target_is_real=True, for_discriminator=False)
        last = _bare(modules["autoencoder"]).net.decoder.conv_out.weight
        wanted = torch.autograd.grad(error, last, retain_graph=True)[0].norm()
        given = torch.autograd.grad(fooled, last, retain_graph=True)[0].norm()
        ratio = (wanted / (given + 1e-4)).clamp(0.0, 1e4).detach()
        return fooled, self.settings.adversarial.weight * ratio

    def tell_apart(self, modules: Modules, drawn: Drawn):
        """Return the discriminator's hinge loss on real and reconstructed images."""
        images, noise = drawn
        with torch.no_grad():
            made = modules["autoencoder"](images, noise)[0].float()
        real = modules["discriminator"](images)[-1:]
        fake = modules["discriminator"](made)[-1:]
        value = 0.5 * (
            self.hinge(real, target_is_real=True, for_discriminator=True)
            + self.hinge(fake, target_is_real=False, for_discriminator=True)
        )
        return value, {"discriminator": value.detach()}


def _bare(module: nn.Module) -> nn.Module:
    return getattr(module, "module", module)


def fit_autoencoder(
    frames: Frames,
    held_out: Frames,
    settings: protocol.Autoencoder,
    *,
    symmetry: Symmetry,
    seed: int,
    folder: Path,
    device: str,
    start: Autoencoder | None = None,
    progress=lambda what, share: None,
) -> Autoencoder:
    """Train on frames, watch `held_out` (validation patients), measure the latents' scale, save.

    It begins as `start` does, which is fine-tuned, or from nothing where there is none. Writes the
    diffusers folder into `folder` and returns the autoencoder.
    """
    torch.manual_seed(derive_seed(seed, "autoencoder", "start"))
    autoencoder = _begin(settings, frames.channels, start)
    if settings.training.checkpointing:
        autoencoder.net.enable_gradient_checkpointing()
    if settings.principal_start:
        some = draw(
            len(frames),
            start=0,
            count=min(PRINCIPAL_IMAGES, int(frames.groups.max()) + 1),
            seed=derive_seed(seed, "principal"),
            groups=frames.groups,
        )
        autoencoder.start_from(torch.from_numpy(frames[some]))

    order = Order(len(frames), seed=derive_seed(seed, "autoencoder"), groups=frames.groups)

    def batch(start: int, count: int, own: slice) -> Drawn:
        chosen = order.draw(start, count)
        turns = draw_turns(count, symmetry, device)
        images = flip_and_turn(send(frames[chosen[own]], device), turns[own])
        side = images.shape[-1] // autoencoder.downscale
        shape = (count, settings.latent_channels, side, side)
        return images, torch.randn(shape, device=device)[own]

    look = _look(frames, settings, seed, folder, device, progress)
    held = torch.from_numpy(held_out[:256]).to(device)

    def validate(modules: Modules) -> dict[str, float]:
        made = _in_batches(modules["autoencoder"].reconstruct, held)
        error = F.mse_loss(made, held).item() / 4  # on the scale [0, 1]
        return {"validation_psnr": float(-10 * np.log10(max(error, 1e-12)))}

    def preview(modules: Modules, path: Path) -> None:
        made = modules["autoencoder"].reconstruct(held[:SHOWN])
        write_grid(path, torch.cat([held[:SHOWN], made]).cpu().numpy(), columns=SHOWN)

    task = Task(
        "autoencoder",
        _players(autoencoder, settings, frames.channels, look),
        batch,
        settings.training.images,
        settings.training.batch,
        seed,
        validate=validate,
        preview=preview,
        optimiser=settings.training,
    )
    trained = train(task, folder, progress)["autoencoder"].to(device)
    if settings.latents != "raw":
        trained.set_scale(*_latent_scale(trained, frames, device))
    elif start is not None:
        trained.set_scale(
            torch.zeros(settings.latent_channels), torch.ones(settings.latent_channels)
        )
    if writes():
        trained.save(folder)
    return trained.eval()


def _begin(settings: protocol.Autoencoder, channels: int, start: Autoencoder | None) -> Autoencoder:
    """Return an untrained autoencoder, or `start` with the outputs that the losses need."""
    if start is None:
        return Autoencoder.build(settings, channels=channels)
    if settings.deep_supervision:
        start.add_half_head()
    else:
        start.half_head = None
    return start.train()


def _look(
    frames: Frames, settings: protocol.Autoencoder, seed: int, folder: Path, device: str, progress
) -> FeatureLoss | None:
    """Train the lens of the perceptual loss on what the autoencoder learns from, where there is to
    be one; it goes when the stage is done."""
    asked = settings.perceptual
    if asked is None:
        return None
    scratch = folder / "latents" / "perceptual"
    scratch.mkdir(parents=True, exist_ok=True)
    shape = protocol.Lens(width=asked.width, training=asked.training)
    told = derive_seed(seed, "perceptual")
    lens = fit_lens(frames, shape, seed=told, folder=scratch, device=device, progress=progress)
    return FeatureLoss(lens).to(device)


def _players(
    autoencoder: Autoencoder,
    settings: protocol.Autoencoder,
    channels: int,
    look: FeatureLoss | None,
) -> dict[str, Player]:
    losses = Losses(settings, look)
    training, second = settings.training, settings.adversarial
    usual = learning_rate(training)
    if second is None:
        player = Player(autoencoder, losses.loss, usual, training.weight_decay, training.clip)
        return {"autoencoder": player}

    def rate(seen: int) -> float:
        return usual(seen) if seen < second.after_images else second.learning_rate

    discriminator = PatchDiscriminator(
        spatial_dims=2, channels=64, in_channels=channels, num_layers_d=3, norm="INSTANCE"
    )
    return {
        "discriminator": Player(
            discriminator,
            losses.tell_apart,
            lambda seen: second.learning_rate,
            clip=training.clip,
            starts_after=second.after_images,
        ),
        "autoencoder": Player(autoencoder, losses.loss, rate, training.weight_decay, training.clip),
    }


def _latent_scale(
    autoencoder: Autoencoder, frames: Frames, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure mean and deviation a channel of the raw latents over the training images, of more
    than SCALED over so many of them, evenly spread."""
    count, total, squares = 0, 0.0, 0.0
    step = -(-len(frames) // SCALED)
    some = Frames(frames.cohort, frames.chosen[::step])
    for chunk in some.chunks(64):
        with torch.inference_mode():
            z = autoencoder.moments(torch.from_numpy(chunk).to(device))[0].double().cpu()
        count += z[:, 0].numel()
        total = total + z.sum((0, 2, 3))
        squares = squares + (z**2).sum((0, 2, 3))
    mean = total / count
    return mean.float(), (squares / count - mean**2).clamp(min=1e-12).sqrt().float()


def _in_batches(function, images: torch.Tensor, size: int = 32) -> torch.Tensor:
    return torch.cat([function(part) for part in images.split(size)])
