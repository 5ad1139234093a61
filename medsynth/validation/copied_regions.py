"""Are there regions of training patients in the synthetic images?

The same grammar as for whole images: synthetic images, held-out ones and images with known regions
in them are looked up among all real images but those of their own patient, and nothing says
which were trained on. A whole copy holds copied regions, so it counts here too: images that
another attack flagged are not taken out first, since that attack knows who was trained on, and
what is left would no longer meet every division of the patients alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import choose_device, derive_seed
from . import Case, planted_regions, polarity, region_pictures, regions
from .attack import check
from .attribution import attribution_test, rank
from .statistics import (
    Estimate,
    at_attempts,
    clopper_pearson,
    conformal_threshold,
    share_at_attempts,
)

IMAGES = 200  # synthetic and held-out ones, where the protocol does not say
Recalls = Mapping[str, tuple[int, int]]
"""{size: (regions found, regions planted)}."""


@dataclass(frozen=True)
class Search:
    """What was found: `chosen` are the synthetic images that were looked at, `order` the indices
    of the pooled real images within their own cohorts, `is_train` (N,) and `trained` (P,) which
    images and patients were trained on."""

    ground: regions.Ground
    order: np.ndarray
    is_train: np.ndarray
    trained: np.ndarray
    chosen: np.ndarray
    synthetic: regions.Regions
    holdout: regions.Regions
    recalls: Recalls
    threshold: float
    rate: float

    def copied(self, found: regions.Regions) -> np.ndarray:
        """(Q,) bool: a region under the threshold whose nearest patient was trained on."""
        return (found.score <= self.threshold) & self.trained[found.patient]


def measure(case: Case) -> Iterable[Finding]:
    """Measure copied regions; writes regions.csv and regions.png into `case.private`. Nothing is
    measured where the protocol asks for none.

    Raises DataError where there are fewer than two patients a side, or one stands on both.
    """
    wanted = case.settings.region_images
    count = IMAGES if wanted is None else wanted
    if count == 0:
        return
    check(case)
    found = search(case, count)
    seen = sizes_seen(found.recalls, case.settings.least_lens_recall)
    yield p_value(case, found, seen)
    yield region_rate(found, seen)
    yield from recall_findings(found.recalls)
    region_pictures.write(case, found)


def search(case: Case, count: int) -> Search:
    """Look up at most `count` synthetic and held-out images, and images with planted regions."""
    device = choose_device()
    rng = np.random.default_rng(derive_seed(case.seed, "regions"))
    usual = polarity.usual(case.domain, (case.train, case.holdout))
    sides = [
        regions.textures(polarity.righted(side, usual), device)
        for side in (case.train, case.holdout)
    ]
    shift = int(case.train.patients.max()) + 1
    shuffle = rng.permutation(len(case.train) + len(case.holdout))
    patients = np.concatenate([case.train.patients, case.holdout.patients + shift])[shuffle]
    ground = regions.prepare(
        torch.cat(sides)[torch.from_numpy(shuffle).to(device)],
        patients,
        regions.ways(case.domain),
        seed=derive_seed(case.seed, "windows"),
    )
    held, chosen = (_draw(side, count, rng) for side in (case.holdout, case.synthetic))
    holdout = regions.find(
        sides[1][torch.from_numpy(held).to(device)],
        ground,
        own=case.holdout.patients[held] + shift,
        progress=lambda share: case.progress("regions of held-out images", share),
    )
    synthetic = regions.find(
        regions.textures(polarity.righted(case.synthetic.take(chosen), usual), device),
        ground,
        progress=lambda share: case.progress("regions of synthetic images", share),
    )
    threshold, rate = conformal_threshold(holdout.score, case.settings.false_alarms)
    is_train = shuffle < len(case.train)
    return Search(
        ground,
        np.where(is_train, shuffle, shuffle - len(case.train)),
        is_train,
        np.arange(patients.max() + 1) < shift,
        chosen,
        synthetic,
        holdout,
        plant(case, ground, threshold, shift),
        threshold,
        rate,
    )


def plant(case: Case, ground: regions.Ground, threshold: float, shift: int) -> Recalls:
    """Put regions of random training images into random held-out ones, and count for each size
    how many are flagged and lead to the very patient; `shift` is the first held-out patient's
    number."""
    rng, recalls = np.random.default_rng(derive_seed(case.seed, "planted regions")), {}
    for size, side in planted_regions.SIDES.items():
        bases = rng.integers(len(case.holdout), size=case.settings.planted)
        sources = rng.integers(len(case.train), size=case.settings.planted)
        grafts = planted_regions.plant(
            case.holdout.floats(bases),
            case.train.floats(sources),
            side,
            ground.symmetry,
            derive_seed(case.seed, "planted regions", size),
        )
        seen = regions.textures(np.stack([each.image for each in grafts]), choose_device())
        found = regions.find(seen, ground, own=case.holdout.patients[bases] + shift)
        right = found.patient == case.train.patients[sources]
        recalls[size] = int((right & (found.score <= threshold)).sum()), len(bases)
        case.progress("planted regions", len(recalls) / len(planted_regions.SIDES))
    return recalls


def sizes_seen(recalls: Recalls, least: float) -> list[str]:
    """Return the sizes of regions that the attack sees: those of which it finds at least `least`,
    at the low end of the interval."""
    return [size for size, found in recalls.items() if clopper_pearson(*found).low >= least]


def p_value(case: Case, found: Search, seen: list[str]) -> Finding:
    """Test whether the most suspicious regions lie nearest to training patients by chance; NaN
    where the attack sees no size of region."""
    p = math.nan
    if seen:
        rng = np.random.default_rng(derive_seed(case.seed, "region permutations"))
        ranking = rank(found.synthetic.patient, found.synthetic.score, rng)
        p = attribution_test([ranking], found.trained, case.settings.permutations, rng)
    return Finding(
        "memorization.region_p_value",
        p,
        p,
        p,
        len(found.chosen),
        "probability",
        "higher is better",
        f"patient-permutation test on the most suspicious region of {_say_chosen(case, found)}, "
        f"{case.settings.permutations} permutations; whole copies count too; "
        f"{_say_seen(found.recalls, seen)}; exact, so both ends are the p-value",
    )


def region_rate(found: Search, seen: list[str]) -> Finding:
    """Estimate the share of synthetic images that hold a region of a training patient.

    As for whole copies, each of the high end's two parts fails at half of what the attempt may
    spend; the recall is the weakest of the sizes that are seen, and where none is, the high end
    is 1. False alarms are taken off the value and the low end only.
    """
    copied = found.copied(found.synthetic)
    n, hits = len(copied), int(copied.sum())
    innocent = int(found.copied(found.holdout).sum()), len(found.holdout.score)
    value = max(0.0, hits / n - innocent[0] / innocent[1])

    def bound(level: float) -> Estimate:
        each = (1 + level) / 2
        share = clopper_pearson(hits, n, level=each)
        least = min((clopper_pearson(*found.recalls[s], level=each).low for s in seen), default=0)
        high = 1.0 if least == 0 else min(1.0, share.high / least)
        low = max(0.0, share.low - clopper_pearson(*innocent, level=each).high)
        return Estimate(value, min(low, value), max(high, value))

    ends = at_attempts(bound)
    return Finding(
        "memorization.region_rate",
        value,
        *ends[0],
        n,
        "share of synthetic images",
        "lower is better",
        "images with a region nearer to one patient than to the next, at a threshold that "
        f"held-out images pass at {found.rate:.2g}, and nearest to a training patient among all "
        "real ones; less the held-out share; whole copies count too; high end Clopper-Pearson "
        f"over the recall of the weakest size that is seen; {_say_seen(found.recalls, seen)}",
        innocent[0] / innocent[1],
        "the same threshold on held-out patients' images",
        ends,
    )


def recall_findings(recalls: Recalls) -> Iterable[Finding]:
    """Report the share of planted regions that are found, by size and in all."""
    pooled = sum(hits for hits, _ in recalls.values()), sum(n for _, n in recalls.values())
    for size, (hits, n) in {**recalls, "": pooled}.items():
        each = clopper_pearson(hits, n)
        sides = ", ".join(f"{side:.2g}" for side in planted_regions.SIDES.values())
        yield Finding(
            f"memorization.region_recall.{size}" if size else "memorization.region_recall",
            each.value,
            each.low,
            each.high,
            n,
            "share of planted regions",
            "higher is better",
            "regions of random training images in random held-out ones, "
            + (f"{planted_regions.SIDES[size]:.2g}" if size else sides)
            + " of the side, flagged as synthetic images are and led to the very patient; "
            "Clopper-Pearson interval",
            at_attempts=share_at_attempts(hits, n),
        )


def _draw(cohort: Cohort, count: int, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(len(cohort))[:count])


def _say_chosen(case: Case, found: Search) -> str:
    n, every = len(found.chosen), len(case.synthetic)
    return f"all {n} images" if n == every else f"{n} of {every} images, drawn at random"


def _say_seen(recalls: Recalls, seen: list[str]) -> str:
    """Say which sizes of regions the attack sees, and which it doesn't."""
    words = {
        size: f"{planted_regions.SIDES[size]:.2g} of the side ({hits} of {n} found)"
        for size, (hits, n) in recalls.items()
    }
    blind = [words[size] for size in words if size not in seen]
    told = [f"sees regions of {' and of '.join(words[size] for size in seen)}"] if seen else []
    told += [f"too blind to regions of {' and of '.join(blind)} to say anything"] if blind else []
    return ", ".join(told)
