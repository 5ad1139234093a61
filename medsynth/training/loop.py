"""The only training loop.

    for each step: set the rate, draw the batch, and for each player: loss, backward, clip, step;
    then average the weights, log, look at held-out images, save.

Training is counted in images. Every step's random numbers are seeded from (seed, step, rank) and
every batch from how many images were seen, so that the same command after a kill goes on to the
same weights. State is kept as safetensors; nothing is pickled.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import StageError
from ..protocol import Optimiser
from ..runtime import append_jsonl, choose_device, derive_seed, read_json, read_jsonl, write_json
from . import checkpoints

SAVES = 25  # a run is saved so many times, and at least every SAVE_IMAGES images
SAVE_IMAGES = 100_000
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

    `batch(start, count)` returns the draws start .. start + count, on any device. `average` is
    the player whose weights are averaged with decay `ema`. `validate(modules)` returns numbers
    for the log and `preview(modules, path)` writes a picture; both see the averaged weights.
    `step(task, state)` takes the place of the usual step, in full precision; it must advance the
    state and returns numbers for the log. `keep` weights are kept on the way, evenly spaced and
    the last ones among them; 0 keeps none (see checkpoints.py).
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
    while state.seen < task.images:
        logs = (task.step or _step)(task, state)
        _log(task, state, logs)
        progress(task.name, min(1.0, state.seen / task.images))
    return state.finished()


def _step(task: Task, state: State) -> dict[str, torch.Tensor]:
    """One step of every player that takes part; returns what the losses were made of."""
    accelerator = state.accelerator
    world, rank = accelerator.num_processes, accelerator.process_index
    torch.manual_seed(derive_seed(task.seed, task.name, state.step, rank))
    share = -(-task.batch_size // world)
    batch = task.batch(state.seen + rank * share, share)
    playing = {
        name: player for name, player in task.players.items() if state.seen >= player.starts_after
    }
    modules = {name: state.modules[name] for name in playing}
    logs: dict[str, torch.Tensor] = {}
    for name, player in playing.items():
        optimiser = state.optimisers[name]
        for group in optimiser.param_groups:
            group["lr"] = player.learning_rate(state.seen)
        loss, parts = player.loss(modules, batch)
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(player.module.parameters(), player.clip)
        optimiser.step()
        logs |= parts | {f"{name}_gradient": norm}
    state.advance(share * world)
    return logs


def _log(task: Task, state: State, logs: Mapping[str, torch.Tensor]) -> None:
    last = state.seen >= task.images
    if state.passed(task.images / LOOKS) or last:
        row = {"images": state.seen, "seconds": round(time.monotonic() - state.started, 1)}
        row |= {key: float(value) for key, value in logs.items()}
        row |= state.look(picture=state.passed(task.images / PICTURES) or last)
        if state.accelerator.is_main_process:
            append_jsonl(state.folder / "log.jsonl", row)
        _stop_if_lost(task, row)
    if task.keep and (state.passed(task.images / task.keep) or last):
        state.keep()  # before it is saved: what training goes on from has its checkpoints
    if state.passed(min(SAVE_IMAGES, task.images / SAVES)) or last:
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
        self.started = time.monotonic()
        # Copied before accelerate changes how the network is called.
        self.average = self._make_average()
        self.modules: dict[str, nn.Module] = {}
        self.optimisers: dict[str, Any] = {}
        for name, player in task.players.items():
            optimiser = torch.optim.AdamW(
                player.module.parameters(), lr=1.0, weight_decay=player.weight_decay, fused=True
            )
            self.modules[name], self.optimisers[name] = accelerator.prepare(
                player.module, optimiser
            )

    def _make_average(self) -> torch.optim.swa_utils.AveragedModel | None:
        if self.task.ema is None:
            return None
        name, decay = self.task.ema

        def blend(means, new, count):
            weight = min(decay, (1 + float(count)) / (10 + float(count)))  # short at first
            torch._foreach_lerp_(means, new, 1 - weight)

        module = self.task.players[name].module
        return torch.optim.swa_utils.AveragedModel(
            module, device=self.accelerator.device, multi_avg_fn=blend
        )

    def _bare(self, name: str) -> nn.Module:
        return self.accelerator.unwrap_model(self.modules[name])

    def advance(self, images: int) -> None:
        self.before, self.seen, self.step = self.seen, self.seen + images, self.step + 1
        if self.average is not None:
            self.average.update_parameters(self._bare(self.task.ema[0]))

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
        for module in self.modules.values():
            module.train()
        return found

    def evaluated(self) -> dict[str, nn.Module]:
        modules = {name: self._bare(name) for name in self.modules}
        if self.average is not None:
            modules[self.task.ema[0]] = self.average.module
        return {name: module.eval() for name, module in modules.items()}

    def finished(self) -> dict[str, nn.Module]:
        modules = self.evaluated()
        self.accelerator.free_memory()
        plain = {
            name: self.accelerator.unwrap_model(module, keep_fp32_wrapper=False)
            for name, module in modules.items()
        }
        return {name: module.cpu() for name, module in plain.items()}

    # Saving ---------------------------------------------------------------------------------

    def keep(self) -> None:
        """Keep the weights as they are now, averaged ones where the task averages."""
        if self.accelerator.is_main_process:
            checkpoints.keep(self.folder, self.seen, self.evaluated())
        for module in self.modules.values():
            module.train()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write the whole state beside the last one, then drop the last one."""
        if self.accelerator.is_main_process:
            target = self.folder / "state" / f"{self.seen:012d}"
            temporary = target.with_name("writing")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, tensors in self._tensors().items():
                save_file(tensors, temporary / f"{name}.safetensors")
            write_json(temporary / "progress.json", {"seen": self.seen, "step": self.step})
            temporary.rename(target)
            for old in target.parent.iterdir():
                if old != target:
                    shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _tensors(self) -> dict[str, dict[str, torch.Tensor]]:
        groups = {f"module_{name}": self._bare(name).state_dict() for name in self.modules}
        if self.average is not None:
            groups["average"] = self.average.state_dict()
        for name, optimiser in self.optimisers.items():
            moments = optimiser.state_dict()["state"]
            groups[f"optimiser_{name}"] = {
                f"{index}.{key}": torch.as_tensor(value)
                for index, row in moments.items()
                for key, value in row.items()
            }
        return {
            group: {
                key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()
            }
            for group, tensors in groups.items()
        }

    def resume(self) -> None:
        """Go on from the newest whole state in the folder, if there is one."""
        states = sorted(path for path in (self.folder / "state").glob("[0-9]*") if path.is_dir())
        if not states:
            self._cut_log()
            return
        newest = states[-1]
        progress = read_json(newest / "progress.json")
        self.seen = self.before = progress["seen"]
        self.step = progress["step"]
        for name, optimiser in self.optimisers.items():
            self._bare(name).load_state_dict(load_file(newest / f"module_{name}.safetensors"))
            _load_moments(optimiser, load_file(newest / f"optimiser_{name}.safetensors"))
        if self.average is not None:
            self.average.load_state_dict(load_file(newest / "average.safetensors"))
        self._cut_log()

    def _cut_log(self) -> None:
        """Drop what was logged after the state that training goes on from."""
        path = self.folder / "log.jsonl"
        if not (path.exists() and self.accelerator.is_main_process):
            return
        rows = [row for row in read_jsonl(path) if row["images"] <= self.seen]
        path.unlink()
        for row in rows:
            append_jsonl(path, row)


def _load_moments(optimiser: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _device_is_cpu() -> bool:
    return choose_device() == "cpu"


def _precision() -> str:
    """bf16 where a GPU has it; a CPU computes it a hundred times slower than fp32."""
    if _device_is_cpu():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "no"
