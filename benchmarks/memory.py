"""What a step of each network of a protocol takes in memory: an estimate, without computing it.

    python benchmarks/memory.py protocols/histology.yaml --profile full_512

Tensors have shapes and no values (FakeTensorMode), and torch's MemTracker adds up what would be
alive at the worst moment: weights, gradients, AdamW's moments, what is kept for the backward pass,
temporaries. All is float32, so that training in bfloat16 takes less; a GPU's own context, some
hundred MiB, what its libraries ask for beside it, and the disguises that a lens is shown are not
in it. `medsynth doctor --plan` on the machine itself measures instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from medsynth import domains, protocol
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.models.lens import LOOKED_AT, Lens
from medsynth.protocol import Optimiser, Protocol

TOKENS = 8
GIB = 2.0**30


def most(module: nn.Module, work: Callable[[], torch.Tensor | None], *, learns: bool) -> float:
    """Return the most GiB that are alive while `work` is done; what it returns is learned by."""
    tracker = MemTracker()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4, foreach=True)
    tracker.track_external(module, *([optimiser] if learns else []))
    with tracker, torch.set_grad_enabled(learns):
        value = work()
        if learns:
            value.backward()
            optimiser.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"] / GIB


def at_once(training: Optimiser) -> int:
    """Return how many images go through the network at a time."""
    return min(training.batch, training.microbatch or training.batch)


def rows(study: Protocol) -> Iterator[tuple[str, float, int, float]]:
    """Give (what, million weights, images at a time, GiB) of the trainings and of drawing."""
    with FakeTensorMode():
        yield from _lens(study)
        yield _autoencoder(study)
        yield from _denoiser(study)


def _lens(study: Protocol) -> Iterator[tuple[str, float, int, float]]:
    settings, px = study.lens, study.image.size_px
    channels = domains.domain(study.domain).channels
    net = Lens(channels=channels, width=settings.width, features=settings.features)
    views = torch.zeros(2 * settings.training.batch, channels, px, px)  # two of every image
    step = most(net, lambda: (net(views) ** 2).mean(), learns=True)
    yield "lens, a step", weights(net), settings.training.batch, step
    looked_at = torch.zeros(LOOKED_AT, channels, px, px)
    yield "lens, looking", weights(net), LOOKED_AT, most(net, lambda: net(looked_at), learns=False)


def _autoencoder(study: Protocol) -> tuple[str, float, int, float]:
    settings, channels = study.autoencoder, domains.domain(study.domain).channels
    net = Autoencoder.build(settings, channels=channels)
    if settings.training.checkpointing:
        net.net.enable_gradient_checkpointing()
    count, px = at_once(settings.training), study.image.size_px
    images = torch.zeros(count, channels, px, px)

    def learn() -> torch.Tensor:
        made, half, mean, spread = net(images)
        value = ((made - images) ** 2).mean() + (mean**2).mean() + spread.exp().mean()
        return value if half is None else value + (half**2).mean()

    return "autoencoder, a step", weights(net), count, most(net, learn, learns=True)


def _denoiser(study: Protocol) -> Iterator[tuple[str, float, int, float]]:
    settings, coder = study.diffusion, study.autoencoder
    side, channels = study.image.size_px // coder.downscale, coder.latent_channels
    net = Denoiser.build(settings, latent_channels=channels, latent_px=side, tokens=TOKENS)
    decoder = Autoencoder.build(coder, channels=domains.domain(study.domain).channels)
    both = nn.ModuleDict({"denoiser": net, "decoder": decoder})
    if settings.training.checkpointing:
        net.unet.enable_gradient_checkpointing()

    def shown(count: int) -> tuple[torch.Tensor, ...]:
        z = torch.zeros(count, channels, side, side)
        return z, torch.zeros(count, dtype=torch.long), torch.zeros(count, 1, dtype=torch.long)

    few, many = at_once(settings.training), study.sample.batch
    guided = many if study.sample.guidance == 1 else 2 * many
    average = sum(weight.numel() for weight in net.parameters()) * 4 / GIB if settings.ema else 0
    step = most(net, lambda: (net(*shown(few)) ** 2).mean(), learns=True) + average
    yield "denoiser, a step", weights(net), few, step
    draw = most(both, lambda: net(*shown(guided)), learns=False)
    yield "drawing, a step", weights(net), many, draw
    decode = most(both, lambda: decoder.decode_raw(shown(many)[0])[0], learns=False)
    yield "drawing, decoding", weights(decoder), many, decode


def weights(module: nn.Module) -> float:
    return sum(weight.numel() for weight in module.parameters()) / 1e6


def main() -> None:
    """Print what the command line's protocol takes."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("protocol", type=Path)
    asked.add_argument("--profile")
    options = asked.parse_args()
    study = protocol.load(options.protocol, profile=options.profile)
    print(f"{options.protocol.name} {options.profile or ''}, {study.image.size_px} px, float32\n")
    print("| | million weights | images at a time | GiB |\n|---|---:|---:|---:|")
    for what, millions, count, gib in rows(study):
        print(f"| {what} | {millions:.1f} | {count} | {gib:.2f} |", flush=True)


if __name__ == "__main__":
    main()
