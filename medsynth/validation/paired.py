"""A cohort with masks: are the masks anybody's, and do the images show what they say?

A mask can be a leak where no pixel of the image is copied: a vessel tree tells whose eye it is. So
masks are looked up among patients' masks as images are among images, by the same search, the same
tests and the same planted copies; `masks.*` are the findings of memorization.py on them, as
pictures. `pairs.*` say whether a mask is found again in the image that was drawn under it, beside
what is found of another's mask, and in real images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..cohort import Cohort
from ..data.controls import as_pictures, one_hot
from ..finding import Direction, Finding
from ..runtime import derive_seed
from . import Case, memorization
from .obedience import compare
from .quarantine import MASKS
from .resampling import Resampled, Resampling

SPACE = "memorization."
OTHER = "the mask of the next image in the place of its own"


@dataclass(frozen=True, eq=False)
class Paired:
    """What a cohort with masks is judged by: training and held-out patients' images with masks,
    `find`, which finds masks (N, H, W) uint8 in images (None where there are no images to look
    at), and the masks' values with their names."""

    train: Cohort
    holdout: Cohort
    find: Callable[[np.ndarray], np.ndarray] | None
    values: tuple[int, ...]
    names: tuple[str, ...]

    def shown(self, cohort: Cohort) -> Cohort:
        """Return the masks of a cohort as the pixels of one."""
        pictures = as_pictures(np.asarray(cohort.masks), self.values, cohort.channels)
        return replace(cohort, pixels=pictures, masks=None)


def of_masks(case: Case) -> Case:
    """Return the same case about masks instead of images."""
    paired = case.paired
    private = case.private / MASKS
    private.mkdir(exist_ok=True)
    return replace(
        case,
        domain=replace(case.domain, negatives=False),
        train=paired.shown(paired.train),
        holdout=paired.shown(paired.holdout),
        synthetic=paired.shown(case.synthetic),
        reconstruct=None,
        private=private,
        scratch=None if case.scratch is None else case.scratch / "masks",
        budget=None,
        model=None,
        canaries=None,
        paired=None,
    )


def measure_masks(case: Case) -> Iterable[Finding]:
    """Measure whether masks are copied from training patients; nothing where there are none."""
    if case.paired is None:
        return
    for finding in memorization.measure(of_masks(case)):
        yield replace(
            finding,
            name=f"masks.{finding.name.removeprefix(SPACE)}",
            unit=finding.unit.replace("images", "masks"),
            method=f"of masks as pictures: {finding.method}",
        )


def measure_pairs(case: Case) -> Iterable[Finding]:
    """Measure whether images show their masks, and whether masks are as large as real ones."""
    paired = case.paired
    if paired is None:
        return
    found = _found(paired, case.synthetic)
    drawn = _one_hot(paired, case.synthetic.masks)
    own, other = _scores(drawn, found), _scores(np.roll(drawn, -1, axis=0), found)
    real = _scores(_one_hot(paired, paired.holdout.masks), _found(paired, paired.holdout))
    of_drawn = _resampling(case, np.arange(len(drawn)), "pairs")
    of_real = _resampling(case, paired.holdout.patients, "real pairs")
    for name, said in MEASURES.items():
        floor = of_drawn.mean(other[name])
        mean = of_drawn.mean(own[name])
        yield _finding(f"pairs.{name}", mean, said, reference=floor.value, reference_is=OTHER)
        held = of_real.mean(real[name])
        yield _finding(f"pairs.{name}_real", held, said, direction="neither", of=REAL)
        if name == "dice":
            gain = "Dice, less the same with " + OTHER + "; 0 = images do not show their masks"
            yield _finding("pairs.gain", mean - floor, gain)
    yield from _areas(case, drawn, of_drawn)


MEASURES = {
    "dice": "Dice overlap of the mask and what a network, trained on real training images, finds",
    "boundary_f1": "F1 of the boundaries of both, found within 1 px (1/64 of the side from 128 px)",
}
REAL = "held-out patients' images and masks, bootstrap over patients: as well as it can be found"
DRAWN = "drawn pairs, bootstrap over images"


def _found(paired: Paired, cohort: Cohort) -> np.ndarray:
    return _one_hot(paired, paired.find(cohort.floats()))


def _one_hot(paired: Paired, masks: np.ndarray) -> np.ndarray:
    return one_hot(np.asarray(masks), paired.values)


def _scores(wanted: np.ndarray, found: np.ndarray) -> dict[str, np.ndarray]:
    """Return (N,) of each measure; NaN where a mask is empty."""
    rows = [compare("mask", a, b) for a, b in zip(wanted, found, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in MEASURES}


def _resampling(case: Case, groups: np.ndarray, name: str) -> Resampling:
    rng = np.random.default_rng(derive_seed(case.seed, name))
    return Resampling(groups, draws=case.settings.bootstrap, rng=rng)


def _finding(
    name: str,
    mean: Resampled,
    said: str,
    *,
    unit: str = "0 to 1",
    direction: Direction = "higher is better",
    of: str = DRAWN,
    reference: float | None = None,
    reference_is: str = "",
) -> Finding:
    got = mean.estimate()
    return Finding(
        name, got.value, got.low, got.high, mean.images, unit, direction, f"{said}; {of}",
        reference, reference_is,
    )  # fmt: skip


def _areas(case: Case, drawn: np.ndarray, resampling: Resampling) -> Iterable[Finding]:
    """Compare how much of an image each class covers, drawn and in held-out patients."""
    paired = case.paired
    real = _one_hot(paired, paired.holdout.masks).mean((0, 2, 3))
    for k, name in enumerate(paired.names):
        yield _finding(
            f"pairs.area.{name.replace(' ', '_')}",
            resampling.mean(drawn[:, k].mean((1, 2))),
            f"mean share of an image that is {name}",
            unit="share of an image",
            direction="neither",
            reference=float(real[k]),
            reference_is="held-out patients' masks",
        )
