"""A rehearsal of a study on made-up patients: networks as they will be, a few steps of each.

Nothing of it is kept but times: what they add up to is in forecast.py.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np

from ..cohort import Cohort, Record
from ..data import phantoms
from ..protocol import Protocol
from ..runtime import choose_device, write_text
from . import learn
from .run import Run, start

DRAWN = 48  # different made-up patients
TRAINED, HELD_OUT, LOOKED_AT = 64, 32, 256  # images of each part in the rehearsal
STEPS, SECONDS = 4, 3.0  # so many steps and so long at least are timed
BUILDERS = {
    "lens": learn.fit_lens,
    "autoencoder": learn.fit_autoencoder,
    "diffusion": learn.fit_diffusion,
}
Clock = Callable[[], float]


def simplify(study: Protocol) -> Protocol:
    """Leave out what asks for the patients' own labels or masks, or for a whole training."""
    return study.model_copy(
        update={
            "diffusion": study.diffusion.model_copy(update={"choose": None, "canaries": None}),
            "masks": None,
            "sample": study.sample.model_copy(update={"labels": None, "student": None}),
            "validate_": study.validate_.model_copy(update={"subgroups": None, "utility": None}),
        }
    )


def rehearse(study: Protocol, folder: Path, parts: dict[str, int]) -> Run:
    """Make a run of made-up patients: few to train on, as many to look at as there will be."""
    run = start(study, folder)
    made = {
        "train": TRAINED,
        "validation": min(LOOKED_AT, parts["validation"]),
        "holdout": HELD_OUT,
    }
    names = [name for name, size in made.items() for _ in range(size)]
    seen = [
        phantoms.draw(study.domain, patient, 0, study.seed, study.image.size_px)
        for patient in range(DRAWN)
    ]
    pixels = np.stack([seen[i % DRAWN][0] for i in range(len(names))])
    if study.image.bits == 16:
        pixels = pixels.astype(np.uint16) * 257
    records = tuple(
        Record(f"image-{i}", "real", patient=f"patient-{i}", labels=seen[i % DRAWN][1])
        for i in range(len(names))
    )
    cohort = Cohort(study.domain, records, pixels)
    run.build("intake", cohort.write, inputs={"raw": "made up"})
    rows = [f"{record.id},{name}\n" for record, name in zip(records, names, strict=True)]
    table = "id,part\n" + "".join(rows)
    run.build("split", lambda workspace: write_text(workspace / "split.csv", table))
    return run


class _Enough(Exception):
    """Ends a stage that has been timed."""


def wall() -> float:
    """Return the time by the clock in seconds, once a GPU has done what it was given."""
    if choose_device() != "cpu":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


def peak_gib() -> float:
    """Return the most memory that was taken so far, in GiB: a GPU's, or the process's."""
    import torch

    if choose_device() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.cuda.max_memory_allocated() / 2**30


def seeing(run: Run, stage: str, images: int, after: int | None = None) -> Run:
    """Return the run with a stage that sees so many images; an autoencoder's second stage starts
    after so many."""
    name = "diffusion" if stage == "diffusion" else stage
    settings = getattr(run.protocol, name)
    training = settings.training.model_copy(update={"images": images})
    changes = {"training": training}
    second = getattr(settings, "adversarial", None)
    if second is not None and after is not None:
        changes["adversarial"] = second.model_copy(update={"after_images": after})
    return replace(
        run, protocol=run.protocol.model_copy(update={name: settings.model_copy(update=changes)})
    )


def _ticks(run: Run, stage: str, clock: Clock, enough: Callable[[list[float]], bool]):
    """Begin a stage in a folder of its own; return the seconds at which its steps ended."""
    ends: list[float] = []

    def tick(what: str, share: float) -> None:
        if what == stage:  # not what comes before the training
            ends.append(clock() - began)
            if enough(ends):
                raise _Enough

    with tempfile.TemporaryDirectory() as folder, suppress(_Enough):
        began = clock()
        BUILDERS[stage](run, Path(folder), tick)
    return ends


def pace(run: Run, stage: str, clock: Clock) -> tuple[float, float, str]:
    """Return the seconds before a stage's first step, those of a step, and words on them."""
    settings = getattr(run.protocol, stage)
    training, second = settings.training, getattr(settings, "adversarial", None)
    never = 10**6 * training.batch  # a run so long that nothing is looked at or saved yet

    def timed(after: int | None) -> tuple[float, float]:
        ends = _ticks(seeing(run, stage, never, after), stage, clock, _timed_enough)
        step = (ends[-1] - ends[1]) / (len(ends) - 2)  # the first one warms up
        return max(0.0, ends[0] - step), step

    if second is None:
        return *timed(None), ""
    first = min(1.0, second.after_images / training.images)
    begin, before = timed(10 * never)
    after = timed(0)[1]
    return begin, first * before + (1 - first) * after, f" ({after:.3g} s with its second player)"


def _timed_enough(ends: list[float]) -> bool:
    return len(ends) > STEPS and ends[-1] - ends[0] > SECONDS


def asides(run: Run, stage: str, clock: Clock, step: float) -> tuple[float, float]:
    """Return the seconds of a look with a save, and of a picture beside it.

    A run of ten batches looks and saves at every step, and draws a picture at every second.
    """
    batch = getattr(run.protocol, stage).training.batch
    brief = seeing(run, stage, 10 * batch)
    with_, without, again = (
        after - before
        for before, after in pairwise(_ticks(brief, stage, clock, lambda ends: len(ends) == 4))
    )
    return max(0.0, without - step), max(0.0, mean((with_, again)) - without)
