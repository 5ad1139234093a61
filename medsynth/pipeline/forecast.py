"""What a protocol will cost on this machine: a rehearsal on made-up patients, and arithmetic.

Each network is built as it will be and trained for a few steps by the very stage, at the protocol's
batch; a batch of images is drawn with few sampling steps; what follows is multiplied. Nothing of
the rehearsal is kept. Patients' images are not needed, only how many there are.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import StageError
from ..protocol import Protocol
from ..runtime import choose_device
from . import learn
from .drawn import sample
from .evidence import validate
from .rehearsal import (
    BUILDERS,
    HELD_OUT,
    LOOKED_AT,
    TRAINED,
    Clock,
    asides,
    pace,
    peak_gib,
    rehearse,
    seeing,
    simplify,
    wall,
)
from .run import Progress, Run, open_autoencoder, parts_of, silent

PATIENTS = 1000  # images of a cohort whose size is not said
WALKS = (2, 6)  # sampling steps that are timed


@dataclass(frozen=True)
class Cost:
    """What one stage will take: seconds, the process's peak memory by its end in GiB (on a GPU the
    GPU's), and in words what was measured and what reckoned."""

    stage: str
    seconds: float
    memory_gib: float
    how: str


def foretell(
    study: Protocol,
    *,
    images: int = PATIENTS,
    clock: Clock | None = None,
    progress: Progress = silent,
) -> list[Cost]:
    """Return what fit, sample and validate will cost for so many images of patients, by stage.

    `clock` gives seconds; by default the wall's, waiting for a GPU. Raises StageError where the
    denoiser has a privacy budget: how its steps go depends on the patients themselves; and where it
    is a base.
    """
    if study.diffusion.private is not None:
        raise StageError("a private training can't be rehearsed on made-up patients: time one run")
    if study.diffusion.base is not None:
        raise StageError(
            "diffusion.base is not trained, and made-up patients don't have the labels of its "
            "prompt: time one run with few sample.images"
        )
    clock = clock or wall
    parts = sizes(study, images)
    with tempfile.TemporaryDirectory() as folder:
        run = rehearse(simplify(study), Path(folder) / "run", parts)
        costs = []
        for stage in BUILDERS:
            run, cost = _training(run, stage, study, parts, clock)
            costs.append(cost)
            progress(stage, 1.0)
        run, cost, seconds = _sampling(run, study, clock)
        progress("sample", 1.0)
        costs += [*_choosing(study, seconds), *_teaching(run, study, clock, seconds)]
        costs += [cost, _validating(run, study, parts, clock)]
        progress("validate", 1.0)
    return costs


def tell_forecast(costs: list[Cost]) -> list[str]:
    """Return a forecast in lines for people."""
    lines = [
        f"{cost.stage:<12} {in_words(cost.seconds):>10}  {cost.memory_gib:6.1f} GiB  {cost.how}"
        for cost in costs
    ]
    total = in_words(sum(cost.seconds for cost in costs))
    most = max(cost.memory_gib for cost in costs)
    return [*lines, f"{'all':<12} {total:>10}  {most:6.1f} GiB"]


def in_words(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def sizes(study: Protocol, images: int) -> dict[str, int]:
    """Return how many images each part of the real split will have."""
    shares = study.split
    held = 0.5 if shares.half else shares.holdout
    validation, holdout = round(shares.validation * images), round(held * images)
    return {
        "train": max(1, images - validation - holdout),
        "validation": max(1, validation),
        "holdout": max(1, holdout),
    }


def _training(
    run: Run, stage: str, study: Protocol, parts: dict[str, int], clock: Clock
) -> tuple[Run, Cost]:
    """Time a training, finish it at once for those that build on it, and reckon its whole."""
    from ..training.loop import LOOKS, PICTURES

    settings = getattr(study, stage)
    training = settings.training
    given = stage != "diffusion" and settings.weights is not None
    if given and not getattr(settings, "fine_tuned", False):
        run.build(stage, lambda folder: BUILDERS[stage](run, folder, silent))
        return run, Cost(stage, 0.0, peak_gib(), "taken as it is")
    steps = math.ceil(training.images / training.batch)
    begin, step, said = pace(run, stage, clock)
    look, picture = asides(run, stage, clock, step)
    short = seeing(run, stage, training.batch)
    short.build(stage, lambda folder: BUILDERS[stage](short, folder, silent))
    looks, pictures = min(LOOKS, steps), min(PICTURES, steps)
    if stage == "diffusion":  # the others look at 256 images at most
        look *= max(1.0, min(parts["validation"], learn.HELD) / LOOKED_AT)
    encoding = _encoding(short, parts, clock, stage)
    seconds = begin + encoding + steps * step + looks * look + pictures * picture
    how = (
        f"{steps:,} steps of {step:.3g} s{said}, {looks} looks and saves of {look:.2g} s, "
        f"{pictures} pictures of {picture:.2g} s, {begin + encoding:.2g} s before and after"
    )
    return short, Cost(stage, seconds, peak_gib(), how)


def _encoding(run: Run, parts: dict[str, int], clock: Clock, stage: str) -> float:
    """Return the seconds to encode what the rehearsal did not: after an autoencoder's training the
    training images, before the denoiser's all their views."""
    import torch

    from ..training.augment import views_of

    if stage == "lens":
        return 0.0
    cohort, chosen = parts_of(run)
    device = choose_device()
    autoencoder = open_autoencoder(run, device)
    images = torch.from_numpy(cohort.floats(chosen["train"][:TRAINED])).to(device)
    with torch.inference_mode():
        autoencoder.encode(images)
        began = clock()
        autoencoder.encode(images)
        each = (clock() - began) / len(images)
    if stage == "autoencoder":
        return each * parts["train"]
    views = len(views_of(run.domain.augmentations))
    return each * max(0, parts["train"] - TRAINED) * views


def _sampling(run: Run, study: Protocol, clock: Clock) -> tuple[Run, Cost, Callable[[int], float]]:
    """Draw two blocks with few steps and with some more; return also steps -> seconds a block."""
    batch, blocks = study.sample.batch, math.ceil(study.sample.images / study.sample.batch)
    taken = []
    for steps in WALKS:
        settings = run.protocol.sample.model_copy(update={"steps": steps, "images": 2 * batch})
        run = replace(run, protocol=run.protocol.model_copy(update={"sample": settings}))
        ends: list[float] = []
        sample(run, lambda what, share, ends=ends: ends.append(clock()))
        taken.append(ends[1] - ends[0])
    step = max(0.0, (taken[1] - taken[0]) / (WALKS[1] - WALKS[0]))
    rest = max(0.0, taken[0] - WALKS[0] * step)

    def block(steps: int) -> float:
        return rest + steps * step

    steps = (study.sample.student or study.sample).steps
    seconds = blocks * block(steps)
    how = (
        f"{blocks} blocks of {batch} images, {steps} steps of {step:.3g} s each: "
        f"{study.sample.images / seconds:.3g} images a second"
    )
    return run, Cost("sample", seconds, peak_gib(), how), block


def _choosing(study: Protocol, block: Callable[[int], float]) -> list[Cost]:
    """Return what drawing images from every checkpoint takes, where the protocol asks for it."""
    asked = study.diffusion.choose
    if asked is None:
        return []
    blocks = asked.checkpoints * math.ceil(asked.images / study.sample.batch)
    how = f"{blocks} blocks of {study.sample.batch} images; the search among them is left out"
    return [Cost("choose", blocks * block(asked.steps), peak_gib(), how)]


def _teaching(run: Run, study: Protocol, clock: Clock, block: Callable[[int], float]) -> list[Cost]:
    """Return what a student takes, where the protocol asks for one: a step is one of the
    denoiser's, a walk one of its images."""
    asked = study.sample.student
    if asked is None:
        return []
    _, step, _ = pace(run, "diffusion", clock)
    step *= asked.training.batch / study.diffusion.training.batch
    steps = math.ceil(asked.training.images / asked.training.batch)
    walks = asked.walks / study.sample.batch * block(study.sample.steps)
    how = f"{steps:,} steps of about {step:.3g} s, and {walks:.3g} s for {asked.walks:,} walks"
    return [Cost("student", walks + steps * step, peak_gib(), how)]


def _validating(run: Run, study: Protocol, parts: dict[str, int], clock: Clock) -> Cost:
    began = clock()
    validate(run)
    measured = clock() - began
    few = TRAINED + HELD_OUT + run.protocol.sample.images
    many = parts["train"] + parts["holdout"] + study.sample.images
    how = f"roughly: {measured:.3g} s for {few} images, taken to grow with their number ({many:,})"
    return Cost("validate", measured * many / few, peak_gib(), how)
