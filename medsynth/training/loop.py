"""The only training loop.

    for each step: set the rate, draw the batch, and for each player: loss and backward, a part of
    the batch at a time, clip, step; then average the weights, log, look at held-out images, save.

Training is counted in images. Every step's random numbers are seeded from (seed, step) and every
batch from how many images were seen, so that the same command after a kill goes on to the same
weights. Of several processes each draws the random numbers of the whole batch and computes its own
rows, so that their number changes nothing but rounding. Nothing in a step waits for a GPU: what is
logged stays there until it is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ..errors import StageError
from ..protocol import Optimiser
from ..runtime import append_jsonl, derive_seed
from . import batches
from .state import State, device_is_cpu

SAVES, SAVE_IMAGES = 25, 100_000  # so many times, and at least every so many images, it is saved
LOOKS = 20  # so often it is validated
PICTURES = 5  # so often a picture is drawn, which costs a sampling

Modules = Mapping[str, nn.Module]
Loss = Callable[[Modules, Any], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Player:
    """A network and what it learns by; it sits out until `starts_after` images were seen.

    `loss(modules, batch)` gets the modules of all that play at this step, in mixed precision
    where the machine has it, and returns the loss and the numbers to be logged.
    """

    module: nn.Module
    loss: Loss
    learning_rate: Callable[[int], float]
    weight_decay: float = 0.0
    clip: float = 1.0
    starts_after: int = 0


@dataclass(frozen=True)
class Task:
    """What is learned.

    `batch(start, count, own)` returns the rows `own` of the draws start .. start + count, a tensor
    or a tuple of them, on any device, with all random numbers that a loss needs: drawn for all
    rows, whichever are asked for. With `whole` each process takes all rows, where a loss compares
    all images of a batch. `ema` is the player whose weights are
    averaged, and the decay. `validate(modules)` returns numbers for the log and
    `preview(modules, path)` writes a picture; both see the averaged weights. `step(task, state)`
    takes the place of the usual step, in full precision; it must advance the state and returns
    numbers for the log. `keep` weights are kept on the way, evenly spaced and the last ones among
    them; 0 keeps none (see checkpoints.py). `profiles` averages by two powers are kept on the way
    of the player that is averaged (see averages.py). `patience` ends the training when
    `validation_loss` has not fallen for so many looks, with the weights at its lowest. `optimiser`
    says how a step is computed: its parts, how networks lie in memory. It is saved `saves` times.
    """

    name: str
    players: Mapping[str, Player]
    batch: Callable[[int, int, slice], Any]
    images: int
    batch_size: int
    seed: int
    ema: tuple[str, float] | None = None
    validate: Callable[[Modules], dict[str, float]] | None = None
    preview: Callable[[Modules, Path], None] | None = None
    step: Callable[[Task, State], dict[str, torch.Tensor]] | None = None
    keep: int = 0
    profiles: int = 0
    patience: int | None = None
    optimiser: Optimiser | None = None
    saves: int = SAVES
    whole: bool = False


def learning_rate(settings: Optimiser) -> Callable[[int], float]:
    """Return images seen -> rate: linear warm-up, then constant or a cosine to a hundredth."""

    def rate(seen: int) -> float:
        if seen < settings.warmup_images:
            return settings.learning_rate * (seen + settings.batch) / settings.warmup_images
        if settings.decay == "constant":
            return settings.learning_rate
        span = max(1, settings.images - settings.warmup_images)
        share = min(1.0, (seen - settings.warmup_images) / span)
        return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))

    return rate


def train(
    task: Task, folder: Path, progress: Callable[[str, float], None] = lambda what, share: None
) -> dict[str, nn.Module]:
    """Train to the end, from the last saved state in `folder` if there is one.

    Returns the players' modules by name on the CPU, in evaluation mode, with the averaged
    weights where the task averages.
    """
    precision = _precision() if task.step is None else "no"
    accelerator = Accelerator(mixed_precision=precision, cpu=device_is_cpu())
    state = State(task, accelerator, folder)
    state.resume()
    while not state.ended:
        logs = (task.step or _step)(task, state)
        _log(task, state, logs)
        progress(task.name, 1.0 if state.ended else min(1.0, state.seen / task.images))
    return state.finished()


def _step(task: Task, state: State) -> dict[str, torch.Tensor]:
    """One step of every player that takes part; returns what the losses were made of."""
    accelerator = state.accelerator
    torch.manual_seed(derive_seed(task.seed, task.name, state.step, 0))
    drawn = task.batch(state.seen, task.batch_size, state.own)
    rank = accelerator.process_index
    if rank and not task.whole:  # what is drawn from here on is each process's own
        torch.manual_seed(derive_seed(task.seed, task.name, state.step, rank))
    playing = {
        name: player for name, player in task.players.items() if state.seen >= player.starts_after
    }
    state.meet([*playing])
    logs: dict[str, torch.Tensor] = {}
    for name, player in playing.items():
        optimiser = state.optimisers[name]
        for group in optimiser.param_groups:
            group["lr"] = player.learning_rate(state.seen)
        optimiser.zero_grad(set_to_none=True)
        logs |= _add_gradients(state, name, player.loss, [*playing], drawn)
        state.share_gradients(name)
        norm = accelerator.clip_grad_norm_(player.module.parameters(), player.clip)
        optimiser.step()
        logs |= {f"{name}_gradient": norm}
    state.advance(task.batch_size)
    return logs


def _add_gradients(
    state: State, name: str, loss: Loss, playing: list[str], drawn: Any
) -> dict[str, torch.Tensor]:
    """Add up the gradients of a batch's parts, each by its share of the batch, and so the logs.

    Where memory is too short for as many images at a time, half as many are tried.
    """
    modules = {other: state.modules[other] for other in playing}
    while True:
        try:
            return _over_parts(state, name, loss, modules, batches.parts(drawn, state.at_a_time))
        except torch.OutOfMemoryError:
            state.halve(len(drawn) if isinstance(drawn, torch.Tensor) else len(drawn[0]))
        # Out here nothing holds on to what the failed attempt had made.
        state.forget(name)


def _over_parts(
    state: State, name: str, loss: Loss, modules: Modules, cut: list[tuple[Any, float]]
) -> dict[str, torch.Tensor]:
    logs: dict[str, torch.Tensor] = {}
    for number, (part, share) in enumerate(cut, start=1):
        last = number == len(cut)  # processes exchange gradients once, with the last
        apart = [*modules] if state.is_careful or not last else [o for o in modules if o != name]
        with ExitStack() as stack:
            for other in apart:
                stack.enter_context(state.accelerator.no_sync(modules[other]))
            value, found = loss(modules, part)
            state.accelerator.backward(value * share * state.weight)
        logs |= {key: logs.get(key, 0.0) + share * row for key, row in found.items()}
    return logs


def _log(task: Task, state: State, logs: Mapping[str, torch.Tensor]) -> None:
    if state.passed(task.images / LOOKS) or state.ended:
        row = {"images": state.seen, "seconds": round(time.monotonic() - state.started, 1)}
        row |= state.over_processes(logs) | state.less_at_a_time
        row |= state.look(picture=state.passed(task.images / PICTURES) or state.ended)
        if state.accelerator.is_main_process:
            append_jsonl(state.folder / "log.jsonl", row)
        _stop_if_lost(task, row)
        if task.patience is not None:
            state.note(row["validation_loss"])
    if task.keep and (state.passed(task.images / task.keep) or state.ended):
        state.keep()  # before it is saved: what training goes on from has its checkpoints
    if task.profiles and (state.passed(task.images / task.profiles) or state.ended):
        state.keep_profiles()
    if state.passed(min(SAVE_IMAGES, task.images / task.saves)) or state.ended:
        state.save()


def _stop_if_lost(task: Task, row: Mapping[str, float]) -> None:
    lost = sorted(name for name, value in row.items() if not math.isfinite(value))
    if lost:
        raise StageError(
            f"training the {task.name} diverged: {', '.join(lost)} is no number after "
            f"{row['images']} images. Lower {task.name}.training.learning_rate and run again"
        )


def _precision() -> str:
    """bf16 where a GPU has it; a CPU computes it a hundred times slower than fp32."""
    if device_is_cpu():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "no"
