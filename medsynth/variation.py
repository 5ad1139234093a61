"""Variations of real images: noised so far and denoised again, all of them or a part (DA-Fusion).

An image is encoded, noised to the time of a strength and denoised from there under a condition.
Strength 0 is what the autoencoder keeps; at strength 1 the start is noise alone, so that the child
is what `synthesis.sample` draws from the same seed. Under a mask, the network's picture is replaced
by the parent's latents where they are to stay, at every step and for every solver alike: a solver
that is told the same x_0 each time stays on the straight way from the noise to it. Nothing that is
made here is synthetic in the sense of a release: it started from a patient.

Source: Trabucco et al., arXiv 2302.07944 (DA-Fusion); Meng et al., arXiv 2108.01073 (starting in
between).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from . import protocol
from .models.autoencoder import Autoencoder
from .models.concept import Taught
from .models.denoiser import guided, guided_times
from .models.diffusion import CLEAN, Denoise, Objective, Schedule, noise_like
from .models.prompted import AnyDenoiser
from .models.solvers import solve, walk


@dataclass(frozen=True, eq=False)
class Parents:
    """Images (N, C, H, W) in [-1, 1] to be varied, the tokens (N, L) int64 to vary them under, and
    where they are to stay as they are, (N, H, W) bool; None is nowhere."""

    images: np.ndarray
    tokens: torch.Tensor
    stays: np.ndarray | None = None

    def take(self, rows: Sequence[int]) -> Parents:
        """Return some of them, in this order."""
        stays = None if self.stays is None else self.stays[rows]
        return Parents(self.images[rows], self.tokens[rows], stays)


def time_of(strength: float, schedule: Schedule) -> int:
    """Return the time that a share of the schedule's steps reaches: CLEAN at 0, T - 1 at 1."""
    if not 0 <= strength <= 1:
        raise ValueError(f"expected a strength from 0 to 1, got {strength:g}")
    return round(strength * schedule.timesteps) + CLEAN


def walk_from(
    schedule: Schedule, strength: float, settings: protocol.Sample
) -> list[tuple[int, int]]:
    """Return the (t, t_prev) pairs from a strength's own time: from there to the next of the whole
    walk's times, and along those. Empty at strength 0, the whole walk at 1."""
    start, whole = time_of(strength, schedule), walk(schedule, settings.steps,
                                                     spacing=settings.spacing)  # fmt: skip
    times = [t for t, _ in whole if t < start]
    walked = [start, *times] if start > CLEAN else []
    return list(zip(walked, [*walked[1:], CLEAN], strict=True)) if walked else []


def vary(
    denoiser: AnyDenoiser | Taught,
    autoencoder: Autoencoder,
    parents: Parents,
    strengths: Sequence[float],
    *,
    settings: protocol.Sample,
    diffusion: protocol.Diffusion,
    seeds: Sequence[int],
    device: str,
) -> np.ndarray:
    """Draw one child a parent: (N, C, H, W) float32 in [-1, 1].

    Child i follows from its parent, tokens, strength in [0, 1] and seed alone; as in
    `synthesis.sample` the network is always given `settings.batch` images.
    """
    made = np.empty_like(parents.images, np.float32)
    for strength in sorted(set(strengths)):
        same = [i for i, own in enumerate(strengths) if own == strength]
        for start in range(0, len(same), settings.batch):
            rows = same[start : start + settings.batch]
            padded = rows + rows[-1:] * (settings.batch - len(rows))
            with torch.inference_mode():
                z = _vary_batch(
                    denoiser, autoencoder, parents.take(padded), strength,
                    settings, diffusion, [seeds[row] for row in padded], device,
                )  # fmt: skip
                made[rows] = autoencoder.decode(z).float().cpu().numpy()[: len(rows)]
    return made


def _vary_batch(
    denoiser, autoencoder, parents: Parents, strength, settings, diffusion, seeds, device
) -> torch.Tensor:
    """Return the children's latents (B, c, h, w)."""
    schedule, tokens = Schedule.of(diffusion), parents.tokens.to(device)
    z = autoencoder.encode(torch.from_numpy(parents.images).to(device))
    pairs = walk_from(schedule, strength, settings)
    if not pairs:
        return z
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x = noise_like(z, generators)
    if strength < 1:
        x = schedule.add_noise(z, x, torch.full((len(z),), pairs[0][0], device=device))
    times = guided_times(schedule, settings.guidance_interval)
    denoise = guided(denoiser, tokens, settings.guidance, times=times)
    if parents.stays is not None:
        stays = shrink(torch.from_numpy(parents.stays).to(device), z.shape[-1])
        denoise = keeping(denoise, z, stays, schedule, diffusion.objective)
    return solve(
        denoise,
        x,
        schedule,
        settings,
        objective=diffusion.objective,
        generators=generators,
        pairs=pairs,
    )


def shrink(stays: torch.Tensor, side: int) -> torch.Tensor:
    """Return where latents stay, (N, 1, side, side) bool, for images that stay at (N, H, W): where
    all pixels of a place do, so that whatever is to change can."""
    changes = torch.nn.functional.adaptive_max_pool2d((~stays)[:, None].float(), side)
    return changes == 0


def keeping(
    denoise: Denoise,
    z: torch.Tensor,
    stays: torch.Tensor,
    schedule: Schedule,
    objective: Objective,
) -> Denoise:
    """Return `denoise` with its answer replaced, where an image stays, by the one that leads to its
    latents z (N, c, h, w); `stays` is (N, 1, h, w) bool."""

    def answer(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, noise = schedule.signal_noise(t, x)
        back = schedule.target(z, (x - signal * z) / noise, t, objective)
        return torch.where(stays, back, denoise(x, t))

    return answer


def draw_strengths(choices: Sequence[float], count: int, *, seed: int) -> list[float]:
    """Return `count` strengths drawn evenly: each of the choices as often as the others or once
    more, which ones by chance, in a random order."""
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(choices)) for _ in range(-(-count // len(choices)))]
    return [choices[i] for i in np.concatenate(rounds)[:count]]
