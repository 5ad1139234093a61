"""One gradient a patient, clipped and summed, and the proof that it is the right one.

Opacus has the formulas of a layer's gradient sample by sample; they are used one layer at a time,
on contiguous copies: its convolutions read the wrong pixels of channels_last memory, in silence
(docs/opacus.md). So what comes out is held against gradients taken one by one before any epsilon
is said.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from opacus.grad_sample import GradSampleModule
from torch import nn

from ..budget import LARGEST_ERROR
from ..errors import StageError

TESTED_PATIENTS = 3
JITTER = 0.02  # a layer that starts at zero would hide a wrong gradient behind it

Inputs = tuple[torch.Tensor, ...]
"""What a network is given, K rows a patient, one patient after the other."""
Loss = Callable[[nn.Module, Inputs], torch.Tensor]
"""(module, inputs with K rows a patient) -> (patients, K) losses."""


class PatientGradients:
    """Collects a gradient a patient in the backward pass of what was computed in its context.

    Inputs come as `levels` rows a patient, one patient after the other; a patient's gradient is
    the sum over those rows. Raises StageError on a layer that Opacus has no formula for.
    """

    def __init__(self, module: nn.Module, levels: int):
        self.levels = levels
        self.found: dict[nn.Parameter, torch.Tensor] = {}
        self.weights = [weight for weight in module.parameters() if weight.requires_grad]
        self.layers = [
            layer
            for layer in module.modules()
            if any(weight.requires_grad for weight in layer.parameters(recurse=False))
        ]
        known = GradSampleModule.GRAD_SAMPLERS
        strange = sorted({type(x).__name__ for x in self.layers if type(x) not in known})
        if strange:
            raise StageError(
                f"no gradient a patient can be had of {', '.join(strange)}: such a network can't "
                f"be trained privately"
            )

    def __enter__(self) -> PatientGradients:
        self.found = {}
        self.hooks = [layer.register_forward_hook(self._watch) for layer in self.layers]
        self._learn(False)  # or autograd would also reckon the weights' gradients over all
        return self

    def __exit__(self, *error: object) -> None:
        self._learn(True)
        for hook in self.hooks:
            hook.remove()

    def _learn(self, wanted: bool) -> None:
        for weight in self.weights:
            weight.requires_grad_(wanted)

    def _watch(self, layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if not output.requires_grad:  # a first layer: its input has no gradient
            output.requires_grad_(True)
        output.register_hook(partial(self._collect, layer, inputs[0].detach()))

    def _collect(self, layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> None:
        for weight, rows in self.formula(layer, x, gradient).items():
            rows = rows.unflatten(0, (-1, self.levels)).sum(1) if self.levels > 1 else rows
            self.found[weight] = self.found[weight] + rows if weight in self.found else rows

    @staticmethod
    def formula(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor):
        """Return {weight: gradient of each row (N, ...)} of a layer's input and output gradient."""
        sampler = GradSampleModule.GRAD_SAMPLERS[type(layer)]
        return sampler(layer, [x.contiguous()], gradient.contiguous())


def exact() -> AbstractContextManager:
    """Compute in full precision and the same way each time: a GPU rounds convolutions else."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def patient_gradients(
    module: nn.Module, loss: Loss, inputs: Inputs, gradients: PatientGradients
) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    """Return each weight's gradients (b, ...), None where it has no part, and losses (b, K).

    A patient's gradient is that of the mean of its K losses, so that it counts as one sample.
    """
    with gradients:
        values = loss(module, inputs)
    values.mean(1).sum().backward()
    return [gradients.found.pop(weight, None) for weight in module.parameters()], values.detach()


def clip_factors(rows: list[torch.Tensor | None], clip: float) -> torch.Tensor:
    """Return what brings each patient's whole gradient to at most `clip`: (b,) in [0, 1].

    A gradient that is no number gets factor 0; its rows are set to 0, or 0 times NaN would be NaN.
    """
    flat = [x.reshape(len(x), -1) for x in rows if x is not None]
    norms = torch.stack([x.norm(dim=1) for x in flat]).norm(dim=0)
    lost = ~norms.isfinite()
    if lost.any():
        for x in flat:
            x[lost] = 0.0
    return torch.where(lost, 0.0, clip / norms.clamp(min=clip))


def add_clipped(
    sums: list[torch.Tensor], rows: list[torch.Tensor | None], factors: torch.Tensor
) -> None:
    """Add the patients' clipped gradients to the weights' sums."""
    for total, x in zip(sums, rows, strict=True):
        if x is not None:
            total += torch.tensordot(factors, x, 1)


def check(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    *,
    levels: int,
    gradients: type[PatientGradients] = PatientGradients,
) -> float:
    """Hold gradients a patient against ones taken one by one, on a jittered copy of a module, in
    double precision, so that a fault can't be taken for rounding.

    Returns the largest error of a patient's gradient, and of its norm after clipping, relative to
    the gradient. Raises StageError above 1e-4: nothing may be claimed of such a training.
    """
    module = _jittered(module)
    inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
    weights = list(module.parameters())
    rows, values = patient_gradients(module, loss, inputs, gradients(module, levels))
    count = len(values)
    found = [_flat([None if x is None else x[i] for x in rows], weights) for i in range(count)]
    truth = [
        _one_by_one(module, loss, inputs, slice(i * levels, (i + 1) * levels)) for i in range(count)
    ]
    clip = 0.5 * float(min(x.norm() for x in truth))  # so that all are clipped
    factors = clip_factors(rows, clip)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)]
    errors += [
        abs(float(factor * x.norm()) / clip - 1) for factor, x in zip(factors, truth, strict=True)
    ]
    worst = max(errors, key=lambda error: math.inf if math.isnan(error) else error)
    if not worst <= LARGEST_ERROR:
        raise StageError(
            f"the gradients a patient are wrong by {worst:.2g} of their size, more than "
            f"{LARGEST_ERROR:g} (checked one by one): no epsilon would be true, so nothing is "
            f"trained. Change diffusion.widths or diffusion.attention, or report this"
        )
    return worst


def _one_by_one(module: nn.Module, loss: Loss, inputs: Inputs, own: slice) -> torch.Tensor:
    weights = list(module.parameters())
    value = loss(module, tuple(x[own] for x in inputs)).mean()
    return _flat(torch.autograd.grad(value, weights, allow_unused=True), weights)


def _flat(rows: Sequence[torch.Tensor | None], weights: list[nn.Parameter]) -> torch.Tensor:
    pairs = zip(rows, weights, strict=True)
    return torch.cat([(torch.zeros_like(w) if x is None else x).flatten() for x, w in pairs])


def _jittered(module: nn.Module) -> nn.Module:
    module = copy.deepcopy(module).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.add_(JITTER * noise.to(weight))
    return module
