"""Moving averages of a network's weights, and ones of any length found after training.

    the usual     w <- d w + (1 - d) new, with d short at first
    by a power    w <- b w + (1 - b) new with b = (1 - 1/n)^(gamma + 1) at step n: the weights of
                  step k count as k^gamma, so that the average is as long a share of the training
                  as long as that lasts
    afterwards    averages by two powers are kept at some moments; the weights of an average of any
                  other length are the combination of them whose profile over the steps is nearest
                  to the wanted one, by least squares

A power's length is the standard deviation of its profile, as a share of the training.
Source: Karras et al., arXiv 2312.02696, section 3 and appendix C.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..runtime import write_json, writes
from . import checkpoints

FOLDER = "averages"
LENGTHS = (0.05, 0.10)
"""The lengths of the two averages that are kept."""
LENGTHS_TRIED = (0.04, 0.06, 0.08, 0.10, 0.13, 0.17, 0.22)
"""Those that are tried where none is asked for."""

Weight = Callable[[int], float]
"""Number of the step, from 1 -> how much the newest weights count."""


def exponential(decay: float) -> Weight:
    """Return the usual moving average's weights, short at first."""
    return lambda step: 1 - min(decay, step / (9 + step))


def power(length: float) -> Weight:
    """Return the weights of the average of a length (share of the training, above 0)."""
    gamma = gamma_of(length)
    return lambda step: 1 - (1 - 1 / step) ** (gamma + 1)


def gamma_of(length: float) -> float:
    """Return the power whose profile has this standard deviation: the root of the paper's eq. 119,
    (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) = length^2. Raises ValueError where there is none."""
    if not 0 < length <= 0.28:
        raise ValueError(f"expected a length above 0 and up to 0.28, got {length:g}")
    inverse = length**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class Average:
    """A copy of a module that follows it; `weight` says how fast.

    How many steps it has seen is a plain number: torch's AveragedModel keeps it on the GPU, and
    waits for it twice a step.
    """

    def __init__(self, module: nn.Module, weight: Weight, device: torch.device):
        self.module = copy.deepcopy(module).to(device).requires_grad_(False)
        self.weight, self.steps = weight, 0

    def update(self, module: nn.Module) -> None:
        """Go on by one step; the first takes the module's weights as they are."""
        self.steps += 1
        if self.steps == 1:
            self.module.load_state_dict(module.state_dict())
            return
        with torch.no_grad():
            means, new = list(self.module.parameters()), list(module.parameters())
            torch._foreach_lerp_(means, new, self.weight(self.steps))
            for mine, theirs in zip(self.module.buffers(), module.buffers(), strict=True):
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return weights and steps as tensors."""
        weights = {f"module.{key}": value for key, value in self.module.state_dict().items()}
        return weights | {"n_averaged": torch.tensor(self.steps)}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take what `state_dict` gave."""
        weights = {key.removeprefix("module."): value for key, value in state.items()}
        self.steps = int(weights.pop("n_averaged"))
        self.module.load_state_dict(weights)


class Profiles:
    """Averages of LENGTHS of a player's module, kept on the way for `reconstruct`."""

    def __init__(self, module: nn.Module, device: torch.device):
        self.averages = [Average(module, power(length), device) for length in LENGTHS]

    def update(self, module: nn.Module) -> None:
        """Go on by one step."""
        for average in self.averages:
            average.update(module)

    def keep(self, folder: Path) -> None:
        """Keep both averages as they are now."""
        modules = {str(i): average.module for i, average in enumerate(self.averages)}
        checkpoints.keep(folder, self.averages[0].steps, modules, under=FOLDER)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return both averages' weights and steps as tensors."""
        parts = [average.state_dict() for average in self.averages]
        return {f"{i}.{key}": value for i, part in enumerate(parts) for key, value in part.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take what `state_dict` gave."""
        for i, average in enumerate(self.averages):
            own = {key[2:]: value for key, value in state.items() if key.startswith(f"{i}.")}
            average.load_state_dict(own)


# Afterwards -------------------------------------------------------------------------------------


def shares(
    kept: Sequence[tuple[int, float]], wanted: tuple[int, float]
) -> tuple[np.ndarray, float]:
    """Return how much each kept average counts, and what share of the wanted profile is missed.

    All are (steps, gamma); what is missed is 0 for a perfect reconstruction, 1 for none.
    """
    steps, gammas = (np.array(column, np.float64) for column in zip(*kept, strict=True))
    inner = products(steps[:, None], gammas[:, None], steps[None], gammas[None])
    target = products(steps, gammas, *wanted)
    found = np.linalg.lstsq(inner, target, rcond=1e-12)[0]
    whole = products(*wanted, *wanted)
    left = whole - 2 * found @ target + found @ inner @ found
    return found, float(np.sqrt(max(0.0, left) / whole))


def products(steps_a, gamma_a, steps_b, gamma_b) -> np.ndarray:
    """Return the inner products of profiles (gamma + 1) k^gamma / steps^(gamma + 1), 0 <= k <=
    steps: the integral over k of one times the other, up to the shorter one's end."""
    steps_a, gamma_a, steps_b, gamma_b = np.broadcast_arrays(steps_a, gamma_a, steps_b, gamma_b)
    swap = steps_a > steps_b
    first, last = np.minimum(steps_a, steps_b), np.maximum(steps_a, steps_b)
    later = np.where(swap, gamma_a, gamma_b)  # the power of the one that goes on longer
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (first / last) ** later / last


def reconstruct(folder: Path, length: float) -> tuple[dict[str, torch.Tensor], float]:
    """Return the weights of the average of a length at the end of a training, from what was kept
    in `folder`, and the share of its profile that is missed.

    A training must have kept averages; see `shares` for what is missed.
    """
    places = [
        (steps, gamma_of(kept), path / f"{i}.safetensors")
        for steps, path in checkpoints.kept(folder, under=FOLDER).items()
        for i, kept in enumerate(LENGTHS)
    ]
    end = max(steps for steps, _, _ in places)
    counts, missed = shares([place[:2] for place in places], (end, gamma_of(length)))
    total: dict[str, torch.Tensor] = {}
    for count, (_, _, path) in zip(counts / counts.sum(), places, strict=True):
        for key, value in load_file(path).items():
            part = count * value.double()
            total[key] = total[key] + part if key in total else part
    return {key: value.float() for key, value in total.items()}, missed


def choose(
    module: nn.Module,
    folder: Path,
    length: float | None,
    validate: Callable[[], Mapping[str, float]],
) -> float:
    """Give a module the average of a length; None tries some and takes the one whose
    `validation_loss` is the lowest. Returns the length that was taken.

    `validate` must draw the same random numbers each time. Writes averages.json: all lengths, their
    losses and what their profiles miss.
    """
    tried = []
    for one in LENGTHS_TRIED if length is None else (length,):
        weights, missed = reconstruct(folder, one)
        module.load_state_dict(weights)
        with torch.no_grad():
            tried.append({"length": one, "missed": missed, **validate()})
    best = min(tried, key=lambda row: row["validation_loss"])["length"]
    module.load_state_dict(reconstruct(folder, best)[0])
    if writes():
        write_json(folder / "averages.json", {"chosen": best, "tried": tried})
    return best
