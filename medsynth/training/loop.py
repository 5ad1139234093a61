"""The only training loop.

    for each step: set the rate, draw the batch, and for each player: loss and backward, a part of
    the batch at a time, clip, step; then average the weights, log, look at held-out images, save.

Training is counted in images. Every step's random numbers are seeded from (seed, step, rank) and
every batch from how many images were seen, so that the same command after a kill goes on to the
same weights. Nothing in a step waits for a GPU: what is logged stays there until it is written.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from ..errors import StageError
from ..protocol import Optimiser
from ..runtime import append_jsonl, choose_device, derive_seed
from . import batches, checkpoints, saving
from .averages import Average, Profiles, exponential
from .stopping import Patience

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

    `batch(start, count)` returns the draws start .. start + count, a tensor or a tuple of them, on
    any device, with all random numbers that a loss needs. `ema` is the player whose weights are
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
    batch: Callable[[int, int], Any]
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
    accelerator = Accelerator(mixed_precision=precision, cpu=_device_is_cpu())
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
    world, rank = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(derive_seed(task.seed, task.name, state.step, rank))
    share = -(-task.batch_size // world)
    size = task.optimiser.microbatch if task.optimiser else None
    drawn = batches.parts(task.batch(state.seen + rank * share, share), size)
    playing = {
        name: player for name, player in task.players.items() if state.seen >= player.starts_after
    }
    logs: dict[str, torch.Tensor] = {}
    for name, player in playing.items():
        optimiser = state.optimisers[name]
        for group in optimiser.param_groups:
            group["lr"] = player.learning_rate(state.seen)
        optimiser.zero_grad(set_to_none=True)
        logs |= _add_gradients(state, name, player.loss, [*playing], drawn)
        norm = accelerator.clip_grad_norm_(player.module.parameters(), player.clip)
        optimiser.step()
        logs |= {f"{name}_gradient": norm}
    state.advance(share * world)
    return logs


def _add_gradients(
    state: State, name: str, loss: Loss, playing: list[str], drawn: list[tuple[Any, float]]
) -> dict[str, torch.Tensor]:
    """Add up the gradients of a batch's parts, each by its share of the batch, and so the logs."""
    modules = {other: state.modules[other] for other in playing}
    logs: dict[str, torch.Tensor] = {}
    for number, (part, share) in enumerate(drawn, start=1):
        last = number == len(drawn)  # processes exchange gradients once, with the last
        with nullcontext() if last else state.accelerator.no_sync(modules[name]):
            value, found = loss(modules, part)
            state.accelerator.backward(value * share)
        logs |= {key: logs.get(key, 0.0) + share * row for key, row in found.items()}
    return logs


def _log(task: Task, state: State, logs: Mapping[str, torch.Tensor]) -> None:
    if state.passed(task.images / LOOKS) or state.ended:
        row = {"images": state.seen, "seconds": round(time.monotonic() - state.started, 1)}
        row |= {key: float(value) for key, value in logs.items()}
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


class State:
    """Networks, optimisers and averages of a training, and how far it has come."""

    def __init__(self, task: Task, accelerator: Accelerator, folder: Path):
        self.task, self.accelerator, self.folder = task, accelerator, folder
        self.seen = self.before = self.step = 0
        self.patience = Patience(task.patience)
        self.started = time.monotonic()
        if task.optimiser is not None and task.optimiser.channels_last:
            for player in task.players.values():
                player.module.to(memory_format=torch.channels_last)
        # Copied before accelerate changes how the network is called.
        self.average, self.profiles = self._make_averages()
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, Any] = {}
        for name, player in task.players.items():
            optimiser = torch.optim.AdamW(
                player.module.parameters(), lr=1.0, weight_decay=player.weight_decay, fused=True
            )
            self.modules[name], self.optimisers[name] = accelerator.prepare(
                player.module, optimiser
            )
        if task.optimiser is not None and task.optimiser.compile and not _device_is_cpu():
            for name in self.modules:
                self._bare(name).compile()

    def _make_averages(self) -> tuple[Average | None, Profiles | None]:
        if self.task.ema is None:
            return None, None
        (name, decay), device = self.task.ema, self.accelerator.device
        module = self.task.players[name].module
        profiles = Profiles(module, device) if self.task.profiles else None
        return Average(module, exponential(decay), device), profiles

    def _bare(self, name: str) -> nn.Module:
        return self.accelerator.unwrap_model(self.modules[name])

    def advance(self, images: int) -> None:
        """Count a step, and let the averages follow it."""
        self.before, self.seen, self.step = self.seen, self.seen + images, self.step + 1
        for average in (self.average, self.profiles):
            if average is not None:
                average.update(self._bare(self.task.ema[0]))

    @property
    def ended(self) -> bool:
        """True where all images were seen, or the loss has not fallen for long enough."""
        return self.seen >= self.task.images or self.patience.is_over

    def note(self, loss: float) -> None:
        """Note the loss of a look, the first process's for all, and keep the lowest's weights."""
        value = torch.tensor([loss], dtype=torch.float64, device=self.accelerator.device)
        if self.patience.note(self.seen, float(broadcast(value))):
            if self.accelerator.is_main_process:
                checkpoints.keep_best(self.folder, self.seen, self.evaluated())
            self._go_on()

    def passed(self, every: float) -> bool:
        """True if the last step went past a multiple of `every` images."""
        return self.seen // every > self.before // every

    def look(self, *, picture: bool) -> dict[str, float]:
        """Validate and draw with the averaged weights, without disturbing the next step."""
        modules = self.evaluated()
        found: dict[str, float] = {}
        with torch.no_grad():
            if self.task.validate is not None:
                torch.manual_seed(derive_seed(self.task.seed, self.task.name, "validation"))
                found = self.task.validate(modules)
            if picture and self.task.preview is not None and self.accelerator.is_main_process:
                previews = self.folder / "previews"
                previews.mkdir(exist_ok=True)
                self.task.preview(modules, previews / f"{self.seen:010d}.png")
        self._go_on()
        return found

    def _go_on(self) -> None:
        for module in self.modules.values():
            module.train()

    def evaluated(self) -> dict[str, nn.Module]:
        modules = {name: self._bare(name) for name in self.modules}
        if self.average is not None:
            modules[self.task.ema[0]] = self.average.module
        return {name: module.eval() for name, module in modules.items()}

    def finished(self) -> dict[str, nn.Module]:
        """Return the networks on the CPU: averaged and the best ones, where the task asks."""
        modules = self.evaluated()
        self.accelerator.free_memory()
        plain = {
            name: self.accelerator.unwrap_model(module, keep_fp32_wrapper=False)
            for name, module in modules.items()
        }
        if self.task.patience is not None:
            checkpoints.end_with_best(self.folder, plain, every=self.task.keep > 0)
        return {  # copies of the shell: they are not compiled, wherever they are used
            name: copy.copy(module).cpu().to(memory_format=torch.contiguous_format)
            for name, module in plain.items()
        }

    # Saving ---------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keep the weights as they are now, averaged ones where the task averages."""
        if self.accelerator.is_main_process:
            checkpoints.keep(self.folder, self.seen, self.evaluated())
        self._go_on()
        self.accelerator.wait_for_everyone()

    def keep_profiles(self) -> None:
        """Keep both averages by powers as they are now."""
        if self.accelerator.is_main_process:
            self.profiles.keep(self.folder)
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the whole state beside the last one, then drop the last one."""
        if self.accelerator.is_main_process:
            progress = {"seen": self.seen, "step": self.step, "losses": self.patience.losses}
            saving.write(self.folder, self._tensors(), progress)
        self.accelerator.wait_for_everyone()

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        groups = {f"module_{name}": self._bare(name).state_dict() for name in self.modules}
        for name, average in (("average", self.average), ("profiles", self.profiles)):
            if average is not None:
                groups[name] = average.state_dict()
        for name, optimiser in self.optimisers.items():
            groups[f"optimiser_{name}"] = saving.moments(optimiser)
        return groups

    def resume(self) -> None:
        """Go on from the newest whole state in the folder, if there is one."""
        found = saving.newest(self.folder)
        if found is not None:
            groups, progress = found
            self.seen = self.before = progress["seen"]
            self.step = progress["step"]
            self.patience.losses = [(seen, loss) for seen, loss in progress.get("losses", [])]
            for name, optimiser in self.optimisers.items():
                self._bare(name).load_state_dict(groups[f"module_{name}"])
                saving.load_moments(optimiser, groups[f"optimiser_{name}"])
            for name, average in (("average", self.average), ("profiles", self.profiles)):
                if average is not None:
                    average.load_state_dict(groups[name])
        if self.accelerator.is_main_process:
            saving.cut_log(self.folder / "log.jsonl", self.seen)


def _device_is_cpu() -> bool:
    return choose_device() == "cpu"


def _precision() -> str:
    """bf16 where a GPU has it; a CPU computes it a hundred times slower than fp32."""
    if _device_is_cpu():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "no"
