"""What is measured before anything is released: one file a measure, one line in MEASURES."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..budget import Coverage
from ..cohort import Cohort
from ..data.canaries import Canaries
from ..data.lessons import Segment, Teach
from ..domains import Domain
from ..finding import Finding
from ..protocol import Validate

if TYPE_CHECKING:
    from .losses import Model
    from .paired import Paired

Images = np.ndarray
"""(N, C, H, W) float32 in [-1, 1]."""


@dataclass(frozen=True)
class Case:
    """All that a measure may look at.

    In `scratch`, a folder, what a search found waits for the next start and for other processes;
    None keeps nothing.
    `lens` turns images into (N, D) float32 features and was trained on training and held-out
    patients alike, or on neither. `reconstruct` passes images through the autoencoder; None where
    there is none (an audit of somebody else's images). `private` is a folder for pictures and
    tables of single patients, which never leave the hospital. `budget` is what epsilon holds for
    the images; None where none is claimed. `model` is what somebody with the weights could ask;
    None where there are none. `canaries` were planted for it to learn; None where none were.
    `paired` is what masks are judged by, where the synthetic images have some; None where not.
    `teach` and `segment` train a network on a lesson, or to find masks, in a folder for its state;
    None where nothing is learned.
    `level` is that of the gate's rule on the cohort's test, of which attempt j gets 1 / 2^j.
    `progress` is told (what, share).
    """

    settings: Validate
    domain: Domain
    train: Cohort
    holdout: Cohort
    synthetic: Cohort
    lens: Callable[[Images], np.ndarray]
    reconstruct: Callable[[Images], Images] | None
    seed: int
    private: Path
    scratch: Path | None = None
    budget: Coverage | None = None
    model: Model | None = None
    canaries: Canaries | None = None
    paired: Paired | None = None
    teach: Teach | None = None
    segment: Segment | None = None
    level: float = 0.05
    progress: Callable[[str, float], None] = lambda what, share: None


Measure = Callable[[Case], Iterable[Finding]]


def measures() -> Mapping[str, Measure]:
    """Return all measures by name; heavy packages are imported only then."""
    from . import (
        canary,
        copied_regions,
        fidelity,
        identity,
        memorization,
        paired,
        privacy,
        reconstruction,
        utility,
        utility_masks,
        weights,
    )

    return {
        "reconstruction": reconstruction.measure,
        "fidelity": fidelity.measure,
        "utility": utility.measure,
        "segmentation": utility_masks.measure,
        "memorization": memorization.measure,
        "masks": paired.measure_masks,
        "regions": copied_regions.measure,
        "identity": identity.measure,
        "membership": weights.measure,
        "canary": canary.measure,
        "privacy": privacy.measure,
        "pairs": paired.measure_pairs,
    }


QUALITY = ("fidelity", "reconstruction", "utility", "segmentation", "pairs")


def measure_all(case: Case) -> list[Finding]:
    """Measure everything: leakage on the whole cohort as it was drawn, and only then quality, on
    the images that the quarantine left, since those are what would leave.

    Quality goes unmeasured where the quarantine left too few images for it.
    """
    from . import fidelity, quarantine

    every = measures()
    findings = [f for name in every if name not in QUALITY for f in every[name](case)]
    rest = quarantine.remaining(case.synthetic, case.private)
    enough = len(rest) >= fidelity.FEWEST or len(rest) == len(case.synthetic)
    left = replace(case, synthetic=rest)
    for name in QUALITY if enough else ("reconstruction",):  # which asks for no synthetic image
        findings += every[name](left)
    return findings
