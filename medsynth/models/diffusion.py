"""The noise schedule, what the denoiser is asked for, and DDIM.

Words as the papers write them: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, time t = 0 the
least noisy of T steps. The clean end, abar = 1, is one step below t = 0.

Rectified flow walks the straight line (1 - s) x_0 + s eps with velocity eps - x_0. Divided by
sqrt((1 - s)^2 + s^2) that line is an x_t as above, with abar = (1 - s)^2 / ((1 - s)^2 + s^2): the
schedule `flow`. So the network sees inputs of unit variance, DDIM is Euler's method on the line,
and all that goes through `Schedule.split` needs to know nothing of it.

Source: Ho et al., arXiv 2006.11239 (forward process); Song et al., arXiv 2010.02502 (DDIM);
Salimans & Ho, arXiv 2202.00512 (v prediction); Hang et al., arXiv 2303.09556 (min-SNR); Liu et
al., arXiv 2209.03003 (rectified flow); Lin et al., arXiv 2305.08891 (zero terminal SNR).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch

from .. import protocol

Objective = Literal["v", "eps", "flow"]
CLEAN = -1
"""The time below t = 0, where no noise is left."""

Denoise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t (N, ...), t (N,) int64) -> prediction (N, ...), of what the objective says."""


@dataclass(frozen=True)
class Schedule:
    """How noise grows over `timesteps` steps.

    `scaled_linear` has betas between two ends, even in the root, by default Medfusion's; `cosine`
    is Nichol & Dhariwal's (arXiv 2102.09672) with beta at most 0.999; `flow` is rectified flow's
    straight line. With `zero_terminal` the last time is pure noise, abar = 0, as in `flow` it
    always is.
    """

    kind: Literal["scaled_linear", "cosine", "flow"]
    timesteps: int
    zero_terminal: bool = False
    betas: tuple[float, float] = (0.002, 0.02)

    @classmethod
    def of(cls, settings: protocol.Diffusion) -> Schedule:
        """Return the schedule that a protocol asks for."""
        ends = {} if settings.betas is None else {"betas": settings.betas}
        zero = bool(settings.zero_terminal_snr)
        return cls(settings.schedule, settings.timesteps, zero, **ends)

    @cached_property
    def abar(self) -> np.ndarray:
        """(T,) float64: the share of the signal's variance that is left at each time."""
        abar = self._abar()
        if not self.zero_terminal:
            return abar
        signal = np.sqrt(abar)  # shifted to end at 0, stretched to begin where it did
        return ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2

    def _abar(self) -> np.ndarray:
        if self.kind == "flow":
            s = np.arange(1, self.timesteps + 1) / self.timesteps
            return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)
        if self.kind == "scaled_linear":
            betas = np.linspace(*np.sqrt(self.betas), self.timesteps) ** 2
        else:
            ends = np.arange(self.timesteps + 1) / self.timesteps
            signal = np.cos((ends + 0.008) / 1.008 * math.pi / 2) ** 2
            betas = np.minimum(1 - signal[1:] / signal[:-1], 0.999)
        return np.cumprod(1 - betas)

    @property
    def step_betas(self) -> np.ndarray:
        """(T,) float64: the share of variance that each step replaces by noise."""
        return 1 - self.abar / np.concatenate([[1.0], self.abar[:-1]])

    def angle(self, t: int) -> float:
        """Return atan2(noise, signal) at a time: 0 at the clean end, near pi/2 in pure noise."""
        abar = 1.0 if t == CLEAN else float(self.abar[t])
        return math.atan2(math.sqrt(1 - abar), math.sqrt(abar))

    def signal_noise(
        self, t: torch.Tensor, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t), shaped to multiply `like` (N, ...)."""
        table = _abar_on(self, t.device)[t]
        table = table.reshape(-1, *[1] * (like.ndim - 1))
        return table.sqrt().to(like.dtype), (1 - table).sqrt().to(like.dtype)

    def add_noise(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Return x_t for clean x_0 (N, ...), noise eps of the same shape and times t (N,)."""
        signal, noise = self.signal_noise(t, x_0)
        return signal * x_0 + noise * eps

    def target(
        self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor, objective: Objective
    ) -> torch.Tensor:
        """Return the denoiser's target: eps, v = sqrt(abar) eps - sqrt(1 - abar) x_0, or the
        flow's velocity eps - x_0."""
        if objective == "eps":
            return eps
        if objective == "flow":
            return eps - x_0
        signal, noise = self.signal_noise(t, x_0)
        return signal * eps - noise * x_0

    def weight(self, t: torch.Tensor, objective: Objective, gamma: float | None) -> torch.Tensor:
        """Return the min-SNR loss weights (N,) float32, 1 everywhere where gamma is None.

        An error in the image weighs min(snr, gamma), so that pure noise weighs nothing.
        """
        if gamma is None:
            return torch.ones(len(t), device=t.device)
        abar = _abar_on(self, t.device)[t]
        snr = abar / (1 - abar)
        scale = snr if objective == "eps" else snr + 1
        if objective == "flow":
            scale = scale * (abar.sqrt() + (1 - abar).sqrt()) ** 2
        return (snr.clamp(max=gamma) / scale).float()

    def split(
        self, prediction: torch.Tensor, x_t: torch.Tensor, t: torch.Tensor, objective: Objective
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the (x_0, eps) that a prediction at x_t stands for.

        Only eps prediction divides by the signal; it can't be had where there is none.
        """
        signal, noise = self.signal_noise(t, x_t)
        if objective == "eps":
            return (x_t - noise * prediction) / signal, prediction
        if objective == "flow":
            line = signal + noise  # 1 to sqrt(2): x_t = (signal x_0 + noise eps), sum of weights
            return (x_t - noise * prediction) / line, (x_t + signal * prediction) / line
        return signal * x_t - noise * prediction, noise * x_t + signal * prediction


@lru_cache(maxsize=16)
def _abar_on(schedule: Schedule, device: torch.device) -> torch.Tensor:
    """Keep a schedule's table on a device: copying it there at each step would wait for it."""
    with torch.inference_mode(False):
        return torch.as_tensor(schedule.abar, device=device)


def spaced_times(schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    """Return `steps` explicit (t, t_prev) pairs from T - 1 to the clean end.

    Times are even in the angle between signal and noise: DDIM's shrinkage is second order in the
    angle of a step, so this spends the steps where they count. On data of unit variance, which
    normalised latents are, no spacing shrinks less. Raises ValueError for more steps than times.
    """
    if not 1 <= steps <= schedule.timesteps:
        raise ValueError(f"steps must be 1 to {schedule.timesteps}, got {steps}")
    angles = np.arctan2(np.sqrt(1 - schedule.abar), np.sqrt(schedule.abar))
    wanted = angles[-1] * (1 - np.arange(steps) / steps)
    times = np.abs(angles[None, :] - wanted[:, None]).argmin(1)
    for i in range(steps - 2, -1, -1):  # near the clean end several wishes share one time
        times[i] = max(times[i], times[i + 1] + 1)
    times[0] = schedule.timesteps - 1
    for i in range(1, steps):
        times[i] = min(times[i], times[i - 1] - 1)
    walk = [int(t) for t in times]
    return list(zip(walk, [*walk[1:], CLEAN], strict=True))


def ddim(
    denoise: Denoise,
    x: torch.Tensor,
    schedule: Schedule,
    pairs: Sequence[tuple[int, int]],
    *,
    objective: Objective,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> torch.Tensor:
    """Walk x (N, ...) from noise at the first pair's t to the clean end (Song et al., eq. 12).

    `eta` 0 is deterministic; 1 adds as much noise as DDPM, drawn for image i from
    `generators[i]`, so that an image depends on its own generator alone.
    """
    if eta > 0 and len(generators) != len(x):
        raise ValueError(f"eta {eta} needs a generator an image: {len(x)}, got {len(generators)}")
    for t, t_prev in pairs:
        times = torch.full((len(x),), t, device=x.device)
        x_0, eps = schedule.split(denoise(x, times), x, times, objective)
        x = _step(x_0, eps, schedule, t, t_prev, eta=eta, generators=generators)
    return x


def _step(x_0, eps, schedule: Schedule, t: int, t_prev: int, *, eta: float, generators):
    if t_prev == CLEAN:
        return x_0
    abar, abar_prev = float(schedule.abar[t]), float(schedule.abar[t_prev])
    sigma = eta * math.sqrt((1 - abar_prev) / (1 - abar) * (1 - abar / abar_prev))
    x = math.sqrt(abar_prev) * x_0 + math.sqrt(max(0.0, 1 - abar_prev - sigma**2)) * eps
    return x + sigma * noise_like(x, generators) if sigma > 0 else x


def noise_like(x: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Draw standard normal noise of x's shape, row i from generators[i], on the CPU.

    The CPU's generator gives the same numbers on every machine, a GPU's does not.
    """
    rows = [
        torch.randn(x.shape[1:], generator=generator, dtype=torch.float32)
        for generator in generators
    ]
    return torch.stack(rows).to(x)
