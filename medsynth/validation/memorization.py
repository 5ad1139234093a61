"""Are there training patients in the synthetic images?

An attack on the training patients, the same attack on held-out patients, and known copies to show
what the attack can see. Three questions, three answers of different kinds:

- the cohort: do the most suspicious synthetic images lie nearest to training patients more often
  than chance? `p_value`, exact by construction, no threshold.
- the image: which synthetic images are nearer to one training patient than all but the rarest
  held-out image is? `copy_rate`, `exposed_patients`, with a threshold from held-out patients.
- the attack: how many known copies would have been flagged? `recall`.

Held-out images are looked up among training images only, and so is a synthetic image when it is
flagged: both meet the same gallery. For the p-value and for the attribution of a flag a synthetic
image is looked up among all real images, where nothing says which is which.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..finding import Finding
from ..runtime import choose_device, derive_seed
from . import Case, evidence, planted, search
from .statistics import (
    Estimate,
    attribution_test,
    bootstrap_mean,
    clopper_pearson,
    conformal_threshold,
)

EXACT = 0.999  # registered correlation from which an image is called the same
SPACES = "registered structure and lens features"


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


def measure(case: Case) -> Iterable[Finding]:
    """Measure memorization; writes neighbours.csv and neighbours.png into `case.private`.

    Raises DataError where there are fewer than two patients a side, or one stands on both.
    """
    check(case)
    attack = run_attack(case)
    flags = attack.flags(attack.synthetic)
    recalls = {
        name: clopper_pearson(int(attack.flags(found).copied.sum()), case.settings.planted)
        for name, found in attack.copies.items()
    }
    pooled = clopper_pearson(
        sum(round(each.value * case.settings.planted) for each in recalls.values()),
        len(recalls) * case.settings.planted,
    )
    yield p_value(case, attack)
    yield copy_rate(attack, flags, pooled)
    yield exposed_patients(attack, flags)
    yield exact_copies(case, attack)
    yield nearest_similarity(case, attack)
    yield from recall_findings(case, recalls, pooled)
    evidence.write(case, attack, flags)


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


def p_value(case: Case, attack: Attack) -> Finding:
    """Test whether the most suspicious images lie nearest to training patients by chance."""
    rng = np.random.default_rng(derive_seed(case.seed, "permutations"))
    found = attack.synthetic["everyone"]
    order = rng.permutation(len(found.lens.score))  # ties fall at random
    rankings = [
        nearest.patient[order][np.argsort(nearest.score[order], kind="stable")]
        for nearest in (found.registered, found.lens)
    ]
    p = attribution_test(rankings, attack.pool.patient_is_train, case.settings.permutations, rng)
    return Finding(
        "memorization.p_value",
        p,
        p,
        p,
        len(order),
        "probability",
        "higher is better",
        f"patient-permutation test, {case.settings.permutations} permutations, largest "
        f"standardised count over cut-offs in {SPACES}; exact, so both ends are the p-value",
    )


def copy_rate(attack: Attack, flags: Flags, recall: Estimate) -> Finding:
    """Estimate the share of synthetic images that copy a training patient.

    The high end is the upper end of the share flagged over the lower end of the attack's recall:
    each fails at 2.5 %, both together at 5 % at most. False alarms are taken off the value and
    the low end only.
    """
    n, hits = len(flags.copied), int(flags.copied.sum())
    share = clopper_pearson(hits, n)
    held_out = attack.holdout.registered.score <= attack.threshold
    innocent = clopper_pearson(int(held_out.sum()), len(held_out))
    high = 1.0 if recall.low == 0 else min(1.0, share.high / recall.low)
    return Finding(
        "memorization.copy_rate",
        max(0.0, share.value - innocent.value),
        max(0.0, share.low - innocent.high),
        max(high, share.value),
        n,
        "share of synthetic images",
        "lower is better",
        f"flagged by registered nearest-to-second-nearest patient, at a threshold that held-out "
        f"images pass at {attack.rate:.2g}, and nearest to a training patient among all real "
        f"ones; less the held-out share; high end Clopper-Pearson over the attack's recall",
        innocent.value,
        "the same threshold on held-out patients' images",
    )


def exposed_patients(attack: Attack, flags: Flags) -> Finding:
    """Count the training patients who are nearest to a flagged image."""
    exposed = np.unique(attack.synthetic["train"].registered.patient[flags.copied])
    patients = int(attack.pool.patient_is_train.sum())
    share = clopper_pearson(len(exposed), patients)
    return Finding(
        "memorization.exposed_patients",
        share.value,
        share.low,
        share.high,
        patients,
        "share of training patients",
        "lower is better",
        f"{len(exposed)} of {patients} training patients are the nearest of a flagged image "
        "(false alarms included); Clopper-Pearson interval",
    )


def exact_copies(case: Case, attack: Attack) -> Finding:
    """Count the synthetic images that are a training image, turned or mirrored at most."""
    known = hashes(case.train, case.domain.symmetries)
    same = np.array([digest in known for digest in hashes_of(case.synthetic)])
    same |= attack.synthetic["train"].registered.similarity >= EXACT
    count = float(same.sum())
    return Finding(
        "memorization.exact_copies",
        count,
        count,
        count,
        len(same),
        "synthetic images",
        "lower is better",
        f"same pixels as a training image under {case.domain.symmetries}, or registered "
        f"correlation of at least {EXACT}; a count, so both ends are the value",
    )


def hashes(cohort: Cohort, symmetry: str) -> set[int]:
    """Return the hashes of all images in all the ways of a symmetry."""
    pixels = np.asarray(cohort.pixels)
    turns = range(4) if "rotations" in symmetry else range(1)
    ways = [np.rot90(pixels, turn, axes=(1, 2)) for turn in turns]
    ways += [way[:, :, ::-1] for way in ways] if "flip" in symmetry else []
    return {hash(image.tobytes()) for way in ways for image in way}


def hashes_of(cohort: Cohort) -> list[int]:
    """Return each image's hash."""
    return [hash(image.tobytes()) for image in np.asarray(cohort.pixels)]


def nearest_similarity(case: Case, attack: Attack) -> Finding:
    """Compare how similar the nearest training image is, for synthetic and for held-out images."""
    rng = np.random.default_rng(derive_seed(case.seed, "similarity"))
    values = attack.synthetic["train"].registered.similarity
    mean = bootstrap_mean(values, np.arange(len(values)), case.settings.bootstrap, rng)
    return Finding(
        "memorization.nearest_similarity",
        mean.value,
        mean.low,
        mean.high,
        len(values),
        "correlation",
        "neither",
        "mean registered correlation with the nearest training image, bootstrap over images; "
        "smooth images resemble everyone, so a high value alone is no copy",
        float(attack.holdout.registered.similarity.mean()),
        "held-out real images",
    )


def recall_findings(
    case: Case, recalls: Mapping[str, Estimate], pooled: Estimate
) -> Iterable[Finding]:
    """Report the share of planted copies that the attack flags, by change and in all."""
    n = case.settings.planted
    for name, each in {**recalls, "": pooled}.items():
        yield Finding(
            f"memorization.recall.{name}" if name else "memorization.recall",
            each.value,
            each.low,
            each.high,
            n if name else n * len(recalls),
            "share of planted copies",
            "higher is better",
            "copies of random training images, "
            + (f"changed by {name}" if name else f"all of {', '.join(recalls)} together")
            + ", flagged as synthetic images are; "
            "Clopper-Pearson interval",
        )


def _look(case: Case, images: search.Images, *, mirrored: bool = True) -> search.Look:
    symmetry, device = case.domain.symmetries, choose_device()
    return search.look(images, case.lens, symmetry, device=device, mirrored=mirrored)
