"""The attack: every synthetic, held-out and planted image is looked up among the real ones.

Held-out images are looked up among training images only, and so is a synthetic image when it is
flagged: both meet the same gallery. For the p-value and for the attribution of a flag a synthetic
image is looked up among all real images, where nothing says which is which. Several processes
divide the images, and what was found outlives a kill (`shards`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..cohort import Cohort
from ..errors import DataError
from ..runtime import choose_device, derive_seed, digest_json, ranks, versions
from . import Case, planted, polarity, search, shards
from .nearest import Found, from_arrays, to_arrays
from .statistics import conformal_threshold

SHARED = 8 * search.BATCH  # real images that one of several processes looks at, at a time


@dataclass(frozen=True)
class Pool:
    """All real images in random order: training and held-out, and which is which; `usual` is what
    negatives are told by."""

    gallery: search.Gallery
    order: np.ndarray
    is_train: np.ndarray
    patients: np.ndarray
    usual: np.ndarray | None = None

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
    synthetic: Mapping[str, Found]
    holdout: Found
    copies: Mapping[str, Mapping[str, Found]]
    threshold: float
    rate: float

    def flags(self, found: Mapping[str, Found]) -> Flags:
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
    """Look up synthetic, held-out and planted images among the real ones.

    Where there are several processes and a `case.scratch`, all of them must be here.
    """
    pool = gather(case)
    copies = dict(plant_copies(case))
    found = _look_up_all(case, pool, copies)
    holdout, synthetic = found["held-out images"]["train"], found["synthetic images"]
    threshold, rate = conformal_threshold(holdout.registered.score, case.settings.false_alarms)
    return Attack(pool, synthetic, holdout, {name: found[name] for name in copies}, threshold, rate)


def _look_up_all(
    case: Case, pool: Pool, copies: Mapping[str, Callable[[], np.ndarray]]
) -> dict[str, dict[str, Found]]:
    """Return {name: {part: found}} of both cohorts and of the copies of each change."""
    both = ("train", "everyone")
    named = [("held-out images", block) for block in _blocks(case, pool, case.holdout, ("train",))]
    named += [("synthetic images", block) for block in _blocks(case, pool, case.synthetic, both)]
    named += [(name, _lookup(case, pool, make, both)) for name, make in copies.items()]
    blocks = [
        shards.Block("planted copies" if name in copies else name, lookup) for name, lookup in named
    ]
    found: dict[str, list[shards.Arrays]] = {}
    each = shards.work_off(blocks, case.scratch, _key(case), case.progress)
    for (name, _), arrays in zip(named, each, strict=True):
        found.setdefault(name, []).append(arrays)
    return {name: from_arrays(arrays) for name, arrays in found.items()}


def _blocks(case: Case, pool: Pool, cohort: Cohort, parts: Sequence[str]) -> list[shards.Compute]:
    """Return the lookups of a cohort's images, a batch each."""
    batches = [slice(start, start + search.BATCH) for start in range(0, len(cohort), search.BATCH)]
    return [
        _lookup(case, pool, functools.partial(cohort.floats, batch), parts) for batch in batches
    ]


def _lookup(
    case: Case, pool: Pool, read: Callable[[], np.ndarray], parts: Sequence[str]
) -> shards.Compute:
    """Return the lookup of some images among parts of the pool, to be done when it is called."""

    def compute(progress: search.Progress) -> shards.Arrays:
        found = search.search(
            _look(case, read(), pool.usual),
            pool.gallery,
            {part: pool.parts[part] for part in parts},
            candidates=case.settings.candidates,
            progress=progress,
        )
        return to_arrays(found)

    return compute


def _key(case: Case) -> str:
    """Return a digest of what is looked up, where and how; of the networks that see it, a scratch
    folder must not outlive a change."""
    if case.scratch is None:
        return ""
    sides = (case.train, case.holdout, case.synthetic)
    return digest_json(
        {
            "cohorts": [side.digest for side in sides],
            "domain": case.domain.name,
            "settings": [case.settings.candidates, case.settings.planted],
            "seed": case.seed,
            "batch": search.BATCH,
            "versions": versions(),
        }
    )


def gather(case: Case) -> Pool:
    """Pool training and held-out images in a random order that no label follows."""
    n, total = len(case.train), len(case.train) + len(case.holdout)
    shuffle = np.random.default_rng(derive_seed(case.seed, "pool")).permutation(total)
    patients = np.concatenate(
        [case.train.patients, case.holdout.patients + case.train.patients.max() + 1]
    )
    usual = polarity.usual(case.domain, (case.train, case.holdout))
    seen = [
        _look_at_real(case, side, usual, functools.partial(_tell, case, done, side))
        for side, done in ((case.train, 0), (case.holdout, n))
    ]
    gallery = search.build(search.join(*seen, shuffle), patients[shuffle], case.domain.symmetries)
    order = np.where(shuffle < n, shuffle, shuffle - n)
    return Pool(gallery, order, shuffle < n, patients[shuffle], usual)


def _look_at_real(
    case: Case, side: Cohort, usual: np.ndarray | None, progress: search.Progress
) -> search.Look:
    """Look at all real images of one side; several processes divide them."""
    if case.scratch is None or ranks()[1] == 1:
        return _look(case, side, usual, mirrored=False, progress=progress)

    def looked(some: np.ndarray) -> shards.Compute:
        def compute(told: search.Progress) -> shards.Arrays:
            seen = _look(case, side.take(some), usual, mirrored=False, progress=told)
            return {name: value.cpu().numpy() for name, value in vars(seen).items()}

        return compute

    chosen = np.arange(len(side))
    starts = range(0, len(side), SHARED)
    blocks = [shards.Block("", looked(chosen[start : start + SHARED])) for start in starts]
    key = digest_json([_key(case), "real", side.digest])
    found = shards.work_off(blocks, case.scratch, key, lambda what, share: progress(share))
    joined = {
        name: np.concatenate([arrays[name] for arrays in found], axis)
        for name, axis in (("structures", 0), ("features", 1), ("windows", 1))
    }
    device = choose_device()
    return search.Look(**{name: torch.from_numpy(joined[name]).to(device) for name in joined})


def _tell(case: Case, before: int, side: Cohort, share: float) -> None:
    total = len(case.train) + len(case.holdout)
    case.progress("real images", (before + share * len(side)) / total)


def plant_copies(case: Case) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """Return each change and how `planted` changed copies of random training images are made;
    where there is an autoencoder, what it makes of them is one more change, "reconstruction", and
    where the domain has negatives, these are another."""
    rng = np.random.default_rng(derive_seed(case.seed, "planted"))

    def copies(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[], np.ndarray]:
        originals = rng.integers(len(case.train), size=case.settings.planted)
        return lambda: change(case.train.floats(originals))

    def seed_of(name: str) -> int:
        return derive_seed(case.seed, "planted", name)

    made = [
        (name, copies(functools.partial(planted.plant, change=change, seed=seed_of(name))))
        for name, change in planted.changes(case.domain.symmetries).items()
    ]
    if case.reconstruct is not None:
        made.append(
            ("reconstruction", copies(functools.partial(search.in_batches, case.reconstruct)))
        )
    if case.domain.negatives:
        change = functools.partial(planted.plant, change=planted.negative, seed=seed_of("negative"))
        made.append(("negative", copies(change)))
    return made


def _look(
    case: Case,
    images: search.Images,
    usual: np.ndarray | None,
    *,
    mirrored: bool = True,
    progress: search.Progress = lambda share: None,
) -> search.Look:
    return search.look(
        polarity.righted(images, usual),
        case.lens,
        case.domain.symmetries,
        device=choose_device(),
        mirrored=mirrored,
        progress=progress,
    )
