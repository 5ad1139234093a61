"""The steps of a student: few times, from each to the next in one pass of DDIM.

What a student's folder holds beside a diffusers UNet is `student.json`: the pairs of times, what
the network predicts, and the guidance that is in it already. Image after image the same:

    x_0, eps = split(network(x, t, condition));  x = signal(t') x_0 + noise(t') eps
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from .. import protocol
from ..runtime import read_json, write_json
from .diffusion import CLEAN, Denoise, Objective, Schedule
from .solvers import solve, walk

NAME = "student.json"


@dataclass(frozen=True)
class Steps:
    """Where a student steps: (t, t_prev) pairs from pure noise to the clean end."""

    pairs: tuple[tuple[int, int], ...]
    schedule: Schedule
    objective: Objective

    @classmethod
    def of(cls, settings: protocol.Sample, diffusion: protocol.Diffusion) -> Steps:
        """Return every n-th time of the denoiser's own walk."""
        schedule = Schedule.of(diffusion)
        times = [t for t, _ in walk(schedule, settings.steps, spacing=settings.spacing)]
        kept = times[:: settings.steps // settings.student.steps]
        pairs = tuple(zip(kept, [*kept[1:], CLEAN], strict=True))
        return cls(pairs, schedule, diffusion.objective)

    def walks(self, denoise: Denoise, x: torch.Tensor, settings: protocol.Sample) -> torch.Tensor:
        """Walk x (N, ...) as `settings` say, and return (steps + 1, N, ...): the points at which a
        student steps, and the end."""
        times, points = {t for t, _ in self.pairs}, []

        def watched(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if int(t[0]) in times:
                points.append(x)
            return denoise(x, t)

        end = solve(watched, x, self.schedule, settings, objective=self.objective)
        return torch.stack([*points, end])

    def error(
        self,
        prediction: torch.Tensor,
        x: torch.Tensor,
        end: torch.Tensor,
        step: torch.Tensor,
    ) -> torch.Tensor:
        """Return by how much v must change for the steps (N,) from x (N, ...) to lead to `end`.

        A step by the angle d turns x and v: it ends on cos(d) x - sin(d) v (2202.00512, appendix
        D), so that what it misses, over sin(d), is the error of v.
        """
        row = _table_on(self, x.device)[step]
        signal, noise, sine = (
            each.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype) for each in row[:, 1:].unbind(1)
        )
        x_0, eps = self.schedule.split(prediction, x, row[:, 0].long(), self.objective)
        return (signal * x_0 + noise * eps - end) / sine

    def times(self, step: torch.Tensor) -> torch.Tensor:
        """Return the times (N,) int64 at which the steps (N,) begin."""
        return _table_on(self, step.device)[step, 0].long()

    def write(self, folder: Path, settings: protocol.Sample) -> None:
        """Say in a student's folder how images are drawn by it."""
        row = {
            "sampler": "ddim",
            "pairs": [list(pair) for pair in self.pairs],
            "objective": self.objective,
            "guidance": 1.0,
            "guidance_within": settings.guidance,
        }
        write_json(folder / NAME, row)


@lru_cache(maxsize=16)
def _table_on(steps: Steps, device: torch.device) -> torch.Tensor:
    """Return by step (K, 4) float64: its time, signal and noise where it ends, sine of its turn."""
    rows = []
    for t, t_prev in steps.pairs:
        here, there = steps.schedule.angle(t), steps.schedule.angle(t_prev)
        rows.append([t, math.cos(there), math.sin(there), math.sin(here - there)])
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float64, device=device)


def read_pairs(folder: Path) -> Sequence[tuple[int, int]]:
    """Return the pairs of times of the student in a folder."""
    return [(t, t_prev) for t, t_prev in read_json(folder / NAME)["pairs"]]
