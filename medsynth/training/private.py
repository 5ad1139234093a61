"""DP-SGD by patient: what one patient's images can change is drowned in noise.

    each step    every training patient is taken with probability q on a coin of its own; one image
                 of each is drawn, noised to K levels, and its gradient (the mean over the levels)
                 is clipped; the sum gets Gaussian noise and goes to the optimiser

The unit is the patient, linked duplicates included. All random numbers of a step come from a
secret that lives as long as the training: with the protocol's seed anybody could take the noise
off, or know who took part. Killed and started again, a step is taken again with the same random
numbers, which is no second release. Averaging the weights costs nothing (post-processing).

Source: Abadi et al., arXiv 1607.00133; Dockhorn et al., arXiv 2210.09929 (noise multiplicity).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import protocol
from ..budget import Account, Ledger, Training, epsilon_of, find_noise
from ..errors import StageError
from ..models.denoiser import Denoiser
from ..models.diffusion import Schedule
from ..runtime import ranks
from ..vocabulary import NULL
from . import clipping
from .clipping import Inputs, Loss, PatientGradients
from .diffusion import denoising_loss, times_at
from .loop import Task
from .sampling import Patients, Secret
from .state import State

LEDGER = "ledger.json"

Draw = Callable[[np.ndarray, np.random.Generator], Inputs]
"""(numbers of images (b,), random numbers) -> latents, conditions, times and noise (b K, ...)."""


# One step -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of DP-SGD, in the loop's place for its own; see the top of this file."""

    player: str
    settings: protocol.Private
    training: Training
    patients: Patients
    draw: Draw
    loss: Loss
    secret: Secret
    account: Account

    def __call__(self, task: Task, state: State) -> dict[str, torch.Tensor]:
        self.account.reserve(self.training, state.step)
        module, optimiser = state.modules[self.player], state.optimisers[self.player]
        for group in optimiser.param_groups:
            group["lr"] = task.players[self.player].learning_rate(state.seen)
        with clipping.exact():
            sums, logs = self._clipped_sum(module, state.step)
        self._add_noise(sums, state.step)
        for weight, total in zip(module.parameters(), sums, strict=True):
            weight.grad = total / task.batch_size
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        state.advance(task.batch_size)
        return logs

    def _clipped_sum(
        self, module: nn.Module, step: int
    ) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """Return the weights' sums of clipped gradients, a few patients at a time, and numbers
        for the log."""
        chosen = self.patients.draw(
            self.training.sample_rate, self.secret.generator("patients", step)
        )
        random = self.secret.generator("levels", step)
        gradients = PatientGradients(module, self.settings.noise_levels)
        sums = [torch.zeros_like(weight) for weight in module.parameters()]
        found = []
        for start in range(0, len(chosen), self.settings.microbatch):
            inputs = self.draw(chosen[start : start + self.settings.microbatch], random)
            found.append(self._add(sums, module, inputs, gradients))
        if not found:  # nobody took part: the step is noise alone
            return sums, {}
        losses, factors = (torch.cat(column) for column in zip(*found, strict=True))
        return sums, {"loss": losses.mean(), "clipped": (factors < 1).float().mean()}

    def _add(
        self,
        sums: list[torch.Tensor],
        module: nn.Module,
        inputs: Inputs,
        gradients: PatientGradients,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add some patients' clipped gradients; return their losses and factors."""
        rows, losses = clipping.patient_gradients(module, self.loss, inputs, gradients)
        factors = clipping.clip_factors(rows, self.settings.clip)
        clipping.add_clipped(sums, rows, factors)
        return losses, factors

    def _add_noise(self, sums: list[torch.Tensor], step: int) -> None:
        random = self.secret.generator("noise", step)
        deviation = self.training.noise_multiplier * self.settings.clip
        for total in sums:
            noise = random.standard_normal(tuple(total.shape), dtype=np.float32)
            total.add_(torch.from_numpy(noise).to(total.device), alpha=deviation)


def noised(
    latents: np.ndarray,
    conditions: torch.Tensor,
    schedule: Schedule,
    settings: protocol.Diffusion,
    device: str,
) -> Draw:
    """Return what draws images' inputs: K times each, one from each K-th of the schedule."""
    levels = settings.private.noise_levels

    def draw(chosen: np.ndarray, random: np.random.Generator) -> Inputs:
        views = random.integers(0, len(latents), len(chosen))
        z = torch.from_numpy(latents[views, chosen]).repeat_interleave(levels, 0)
        condition = conditions[views, chosen].repeat_interleave(levels, 0)
        dropped = random.random(len(z)) < settings.condition_dropout
        condition = torch.where(torch.from_numpy(dropped)[:, None], NULL, condition)
        share = (np.arange(levels) + random.random((len(chosen), levels))) / levels
        t = times_at(torch.from_numpy(share), schedule, settings)
        eps = torch.from_numpy(random.standard_normal(tuple(z.shape), dtype=np.float32))
        return tuple(x.to(device) for x in (z, condition, t.flatten(), eps))

    return draw


def loss_at_levels(schedule: Schedule, settings: protocol.Diffusion) -> Loss:
    """Return the denoising loss with a patient's K levels as the columns of a row."""
    levels = settings.private.noise_levels

    def loss(denoiser: nn.Module, inputs: Inputs) -> torch.Tensor:
        return denoising_loss(denoiser, *inputs, schedule, settings).unflatten(0, (-1, levels))

    return loss


# A task made private ------------------------------------------------------------------------------


def make_private(
    task: Task,
    settings: protocol.Diffusion,
    *,
    latents: np.ndarray,
    conditions: torch.Tensor,
    patients: np.ndarray,
    folder: Path,
    account: Path,
    device: str,
) -> Task:
    """Return the denoiser's task with DP-SGD in place of the loop's step.

    `latents` (V, N, c, h, w) and `conditions` (V, N, L) are of the training images, `patients`
    (N,) the numbers of their patients; `account` is the run's spent.json. The gradients are
    checked first, then ledger.json is written into `folder`. Raises StageError where the budget
    can't be kept.
    """
    who = Patients(patients)
    check_possible(settings, patients=len(who))
    denoiser = task.players["denoiser"].module.to(device)
    error = check_gradients(denoiser, settings, latent_shape=latents.shape[2:], device=device)
    secret, spent = Secret.open(folder / "secret"), Account(account)
    ledger = _open_ledger(folder / LEDGER, settings, len(who), secret.id, spent, error)
    schedule = Schedule.of(settings)
    step = Step(
        player="denoiser",
        settings=settings.private,
        training=ledger.trainings[-1],
        patients=who,
        draw=noised(latents, conditions, schedule, settings, device),
        loss=loss_at_levels(schedule, settings),
        secret=secret,
        account=spent,
    )
    return replace(task, step=step)


def check_possible(settings: protocol.Diffusion, *, patients: int) -> None:
    """Raise StageError where so many training patients can't be trained on within the budget."""
    private, batch = settings.private, settings.training.batch
    if private.delta >= 1 / patients:
        raise StageError(
            f"diffusion.private.delta {private.delta:g} is not below 1 / {patients} training "
            f"patients: such a budget would let one of them be given away whole. A tenth of that "
            f"is usual: {0.1 / patients:.1g}"
        )
    if batch > patients:
        raise StageError(
            f"diffusion.training.batch {batch} is the expected number of patients a step, and "
            f"there are {patients} training patients: lower it"
        )
    if ranks()[1] > 1:
        raise StageError("private training runs in one process: start it without torchrun")


def check_gradients(
    denoiser: Denoiser,
    settings: protocol.Diffusion,
    *,
    latent_shape: tuple[int, int, int],
    device: str,
    gradients: type[PatientGradients] = PatientGradients,
) -> float:
    """Run the self-test of `clipping.check` on random latents of the study's shape."""
    random, count = np.random.default_rng(0), clipping.TESTED_PATIENTS
    latents = random.standard_normal((1, count, *latent_shape), dtype=np.float32)
    tokens = denoiser.tokens.num_embeddings
    conditions = torch.from_numpy(random.integers(0, tokens, (1, count, 2)))
    schedule = Schedule.of(settings)
    inputs = noised(latents, conditions, schedule, settings, device)(np.arange(count), random)
    loss, levels = loss_at_levels(schedule, settings), settings.private.noise_levels
    with clipping.exact():
        return clipping.check(denoiser, loss, inputs, levels=levels, gradients=gradients)


def _open_ledger(
    path: Path,
    settings: protocol.Diffusion,
    patients: int,
    training: str,
    account: Account,
    error: float,
) -> Ledger:
    """Read this training's ledger, or reckon its noise and write one."""
    if path.exists() and (ledger := Ledger.read(path)).trainings[-1].id == training:
        return ledger
    private, batch = settings.private, settings.training.batch
    steps, rate = math.ceil(settings.training.images / batch), batch / patients
    before = account.others(training)
    known = {"delta": private.delta, "accountant": private.accountant}
    noise = find_noise(private.epsilon, sample_rate=rate, steps=steps, before=before, **known)
    trainings = (*before, Training(training, rate, noise, steps))
    ledger = Ledger(
        trainings=trainings,
        patients=patients,
        batch=batch,
        clip=private.clip,
        noise_levels=private.noise_levels,
        budget=private.epsilon,
        largest_error=error,
        epsilon=epsilon_of(trainings, **known),
        **known,
    )
    ledger.write(path)
    return ledger
