"""The synthetic cohort, the stage `sample`: images alone, or masks first and images under them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from .. import rarity
from ..data.loader import Frames
from ..errors import DataError
from ..runtime import (
    StageRecord,
    choose_device,
    derive_seed,
    wait_for_everyone,
    write_json,
    writes,
)
from .control import open_fitted, sampler
from .learn import drawer
from .masks import draw_shares, open_known
from .run import Progress, Run, open_autoencoder, parts_of, silent
from .student import labels_of

Draw = Callable[[np.ndarray, Sequence[Mapping[str, str]], Sequence[int]], np.ndarray]
"""(images' numbers, labels, seeds) -> (N, C, H, W) in [-1, 1]."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """The labels of all images, how these are drawn, and their masks (N, H, W), where there are."""

    conditions: Sequence[Mapping[str, str]]
    draw: Draw
    masks: np.ndarray | None = None


def sample(run: Run, progress: Progress = silent) -> StageRecord:
    """Draw the synthetic cohort into synthetic/, with masks where the protocol asks for them."""
    return run.build("synthetic", lambda folder: _sample(run, folder, progress), all_ranks=True)


def _sample(run: Run, folder: Path, progress: Progress) -> None:
    from .. import synthesis

    study, drawing = run.protocol, _plan(run, folder, progress)
    synthesis.sample_cohort(
        drawing.draw,
        drawing.conditions,
        bits=study.image.bits,
        batch=study.sample.batch,
        seed=study.seed,
        folder=folder,
        progress=progress,
    )
    wait_for_everyone()
    if writes():
        cohort = synthesis.join_blocks(
            drawing.conditions, domain=study.domain, seed=study.seed, folder=folder
        )
        replace(cohort, masks=drawing.masks).write(folder)


def _plan(run: Run, folder: Path, progress: Progress) -> Drawing:
    if run.protocol.sample.generator == "memorize":
        drawing = _copies(run)
        return replace(drawing, conditions=without_rare(run, drawing.conditions, folder))
    conditions = without_rare(run, choose_labels(run), folder)
    if run.protocol.masks is not None:
        return _pairs(run, conditions, folder, progress)
    return Drawing(conditions, _sampler(run))


def without_rare(
    run: Run, labels: Sequence[Mapping[str, str]], folder: Path
) -> Sequence[Mapping[str, str]]:
    """Return labels without what few training patients have, and write down how many had some; a
    privacy budget's labels are the protocol's, and tell of nobody."""
    if run.protocol.diffusion.private is not None:
        return labels
    cohort, parts = parts_of(run)
    train = Frames(cohort, parts["train"])
    rarest = run.protocol.sample.rarest or rarity.RAREST
    kept, told = rarity.suppress(labels, train.labels, train.patients, rarest=rarest)
    if writes():
        write_json(folder / "labels.json", vars(told))
    return kept


def _sampler(run: Run) -> Draw:
    from ..models.prompted import open_denoiser

    device = choose_device()
    if run.protocol.sample.student is not None:
        draw = _by_student(run, device)
    else:
        draw = drawer(run, open_denoiser(run.folder / "diffusion").to(device), device)
    return lambda numbers, labels, seeds: draw(labels, seeds)


def _by_student(run: Run, device: str):
    """Return a draw(labels, seeds) by the student, in whose weights the guidance is already."""
    from ..models.denoiser import Denoiser
    from ..models.steps import read_pairs

    folder, settings = run.folder / "student", run.protocol.sample
    plain = {"guidance": 1.0, "guidance_interval": None, "sampler": None, "student": None}
    own = replace(
        run, protocol=run.protocol.model_copy(update={"sample": settings.model_copy(update=plain)})
    )
    return drawer(own, Denoiser.load(folder).to(device), device, pairs=read_pairs(folder))


def choose_labels(run: Run) -> list[dict[str, str]]:
    """Return the labels of all images that the protocol asks for."""
    from .. import synthesis

    study, (real, weights) = run.protocol, labels_of(run)
    return synthesis.choose_conditions(real, study.sample, study.seed, weights=weights)


def _pairs(run: Run, conditions, folder: Path, progress: Progress) -> Drawing:
    """Draw all masks, and say how an image is drawn under each."""
    known, name = open_known(run), run.protocol.masks.control
    opened = open_fitted(run, name)
    if opened.kinds != ("mask",) or opened.values != known.values:
        raise DataError(
            f"control/{name} was fitted to {' and '.join(opened.kinds)} with the classes "
            f"{list(opened.values)}: expected masks alone, with {list(known.values)}; fit one to "
            f"the same masks, and name it in masks.control"
        )
    shares = draw_shares(run, conditions, folder / "latents" / "masks", progress)
    under = sampler(opened)

    def draw(numbers, labels, seeds) -> np.ndarray:
        return under(shares[numbers] / np.float32(255), labels, seeds)

    return Drawing(conditions, draw, known.harden(shares))


def _copies(run: Run) -> Drawing:
    """Hand out training images, and their masks, to show that the gate works."""
    from .. import synthesis

    study, device, masks = run.protocol, choose_device(), None
    known = None if study.masks is None else open_known(run)
    if known is None:
        cohort, parts = parts_of(run)
        train = Frames(cohort, parts["train"])
    else:
        train, rows = known.images("train")
    chosen = np.random.default_rng(derive_seed(study.seed, "copies")).integers(
        0, len(train), study.sample.images
    )
    if known is not None:
        masks = known.harden(known.shares[rows[chosen]])
    autoencoder = open_autoencoder(run, device)

    def draw(numbers, labels, seeds) -> np.ndarray:
        return synthesis.hand_out_copies(
            autoencoder, train[chosen[numbers]], seeds=seeds, device=device
        )

    labels = train.labels
    return Drawing([labels[i] for i in chosen], draw, masks)
