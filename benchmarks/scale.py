"""What a study of millions of images would take on many GPUs, worked out and not tried.

    python benchmarks/scale.py protocols/chest_xray.yaml --profile full --images 10000000 --gpus 64

Arithmetic is counted on the networks that the protocol asks for, without computing anything; what
it takes follows from a GPU's matrix product and the share of it that is reached, which
`benchmarks/profiling.py` measures on yours. The search goes by what a query and a real image take
on one core (`benchmarks/search.py curve`), disks and network by the bytes written and sent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from medsynth import domains, protocol
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.models.lens import Lens
from medsynth.training.augment import views_of

QUERY_S, REAL_S, REAL_BYTES = 0.040, 5.2e-6, 13 * 1024
"""A query's own seconds of one core, what each real image adds, and the bytes held of each: as
docs/hospital.md has them from benchmarks/search.py."""


@dataclass(frozen=True)
class Arithmetic:
    """Multiplications and additions for an image, by what is done with it; the denoiser's weights
    and the numbers of a latent."""

    lens: float
    autoencoder: float
    denoiser: float
    encode: float
    decode: float
    step: float
    weights: int
    latent: int


def count(work: Callable[[], object], images: int) -> float:
    """Return the multiplications and additions of a piece of work for an image."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / images


def arithmetic(study: protocol.Protocol) -> Arithmetic:
    """Count what the study's networks ask for, forward and, for the trainings, backward."""
    channels, px, n = domains.domain(study.domain).channels, study.image.size_px, 2
    coder, latents = study.autoencoder, study.autoencoder.latent_channels
    with torch.device("meta"):
        autoencoder = Autoencoder.build(coder, channels=channels)
        side = px // autoencoder.downscale
        denoiser = Denoiser.build(
            study.diffusion, latent_channels=latents, latent_px=side, tokens=8
        )
        settings = study.lens
        lens = Lens(channels=channels, width=settings.width, features=settings.features)
        x, z = torch.zeros(n, channels, px, px), torch.zeros(n, latents, side, side)
        t, condition = torch.zeros(n, dtype=torch.long), torch.zeros(n, 1, dtype=torch.long)

    def train_coder() -> None:
        made, half, _, spread = autoencoder(x)
        total = made.sum() + spread.sum() + (0 if half is None else half.sum())
        total.backward()

    found = {
        "lens": count(lambda: lens(torch.cat([x, x])).sum().backward(), n),
        "autoencoder": count(train_coder, n),
        "denoiser": count(lambda: denoiser(z, t, condition).sum().backward(), n),
    }
    with torch.no_grad():
        found |= {
            "encode": count(lambda: autoencoder.moments(x), n),
            "decode": count(lambda: autoencoder.decode_raw(z), n),
            "step": count(lambda: denoiser(z, t, condition), n),
        }
    weights = sum(weight.numel() for weight in denoiser.parameters())
    return Arithmetic(**found, weights=weights, latent=z[0].numel())


def rows(study: protocol.Protocol, options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Return (part, what it takes, how that follows)."""
    cost, gpus, rate = arithmetic(study), options.gpus, options.flops * options.reached
    train = round(options.images * (1 - study.split.holdout - study.split.validation))
    views = len(views_of(domains.domain(study.domain).augmentations))
    steps = study.sample.steps
    passes = options.passes * train
    every = cost.step * steps + cost.decode
    queries = options.synthetic + options.audited
    found = [
        ("lens", study.lens.training.images * cost.lens, 1, "every process alike"),
        ("autoencoder", study.autoencoder.training.images * cost.autoencoder, gpus, ""),
        ("encoding", train * views * cost.encode, gpus, f"{train:,} images in {views} views"),
        ("denoiser", passes * cost.denoiser, gpus, f"{options.passes} passes"),
        ("sampling", options.synthetic * every, gpus, f"{options.synthetic:,} in {steps} steps"),
    ]
    table = [
        (name, f"{work / rate / 3600:.2f} GPU-hours, {work / rate / 60 / over:.1f} minutes",
         f"{work:.2g} multiplications and additions" + (f"; {how}" if how else ""))
        for name, work, over, how in found
    ]  # fmt: skip
    share = study.diffusion.training.batch / gpus
    sent = 2 * 4 * cost.weights * (gpus - 1) / gpus
    real = options.gallery
    search = queries * (QUERY_S + REAL_S * real) / 3600
    pixel = study.image.bits // 8 * domains.domain(study.domain).channels
    gib = 2.0**30
    return [
        *table,
        ("search", f"{search:,.0f} core-hours, {REAL_BYTES * real / gib:.1f} GiB a process",
         f"{queries:,} images looked up among {real:,}"),
        ("intake on disk", f"{options.images * study.image.size_px**2 * pixel / gib:,.0f} GiB", ""),
        ("latents on disk", f"{train * views * cost.latent * 4 / gib:,.0f} GiB", "float32"),
        ("a step's exchange", f"{sent / 1e6:,.0f} MB a GPU",
         f"gradients of {cost.weights / 1e6:.1f} M weights, there and back"),
        ("a step's arithmetic", f"{share * cost.denoiser / rate * 1e3:.2g} ms a GPU",
         f"{share:g} images each"),
    ]  # fmt: skip


def main() -> None:
    """Work out what the command line asks for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("protocol", type=Path)
    asked.add_argument("--profile", default=None)
    asked.add_argument("--images", type=int, default=10_000_000)
    asked.add_argument("--passes", type=int, default=5, help="of the denoiser's training")
    asked.add_argument("--synthetic", type=int, default=1_000_000)
    asked.add_argument("--audited", type=int, default=100_000, help="held-out images looked up")
    asked.add_argument("--gallery", type=int, default=10_000_000, help="real images among which")
    asked.add_argument("--gpus", type=int, default=64)
    asked.add_argument("--flops", type=float, default=790e12, help="of its matrix product")
    asked.add_argument("--reached", type=float, default=0.3, help="share of that")
    options = asked.parse_args()
    study = protocol.load(options.protocol, profile=options.profile)
    print("| part | takes | how it follows |\n|---|---|---|")
    for row in rows(study, options):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
