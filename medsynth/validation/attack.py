"""The attack: every synthetic, held-out and planted image is looked up among the real ones.

Held-out images are looked up among training images only, and so is a synthetic image when it is
flagged: both meet the same gallery. For the p-value and for the attribution of a flag a synthetic
image is looked up among all real images, where nothing says which is which.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..runtime import choose_device, derive_seed
from . import Case, planted, search
from .statistics import conformal_threshold


@dataclass(frozen=True)
class Pool:
    """All real images in random order: training and held-out, and which is which."""

    gallery: search.Gallery
    order: np.ndarray
    is_train: np.ndarray
    patients: np.ndarray

    @property
    def patient_is_train(self) -> np.ndarray:
        """(P,) bool by patient number."""
        found = np.zeros(self.patients.max() + 1, bool)
        found[self.patients[self.is_train]] = True
        return found

    def train_index(self, images: np.ndarray) -> np.ndarray:
        """Turn gallery indices of training images into indices of the training cohort."""
        return self.order[images]

    @property
    def parts(self) -> dict[str, np.ndarray]:
        return {"train": self.is_train, "everyone": np.ones_like(self.is_train)}


@dataclass(frozen=True)
class Flags:
    """What a threshold says of images: near one training patient, and no held-out one nearer."""

    flagged: np.ndarray
    attributed: np.ndarray

    @property
    def copied(self) -> np.ndarray:
        return self.flagged & self.attributed


@dataclass(frozen=True)
class Attack:
    """All that was found: by the synthetic images, the held-out ones and the planted copies."""

    pool: Pool
    synthetic: Mapping[str, search.Found]
    holdout: search.Found
    copies: Mapping[str, Mapping[str, search.Found]]
    threshold: float
    rate: float

    def flags(self, found: Mapping[str, search.Found]) -> Flags:
        nearest = found["everyone"].registered.patient
        flagged = found["train"].registered.score <= self.threshold
        return Flags(flagged, self.pool.patient_is_train[nearest])


def check(case: Case) -> None:
    """Raise DataError where the comparison of training with held-out patients is void."""
    names = {
        name: {record.patient for record in cohort.records if record.patient}
        for name, cohort in (("train", case.train), ("holdout", case.holdout))
    }
    faults = [
        f"{name} has {len(set(cohort.patients))}"
        for name, cohort in (("train", case.train), ("holdout", case.holdout))
        if len(set(cohort.patients)) < 2
    ]
    if faults:
        raise DataError(f"expected at least two patients a side, {' and '.join(faults)}")
    both = names["train"] & names["holdout"]
    if both:
        raise DataError(
            f"{len(both)} patients are in training and in held-out images: split by "
            "patient, else held-out images say nothing about training images"
        )
    if not len(case.synthetic):
        raise DataError("expected at least one synthetic image, got none")


def run_attack(case: Case) -> Attack:
    """Look up synthetic, held-out and planted images among the real ones."""
    pool = gather(case)
    find = functools.partial(
        search.search, gallery=pool.gallery, candidates=case.settings.candidates
    )
    own = {"train": pool.parts["train"]}
    holdout = find(
        _look(case, case.holdout),
        among=own,
        progress=lambda share: case.progress("held-out images", share),
    )["train"]
    synthetic = find(
        _look(case, case.synthetic),
        among=pool.parts,
        progress=lambda share: case.progress("synthetic images", share),
    )
    threshold, rate = conformal_threshold(holdout.registered.score, case.settings.false_alarms)
    copies = {}
    for name, images in plant_copies(case):
        copies[name] = find(_look(case, images), among=pool.parts)
        case.progress("planted copies", len(copies) / (len(planted.CHANGES) + 1))
    return Attack(pool, synthetic, holdout, copies, threshold, rate)


def gather(case: Case) -> Pool:
    """Pool training and held-out images in a random order that no label follows."""
    n, total = len(case.train), len(case.train) + len(case.holdout)
    shuffle = np.random.default_rng(derive_seed(case.seed, "pool")).permutation(total)
    patients = np.concatenate(
        [case.train.patients, case.holdout.patients + case.train.patients.max() + 1]
    )
    seen = [_look(case, side, mirrored=False) for side in (case.train, case.holdout)]
    gallery = search.build(search.join(*seen, shuffle), patients[shuffle], case.domain.symmetries)
    order = np.where(shuffle < n, shuffle, shuffle - n)
    return Pool(gallery, order, shuffle < n, patients[shuffle])


def plant_copies(case: Case) -> Iterable[tuple[str, np.ndarray]]:
    """Yield (change, `planted` changed copies of random training images); where there is an
    autoencoder, what it makes of training images is one more change, "reconstruction"."""
    rng = np.random.default_rng(derive_seed(case.seed, "planted"))
    for name, change in planted.changes(case.domain.symmetries).items():
        originals = case.train.floats(rng.integers(len(case.train), size=case.settings.planted))
        yield name, planted.plant(originals, change, derive_seed(case.seed, "planted", name))
    if case.reconstruct is not None:
        originals = case.train.floats(rng.integers(len(case.train), size=case.settings.planted))
        yield "reconstruction", search.in_batches(case.reconstruct, originals)


def _look(case: Case, images: search.Images, *, mirrored: bool = True) -> search.Look:
    symmetry, device = case.domain.symmetries, choose_device()
    return search.look(images, case.lens, symmetry, device=device, mirrored=mirrored)
