"""Train a network for a given time: measure its rate, then let its own recipe end in that time.

Time is the processor's on a CPU (with OMP_NUM_THREADS=1 it is work, however busy the machine is)
and the wall's on a GPU. What looking at held-out images and saving take is left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from medsynth import protocol
from medsynth.pipeline import learn
from medsynth.pipeline.run import Progress, Run, silent
from medsynth.protocol import Protocol
from medsynth.runtime import choose_device, digest_json, read_json, write_json
from medsynth.training import autoencoder, diffusion, loop  # noqa: F401, before time counts
from medsynth.training.loop import Player, Task
from medsynth.training.state import State

BUILDERS = {"autoencoder": learn.fit_autoencoder, "diffusion": learn.fit_diffusion}
LOOKS = 4  # at held-out images in a training
CHOOSING = ("patience", "choose", "averages")
CALIBRATION = (5, 3.0)  # so many steps and so many seconds at least are timed


@cache
def warm_up() -> None:
    """Load in this process what a training loads when it starts: that is nobody's time."""
    task = Task(
        "warming up",
        {
            "line": Player(
                torch.nn.Linear(1, 1),
                lambda modules, x: (modules["line"](x).mean(), {}),
                lambda seen: 0.0,
            )
        },
        lambda start, count, own: torch.ones(count, 1, device=choose_device())[own],
        images=2,
        batch_size=1,
        seed=0,
        ema=("line", 0.5),
    )
    with tempfile.TemporaryDirectory() as folder:
        loop.train(task, Path(folder))


def train_stage(
    run: Run,
    stage: str,
    planned: float,
    *,
    credit: float = 1.0,
    images: int | None = None,
    progress: Progress = silent,
) -> tuple[Run, dict[str, float]]:
    """Train `autoencoder` or `diffusion` for `planned` seconds, times `credit`; or, where it is
    known what they hold, until it has seen `images`.

    Returns the run with the protocol that was followed, and {images, seconds, planned, credit},
    with {per_image, overhead} where these were measured. Started again it goes on with the images
    that were planned first.
    """
    warm_up()
    path = run.folder / f"{stage}.json"
    given = [] if images is None else [images]
    asked = digest_json([run.protocol.digest, stage, round(planned, 3), credit, *given])
    row = read_json(path) if path.exists() else {}
    kept = run.folder / f"{stage}.seconds.json"
    if row.get("asked") != asked:
        kept.unlink(missing_ok=True)
        row = {"asked": asked, "images": images, "planned": planned, "credit": credit}
        if images is None:
            overhead, per_image = calibrate(run, stage, planned)
            row["images"] = int(max(0.0, credit * planned - overhead) / per_image)
            row |= {"per_image": per_image, "overhead": overhead}
        write_json(path, row)
    study = see(run.protocol, stage, row["images"])
    run = replace(run, protocol=study)
    if "seconds" not in row:
        watch = Stopwatch(kept)
        with watch.running(), looks(study, stage):
            run.build(stage, lambda folder: BUILDERS[stage](run, folder, progress))
        row |= {"seconds": watch.seconds, "images": getattr(study, stage).training.images}
        write_json(path, row)
    return run, row


def see(study: Protocol, stage: str, images: int) -> Protocol:
    """Return the protocol with a stage that sees so many images, in whole batches.

    What starts after some images keeps its share of the training; a warm-up keeps its images, a
    tenth of the training at most.
    """
    settings = getattr(study, stage)
    training = settings.training
    images = max(training.batch, images // training.batch * training.batch)
    changes = {
        f"{stage}.training.images": images,
        f"{stage}.training.warmup_images": min(training.warmup_images, images // 10),
    }
    second = getattr(settings, "adversarial", None)
    if second is not None:
        after = second.after_images * images // training.images
        changes[f"{stage}.adversarial.after_images"] = after
    return protocol.parse(protocol.to_yaml(study), changes=changes)


def looks(study: Protocol, stage: str) -> AbstractContextManager:
    """Look at held-out images but a few times, which for a large network take longer than its
    training here; a recipe that chooses its weights by what is seen looks as often as ever."""
    chooses = any(getattr(getattr(study, stage), knob, None) is not None for knob in CHOOSING)
    return nullcontext() if chooses else patch.object(loop, "LOOKS", LOOKS)


class Enough(Exception):
    """Ends a training that has been timed."""


def calibrate(run: Run, stage: str, planned: float) -> tuple[float, float]:
    """Return the seconds before a stage's first step and those an image of its training takes."""
    second = getattr(run.protocol.autoencoder, "adversarial", None)
    if stage == "diffusion" or second is None:
        return _time_steps(run, stage, planned)
    # Two stages of different cost: each is timed, and weighs as much as it lasts.
    first = min(1.0, second.after_images / run.protocol.autoencoder.training.images)
    key = "autoencoder.adversarial.after_images"
    overhead, before = _time_steps(run, stage, planned, {key: 10**12})
    _, after = _time_steps(run, stage, planned, {key: 0})
    return overhead, first * before + (1 - first) * after


def _time_steps(
    run: Run, stage: str, planned: float, changes: Mapping[str, int] | None = None
) -> tuple[float, float]:
    training = getattr(run.protocol, stage).training
    forever = {f"{stage}.training.images": 10**6 * training.batch, **(changes or {})}
    study = protocol.parse(protocol.to_yaml(run.protocol), changes=forever)
    steps, seconds = CALIBRATION
    watch, ends = Stopwatch(), []

    def tick(what: str, share: float) -> None:
        if what != stage:  # what comes before the training
            return
        ends.append(watch.seconds)
        if len(ends) > steps and ends[-1] - ends[0] >= min(seconds, 0.05 * planned):
            raise Enough

    with tempfile.TemporaryDirectory() as folder, suppress(Enough), watch.running():
        BUILDERS[stage](replace(run, protocol=study), Path(folder), tick)
    step = (ends[-1] - ends[0]) / (len(ends) - 1)
    return max(0.0, ends[0] - step), step / training.batch


class Stopwatch:
    """Counts seconds while it runs, but for those in which the loop looks or saves.

    With `kept`, a file, what an interrupted training had used when it last saved counts too.
    """

    def __init__(self, kept: Path | None = None):
        self.kept, self.clock = kept, clock()
        before = read_json(kept)["seconds"] if kept and kept.exists() else 0.0
        self.zero = self.clock() - before

    @property
    def seconds(self) -> float:
        return self.clock() - self.zero

    @contextmanager
    def running(self):
        """Leave out what looking and saving take."""
        save, look = (self._outside(method) for method in (State.save, State.look))
        with patch.object(State, "save", save), patch.object(State, "look", look):
            yield

    def _outside(self, method: Callable) -> Callable:
        def timed(*arguments, **options):
            before = self.seconds
            returned = method(*arguments, **options)
            self.zero = self.clock() - before
            if self.kept and method.__name__ == "save":
                write_json(self.kept, {"seconds": before})
            return returned

        return timed


def clock() -> Callable[[], float]:
    """Return the clock of this machine: the processor's time, or a GPU's wall time."""
    if choose_device() == "cpu":
        return time.process_time

    def wall() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wall


# Rivals with loops of their own -------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """What a rival of another make drew: images (N, C, H, W) float32 in [-1, 1], images a second
    of its sampler, and by stage the seconds that it trained and the images that it saw."""

    images: np.ndarray
    rate: float
    seconds: dict[str, float]
    seen: dict[str, int]


def train_for(seconds: float, step: Callable[[float], None]) -> tuple[float, int]:
    """Call `step(share)` with the share of the time that is over, 0 to 1, until all of it is.

    Returns the seconds that were used and how many steps were made, at least one.
    """
    now, steps = clock(), 0
    began = now()
    while steps == 0 or now() - began < seconds:
        step(min(1.0, (now() - began) / seconds) if seconds > 0 else 1.0)
        steps += 1
    return now() - began, steps


def draw_in_batches(
    draw: Callable[[int], torch.Tensor], count: int, *, batch: int
) -> tuple[np.ndarray, float]:
    """Return `count` images of `draw(n)` and how many it draws a second, the first batch left out
    where there are several."""
    now, made, ends = clock(), [], []
    ends.append(now())
    for start in range(0, count, batch):
        made.append(draw(min(batch, count - start)).float().cpu().numpy())
        ends.append(now())
    warm = int(len(made) > 1)
    rate = sum(map(len, made[warm:])) / (ends[-1] - ends[warm])
    return np.concatenate(made), rate
