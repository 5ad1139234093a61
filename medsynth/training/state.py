"""How far a training has come: its networks, optimisers and averages, and how it goes on."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from ..errors import StageError
from ..runtime import choose_device, derive_seed
from . import checkpoints, saving
from .averages import Average, Profiles, exponential
from .stopping import Patience

if TYPE_CHECKING:
    from .loop import Task

CAREFUL = 2


class State:
    """Networks, optimisers and averages of a training, and how far it has come."""

    def __init__(self, task: Task, accelerator: Accelerator, folder: Path):
        self.task, self.accelerator, self.folder = task, accelerator, folder
        self.seen = self.before = self.step = 0
        self.patience = Patience(task.patience)
        self.started = time.monotonic()
        self.own, self.weight = _own_rows(task, accelerator)
        self.at_a_time = task.optimiser.microbatch if task.optimiser else None
        self.playing: list[str] = []
        self.careful_until = 0
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
        if task.optimiser is not None and task.optimiser.compile and not device_is_cpu():
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

    # Memory ---------------------------------------------------------------------------------

    @property
    def is_careful(self) -> bool:
        """True while processes exchange gradients only when all of a step fitted into memory: in
        the first steps, of which the second has all that later ones have."""
        return self.accelerator.num_processes > 1 and self.step < self.careful_until

    def meet(self, playing: list[str]) -> None:
        """Be careful for CAREFUL steps where other players take part than before."""
        if playing != self.playing:
            self.playing, self.careful_until = playing, self.step + CAREFUL

    @property
    def less_at_a_time(self) -> dict[str, int]:
        """Say how many images are taken at a time, where memory was too short for the plan."""
        planned = self.task.optimiser.microbatch if self.task.optimiser else None
        return {} if self.at_a_time == planned else {"at_a_time": self.at_a_time}

    def halve(self, images: int) -> None:
        """Take half as many of `images` at a time from now on. Raises StageError where that can't
        be: for one image, for a batch that belongs together, or in the midst of an exchange."""
        now = min(images, self.at_a_time or images)
        late = self.accelerator.num_processes > 1 and not self.is_careful
        if now == 1 or self.task.whole or late:
            raise StageError(
                f"out of memory while training the {self.task.name}, with {now} images at a time. "
                + (
                    f"Lower {self.task.name}.training.batch"
                    if self.task.whole
                    else f"Set {self.task.name}.training.microbatch to less, or checkpointing"
                )
                + ", and run again"
            ) from None
        self.at_a_time = now // 2

    def forget(self, name: str) -> None:
        """Drop a failed step's gradients and what a GPU keeps for later."""
        self.optimisers[name].zero_grad(set_to_none=True)
        if not device_is_cpu():
            torch.cuda.empty_cache()

    def share_gradients(self, name: str) -> None:
        """Average a player's gradients over all processes, where backward has not."""
        if not self.is_careful:
            return
        owned = [weight for weight in self._bare(name).parameters() if weight.grad is not None]
        flat = torch.cat([weight.grad.flatten() for weight in owned])
        flat = self.accelerator.reduce(flat, "mean")
        for weight, mean in zip(owned, flat.split([w.numel() for w in owned]), strict=True):
            weight.grad.copy_(mean.view_as(weight))

    def over_processes(self, logs: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return what a step's logs say of the whole batch."""
        world = self.accelerator.num_processes
        if not logs:
            return {}
        own = torch.stack([value.float() for value in logs.values()]) * self.weight / world
        whole = self.accelerator.reduce(own, "sum")
        return {name: float(value) for name, value in zip(logs, whole, strict=True)}

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


def _own_rows(task: Task, accelerator: Accelerator) -> tuple[slice, float]:
    """Return the rows of a batch that this process computes, and what its mean over them weighs
    in the mean over processes. Raises StageError where there are more processes than rows."""
    size, world, rank = task.batch_size, accelerator.num_processes, accelerator.process_index
    if task.whole:
        return slice(0, size), 1.0
    if world > size:
        raise StageError(
            f"{task.name}.training.batch is {size}, for {world} processes: start at most {size}, "
            f"or raise it"
        )
    own = slice(rank * size // world, (rank + 1) * size // world)
    return own, (own.stop - own.start) * world / size


def device_is_cpu() -> bool:
    """True where networks run on the processor."""
    return choose_device() == "cpu"
