"""Segmenters for a look at an autoencoder: trained on originals, and on other patients' masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..finding import Finding
from ..runtime import choose_device, derive_seed
from .run import Progress, Run

if TYPE_CHECKING:
    from ..validation.segmented import Segmenter

SEEN = 6000  # images that each sees, repeats counted, where the protocol does not say


def fit_segmenters(
    run: Run, cohort: Cohort, raw: Path, masks: Path, folder: Path, progress: Progress
) -> Segmenter:
    """Train a segmenter a fold of the patients whose images have masks; states go into `folder`.

    Raises DataError where masks don't fit the images, or too few patients have any.
    """
    from ..data.deidentify import read_or_make_secret
    from ..data.masks import align
    from ..training.segmenter import fit_segmenter
    from ..validation import segmented
    from ..validation.keeping import spread

    study = run.protocol
    secret = read_or_make_secret(run.folder / "site.key")
    masked, maps, values = align(cohort.records, raw, masks, secret, study)
    if (patients := len(np.unique(cohort.patients[masked]))) < segmented.FEWEST:
        raise DataError(
            f"a segmenter is held against patients whom it never saw: expected masks of at least "
            f"{segmented.FEWEST} patients, got {patients}"
        )
    order = np.argsort(masked)
    few = order[spread(cohort.patients[masked[order]], segmented.MOST, seed=study.seed)]
    masked, maps = masked[few], maps[few]
    fold, nets = segmented.divide(cohort.patients[masked], seed=study.seed), []
    for one in range(segmented.FOLDS):
        scratch = folder / f"segmenter-{one}"
        scratch.mkdir(parents=True, exist_ok=True)
        others = np.flatnonzero(fold != one)
        nets.append(
            fit_segmenter(
                cohort.floats(masked[others]),
                maps[others],
                symmetry=run.domain.augmentations,
                seed=derive_seed(study.seed, "segmenter", one),
                folder=scratch,
                device=choose_device(),
                most_images=study.validate_.segmenter_images or SEEN,
                progress=lambda what, share, one=one: progress(
                    f"segmenters: {one + 1} of {segmented.FOLDS}", share
                ),
            )
        )
    return segmented.Segmenter(cohort, masked, maps, values, fold, nets)


def say_lost(finding: Finding) -> str:
    """Say in a sentence what a segmenter loses of a class."""
    kind = finding.name.split(".")[1].replace("_", " ")
    return (
        f"A segmenter that never saw the patient loses {finding.value:.3g} of its Dice of {kind} "
        f"({finding.low:.3g} to {finding.high:.3g}, n = {finding.n})."
    )
