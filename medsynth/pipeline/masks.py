"""Masks that belong to no patient: their denoiser, fitted into RUN/masks, and what it draws.

RUN/masks also keeps the masks of patients, brought to where the run's images are, so that drawn
ones can be held against them: it stays inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort
from ..data import controls
from ..data.deidentify import read_or_make_secret
from ..data.loader import Frames
from ..errors import DataError, StageError
from ..runtime import (
    StageRecord,
    choose_device,
    derive_seed,
    read_json,
    wait_for_everyone,
    write_json,
    writes,
)
from ..vocabulary import Vocabulary
from .learn import conditions_of_views
from .mapped import Masks
from .run import Progress, Run, parts_of, silent

if TYPE_CHECKING:
    from ..validation.paired import Paired

SAYS, SHARES = "masks.json", "shares.npy"


def fit_masks(run: Run, masks: Masks, progress: Progress = silent) -> StageRecord:
    """Train the denoiser of masks on those of training patients, into RUN/masks.

    Raises StageError where the protocol asks for no masks, and DataError where no training or no
    validation image has one.
    """
    if run.protocol.masks is None:
        raise StageError(
            "the protocol has no section masks: write it, with rules on masks.* findings, and "
            "start the run with it again (what is fitted already stays)"
        )
    return run.build(
        "masks",
        lambda folder: _fit(run, masks, folder, progress),
        inputs=run.inputs("masks") | {"files": masks.digest},
        all_ranks=True,
    )


def _fit(run: Run, masks: Masks, folder: Path, progress: Progress) -> None:
    from ..data.masks import align
    from ..models.denoiser import encode_conditions
    from ..models.folded import Folded
    from ..training.masks import fit_masks as train_denoiser

    settings, (cohort, _) = run.protocol.masks, parts_of(run)
    secret = read_or_make_secret(run.folder / "site.key")
    known = Known(run, *align(cohort.records, masks.raw, masks.folder, secret, run.protocol))
    (train, rows), (held, others) = known.images("train"), known.images("validation")
    if not len(rows) or not len(others):
        raise DataError("expected masks of training and of validation images, to learn from both")
    vocabulary = Vocabulary.from_labels(train.labels)
    folded = Folded.of(known.shares[rows], fold_px=settings.fold_px)
    if writes():
        vocabulary.write(folder / "vocabulary.json")
        known.write(folder, folded.config)
    cache = folder / "latents"
    cache.mkdir(parents=True, exist_ok=True)
    symmetry = run.domain.augmentations
    tokens = encode_conditions(vocabulary, map(vocabulary.known, held.labels))
    train_denoiser(
        known.shares[rows],
        conditions_of_views(run, train, vocabulary, symmetry),
        (known.shares[others], tokens),
        folded,
        settings.diffusion,
        symmetry=symmetry,
        tokens=vocabulary.size,
        seed=run.protocol.seed,
        folder=folder,
        device=choose_device(),
        cache=cache,
        groups=train.groups,
        progress=progress,
    )


# What was fitted ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Known:
    """Masks of patients (M, K, H, W) uint8 shares, kept in a run, whose images they are of, and
    the values (K,) of their classes."""

    run: Run
    numbers: np.ndarray
    shares: np.ndarray
    values: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the values mean."""
        return tuple(self.run.protocol.masks.name_of(value) for value in self.values)

    def images(self, part: str) -> tuple[Frames, np.ndarray]:
        """Return the images of a part that have masks, and the rows of these."""
        cohort, parts = parts_of(self.run)
        rows = np.flatnonzero(np.isin(self.numbers, parts[part]))
        return Frames(cohort, self.numbers[rows]), rows

    def cohort(self, part: str) -> Cohort:
        """Return the images of a part that have masks, with them."""
        frames, rows = self.images(part)
        return replace(frames.cohort.take(frames.chosen), masks=self.harden(self.shares[rows]))

    def harden(self, shares: np.ndarray) -> np.ndarray:
        """Return masks (N, H, W) of shares (N, K, H, W) uint8."""
        covers = self.run.protocol.masks.covers
        return controls.harden(shares / np.float32(255), self.values, covers)

    def write(self, folder: Path, folded: dict[str, object]) -> None:
        """Keep the masks in a folder, and how they were folded."""
        np.save(folder / SHARES, self.shares, allow_pickle=False)
        said = {"images": self.numbers.tolist(), "values": list(self.values), "folded": folded}
        write_json(folder / SAYS, said)


def open_known(run: Run) -> Known:
    """Open the patients' masks of a run."""
    said = read_json(run.folder / "masks" / SAYS)
    shares = np.load(run.folder / "masks" / SHARES, mmap_mode="r", allow_pickle=False)
    return Known(run, np.array(said["images"], np.int64), shares, tuple(said["values"]))


def mask_sampler(run: Run) -> Callable:
    """Return a draw(numbers, conditions, seeds) -> masks (N, K, H, W) float32 in [-1, 1]."""
    from .. import synthesis
    from ..models.denoiser import Denoiser
    from ..models.folded import Folded

    folder, device, study = run.folder / "masks", choose_device(), run.protocol
    denoiser = Denoiser.load(folder).to(device)
    folded = Folded(**read_json(folder / SAYS)["folded"]).to(device)
    vocabulary = Vocabulary.read(folder / "vocabulary.json")
    plain = study.sample.model_copy(update={"guidance": 1.0, "guidance_interval": None})

    def draw(numbers, conditions, seeds) -> np.ndarray:
        known = [vocabulary.known(labels) for labels in conditions]
        return synthesis.sample(
            denoiser, folded, vocabulary, known, settings=plain,
            diffusion=study.masks.diffusion, seeds=seeds, device=device,
        )  # fmt: skip

    return draw


def draw_shares(run: Run, conditions, folder: Path, progress: Progress) -> np.ndarray:
    """Draw one mask a condition, (N, K, H, W) uint8 shares, by way of blocks in `folder`."""
    from .. import synthesis

    folder.mkdir(parents=True, exist_ok=True)
    synthesis.sample_cohort(
        mask_sampler(run),
        conditions,
        bits=8,
        batch=run.protocol.sample.batch,
        seed=derive_seed(run.protocol.seed, "masks"),
        folder=folder,
        progress=lambda what, share: progress("masks", share),
    )
    wait_for_everyone()
    return np.ascontiguousarray(synthesis.join_pixels(folder).transpose(0, 3, 1, 2))


# What drawn pairs are judged by -------------------------------------------------------------------


def open_paired(run: Run, scratch: Path, progress: Progress = silent) -> Paired | None:
    """Return what a cohort with masks is judged by; None where the study draws none.

    Trains the network that finds masks again, on all processes together.
    """
    if run.protocol.masks is None:
        return None
    from ..protocol import Control
    from ..training.segmenter import fit_segmenter
    from ..validation.paired import Paired

    known = open_known(run)
    frames, rows = known.images("train")
    scratch.mkdir(parents=True, exist_ok=True)
    segment = fit_segmenter(
        frames[:],
        known.shares[rows],
        symmetry=run.domain.augmentations,
        seed=run.protocol.seed,
        folder=scratch,
        device=choose_device(),
        most_images=(run.protocol.control or Control()).training.images,
        progress=progress,
    )

    def find(images: np.ndarray) -> np.ndarray:
        return controls.harden(segment(images), known.values, run.protocol.masks.covers)

    sides = known.cohort("train"), known.cohort("holdout")
    return Paired(*sides, find, known.values, known.names)
