"""Which of the denoiser's weights are taken: the last ones before copying sets in.

    diffusion/choice.json    what was found at each checkpoint, the rule, and which were taken

The measure is validation/checkpoints.py's; here weights are drawn from and the choice is put down.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.loader import Frames
from ..runtime import (
    derive_seed,
    ranks,
    read_json,
    require_stage,
    wait_for_everyone,
    write_json,
    writes,
)
from .run import Progress, Run, parts_of

if TYPE_CHECKING:
    from ..models.autoencoder import Autoencoder
    from ..models.denoiser import Denoiser
    from ..release.charts import Curve
    from ..validation.checkpoints import Watch
    from ..vocabulary import Vocabulary

NAME = "choice.json"
RULE = (
    "the last weights before the first from which significantly more images are nearer to one "
    "training patient than all but the rarest validation patient is; those at the end where "
    "there are none such, the first where it is so from the start"
)
COPIES = "Already the first that were kept copy: more images than by chance are near one patient."
BATCH, SHOWN = 32, 12
TIMES = 5  # evenly spread over the schedule, at which the loss is taken


@dataclass(frozen=True)
class Point:
    """What was found of one checkpoint: `flagged` of `drawn` images are near one training patient,
    `low` to `high` is the share's interval and `p_value` what chance alone would give; the losses
    are of predicting noise on images of training and of validation patients."""

    images_seen: int
    drawn: int
    flagged: int
    low: float
    high: float
    p_value: float
    training_loss: float
    validation_loss: float

    @property
    def share(self) -> float:
        return self.flagged / self.drawn


@dataclass(frozen=True)
class Study:
    """What all checkpoints of a training are measured with."""

    run: Run
    folder: Path
    train: Frames
    validation: Frames
    autoencoder: Autoencoder
    vocabulary: Vocabulary
    device: str


def check_possible(run: Run) -> None:
    """Raise StageError where there are too few validation patients to choose by."""
    from ..validation import checkpoints

    require_stage(run.folder / "split", by="fit")
    cohort, parts = parts_of(run)
    patients = len(np.unique(cohort.patients[parts["validation"]]))
    checkpoints.check_possible(run.protocol.diffusion.choose, patients=patients)


def choose(study: Study, denoiser: Denoiser, progress: Progress) -> None:
    """Put the chosen weights in the place of the last ones, and write choice.json.

    `denoiser` is the network; it is left with one checkpoint's weights or another's. A checkpoint
    that was measured is not measured again after a kill; of several processes each measures its
    own.
    """
    from ..training import checkpoints
    from ..validation.checkpoints import Watch

    wait_for_everyone()  # until the last weights are kept
    settings, (rank, world) = study.run.protocol.diffusion.choose, ranks()
    kept = checkpoints.kept(study.folder)
    real = [frames.cohort.take(frames.chosen) for frames in (study.train, study.validation)]
    seed = derive_seed(study.run.protocol.seed, "choice")
    watch = Watch(*real, study.run.domain, settings, seed=seed)
    denoiser = denoiser.to(study.device)
    for number, (seen, path) in enumerate(kept.items()):
        if number % world == rank and not (path / "point.json").exists():
            checkpoints.restore(denoiser, path, "denoiser")
            write_json(path / "point.json", asdict(_measure(study, watch, denoiser, seen)))
        progress("choose", (number + 1) / len(kept))
    wait_for_everyone()
    if writes():
        points = [Point(**read_json(path / "point.json")) for path in kept.values()]
        chosen = _write(study.folder / NAME, points, watch, settings.level)
        checkpoints.restore(denoiser, kept[chosen.images_seen], "denoiser")
        denoiser.save(study.folder)


def _measure(study: Study, watch: Watch, denoiser: Denoiser, seen: int) -> Point:
    from ..validation.statistics import clopper_pearson

    images = _draw(study, denoiser)
    found = watch.find(images)
    flagged = int((found.score < watch.bar.score).sum())
    share = clopper_pearson(flagged, len(images))
    losses = _losses(study, denoiser)
    _show(study, images, found, seen)
    return Point(
        images_seen=seen,
        drawn=len(images),
        flagged=flagged,
        low=share.low,
        high=share.high,
        p_value=watch.bar.p_value(flagged, len(images)),
        training_loss=losses[0],
        validation_loss=losses[1],
    )


def _draw(study: Study, denoiser: Denoiser) -> np.ndarray:
    """Draw images as the stage `sample` would, with seeds of their own: (N, C, H, W)."""
    from .. import synthesis

    protocol, asked = study.run.protocol, study.run.protocol.diffusion.choose
    changes = {"images": asked.images, "steps": asked.steps, "batch": min(BATCH, asked.images)}
    settings = protocol.sample.model_copy(update=changes)
    seed, weights = derive_seed(protocol.seed, "choice"), study.train.weights.tolist()
    return synthesis.sample(
        denoiser,
        study.autoencoder,
        study.vocabulary,
        synthesis.choose_conditions(study.train.labels, settings, seed, weights=weights),
        settings=settings,
        diffusion=protocol.diffusion,
        seeds=[synthesis.image_seed(seed, i) for i in range(asked.images)],
        device=study.device,
    )


def _losses(study: Study, denoiser: Denoiser) -> tuple[float, float]:
    """Return the mean loss on one image each of as many training and validation patients."""
    from ..validation.checkpoints import one_a_patient
    from ..validation.losses import losses, open_model

    diffusion, seed = study.run.protocol.diffusion, study.run.protocol.seed
    vocabulary, device = study.vocabulary, study.device
    model = open_model(denoiser, study.autoencoder, vocabulary, diffusion, device=device)
    times = np.linspace(0, diffusion.timesteps - 1, TIMES + 2).astype(int)[1:-1].tolist()
    sides = study.train, study.validation
    ones = [one_a_patient(side.patients, seed=derive_seed(seed, "loss")) for side in sides]
    count = min(map(len, ones))
    means = []
    for side, each in zip(sides, ones, strict=True):
        some = np.random.default_rng(derive_seed(seed, "loss")).permutation(each)[:count]
        labels = [side.labels[i] for i in some]
        means.append(losses(model, side[some], labels, times=times, seed=seed).mean())
    return float(means[0]), float(means[1])


def _show(study: Study, images: np.ndarray, found: Any, seen: int) -> None:
    """Draw the most suspicious images above the training images that they are nearest to."""
    from ..pictures import write_grid

    worst = np.argsort(found.score, kind="stable")[:SHOWN]
    rows = np.concatenate([images[worst], study.train[found.image[worst]]])
    previews = study.folder / "previews"
    previews.mkdir(exist_ok=True)
    write_grid(previews / f"nearest_{seen:010d}.png", rows, columns=len(worst))


def _write(path: Path, points: list[Point], watch: Watch, level: float) -> Point:
    from ..validation.checkpoints import choose as choose_one

    bar, copying = watch.bar, [point.p_value <= level for point in points]
    chosen = points[choose_one(copying)]
    row = {
        "rule": RULE,
        "level": level,
        "validation_patients": bar.patients,
        "expected_share": bar.expected,
        "least_flagged": bar.least(chosen.drawn, level),
        "chosen": chosen.images_seen,
        "copies": copying[points.index(chosen)],
        "points": [asdict(point) for point in points],
    }
    write_json(path, row)
    return chosen


# What is said of it -------------------------------------------------------------------------------


def said(run: Run) -> tuple[str, ...]:
    """Return in a sentence how the weights were chosen; nothing where they were not."""
    path = run.folder / "diffusion" / NAME
    if not path.exists():
        return ()
    row = read_json(path)
    points = [Point(**point) for point in row["points"]]
    number = [point.images_seen for point in points].index(row["chosen"])
    sentence = (
        f"The denoiser's weights are those after {row['chosen']:,} of {points[-1].images_seen:,} "
        f"images, number {number + 1} of {len(points)} that were kept: chosen by looking at "
        f"training and validation patients, so that copying does not set in. Held-out patients had "
        f"no part in it."
    )
    return (sentence + (f" {COPIES}" if row["copies"] else ""),)


def curves(run: Run) -> list[Curve]:
    """Return the curves that the choice was made on; none where there was no choice."""
    from ..release.charts import Curve

    path = run.folder / "diffusion" / NAME
    if not path.exists():
        return []
    row = read_json(path)
    points = [Point(**point) for point in row["points"]]
    seen = [point.images_seen for point in points]
    shares = {
        "flagged": [(point.images_seen, point.share) for point in points],
        "by chance": [(x, row["expected_share"]) for x in seen],
    }
    losses = {
        name: [(point.images_seen, getattr(point, f"{name}_loss")) for point in points]
        for name in ("training", "validation")
    }
    return [
        Curve(
            "Checkpoints: images near one training patient",
            "share of the images drawn",
            shares,
            row["chosen"],
        ),
        Curve("Checkpoints: loss", "loss", losses, row["chosen"]),
    ]
