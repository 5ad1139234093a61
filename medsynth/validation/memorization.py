"""Are there training patients in the synthetic images?

An attack on the training patients, the same attack on held-out patients, and known copies to show
what the attack can see. Three questions, three answers of different kinds:

- the cohort: do the most suspicious synthetic images lie nearest to training patients more often
  than chance? `p_value`, exact by construction, no threshold.
- the image: which synthetic images are nearer to one training patient than all but the rarest
  held-out image is? `copy_rate`, `exposed_patients`, with a threshold from held-out patients.
- the attack: how many known copies would have been flagged, `recall`, and how few of them would
  the cohort's test see? `smallest_rate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..finding import Finding
from ..runtime import derive_seed
from . import (
    Case,
    canary_copies,
    evidence,
    nearness,
    power,
    quarantine,
    remaining,
    same_patient,
    subgroups,
    trust,
)
from .attack import Attack, Flags, check, run_attack
from .attribution import attribution_test, rank
from .statistics import Estimate, at_attempts, bootstrap_mean, clopper_pearson, share_at_attempts

EXACT = 0.999  # registered correlation from which an image is called the same


def measure(case: Case) -> Iterable[Finding]:
    """Measure memorization, and membership as far as images tell; writes neighbours.csv,
    neighbours.png, subgroups.csv and quarantine.csv into `case.private`.

    The tests are on the whole cohort; what the quarantine leaves has findings of its own.
    Raises DataError where there are fewer than two patients a side, or one stands on both.
    """
    check(case)
    attack = run_attack(case)
    flags = attack.flags(attack.synthetic)
    found = {
        name: (int(copied.sum()), len(copied))
        for name, copies in attack.copies.items()
        for copied in [attack.flags(copies).copied]
    }
    spaces = trust.space_recalls(attack, case.settings)
    believed = trust.believed(spaces, case.settings.least_lens_recall)
    exact = is_exact(case, attack)
    planted = canary_copies.find(case)
    judged = quarantine.judge_images(case, attack, believed, exact | planted.taken)
    rate = copy_rate(case, attack, flags, found)
    yield p_value(case, attack, spaces)
    yield from subgroups.measure(case, attack, believed)
    yield from nearness.measure(case, attack, believed)
    yield rate
    yield exposed_patients(attack, flags)
    yield exact_copies(case, exact)
    yield nearest_similarity(case, attack)
    yield from recall_findings(found)
    yield same_patient.measure(case, attack)
    yield from power.measure(case, attack, believed, _bounding(case, found))
    yield from canary_copies.findings(case, planted)
    yield quarantine.finding(judged, case.settings.quarantine)
    yield from remaining.measure(case, attack, judged, exact, rate, believed)
    quarantine.write(case.private, case.synthetic, judged)
    evidence.write(case, attack, flags)


def p_value(case: Case, attack: Attack, spaces: Mapping[str, Estimate]) -> Finding:
    """Test whether the most suspicious images lie nearest to training patients by chance, in the
    spaces that are believed; NaN where none is."""
    least = case.settings.least_lens_recall
    believed = trust.believed(spaces, least)
    found = attack.synthetic["everyone"]
    rng = np.random.default_rng(derive_seed(case.seed, "permutations"))
    rankings = [
        rank(found.spaces[name].patient, found.spaces[name].score, rng) for name in believed
    ]
    p = math.nan
    if rankings:
        is_train = attack.pool.patient_is_train
        p = attribution_test(rankings, is_train, case.settings.permutations, rng)
    return Finding(
        "memorization.p_value",
        p,
        p,
        p,
        len(found.registered.score),
        "probability",
        "higher is better",
        f"patient-permutation test, {case.settings.permutations} permutations, largest "
        "standardised count over cut-offs and largest sum of weights, in "
        f"{' and '.join(believed) or 'no space'}{trust.say_left_out(spaces, least)}; exact, so "
        "both ends are the p-value",
    )


def copy_rate(
    case: Case, attack: Attack, flags: Flags, found: Mapping[str, tuple[int, int]]
) -> Finding:
    """Estimate the share of synthetic images that copy a training patient.

    The high end is the upper end of the share flagged over the lower end of the attack's recall,
    of the weakest of the changes that the bound is to hold for: nobody knows which kind of copy a
    generator makes, and a mean over kinds would hide one that is hardly seen. Each of the two ends
    fails at half of what the attempt may spend; the weakest change is no further failure, since
    its end lies at or under that of the truly weakest. False alarms are taken off the value and
    the low end only.
    """
    n, hits = len(flags.copied), int(flags.copied.sum())
    changes = _bounding(case, found)
    held_out = attack.holdout.registered.score <= attack.threshold
    innocent = int(held_out.sum()), len(held_out)
    value = max(0.0, hits / n - innocent[0] / innocent[1])

    def bound(level: float) -> Estimate:
        each = (1 + level) / 2
        share = clopper_pearson(hits, n, level=each)
        recall = min(clopper_pearson(*found[name], level=each).low for name in changes)
        high = 1.0 if recall == 0 else min(1.0, share.high / recall)
        low = max(0.0, share.low - clopper_pearson(*innocent, level=each).high)
        return Estimate(value, low, max(high, value))

    ends = at_attempts(bound)
    weakest = min(changes, key=lambda name: clopper_pearson(*found[name]).low)
    return Finding(
        "memorization.copy_rate",
        value,
        *ends[0],
        n,
        "share of synthetic images",
        "lower is better",
        f"flagged by registered nearest-to-second-nearest patient, at a threshold that held-out "
        f"images pass at {attack.rate:.2g}, and nearest to a training patient among all real "
        "ones; less the held-out share; high end Clopper-Pearson over the recall of the weakest "
        f"change, {weakest} ({found[weakest][0]} of {found[weakest][1]})",
        innocent[0] / innocent[1],
        "the same threshold on held-out patients' images",
        ends,
    )


def _bounding(case: Case, found: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return the changes that the copy rate's bound is to hold for."""
    wanted = case.settings.copy_changes or tuple(found)
    if strange := sorted(set(wanted) - set(found)):
        raise DataError(
            f"validate.copy_changes names {', '.join(strange)}, which is not planted: expected "
            f"some of {', '.join(found)}"
        )
    return list(wanted)


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
        at_attempts=share_at_attempts(len(exposed), patients),
    )


def is_exact(case: Case, attack: Attack) -> np.ndarray:
    """Return (N,) bool: the synthetic images that are a training image, turned or mirrored at
    most."""
    known = hashes(case.train, case.domain.symmetries)
    same = np.array([digest in known for digest in hashes_of(case.synthetic)])
    return same | (attack.synthetic["train"].registered.similarity >= EXACT)


def exact_copies(case: Case, exact: np.ndarray) -> Finding:
    """Count the synthetic images that are a training image."""
    count = float(exact.sum())
    return Finding(
        "memorization.exact_copies",
        count,
        count,
        count,
        len(exact),
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


def recall_findings(found: Mapping[str, tuple[int, int]]) -> Iterable[Finding]:
    """Report the share of planted copies that the attack flags, by change and in all."""
    pooled = sum(hits for hits, _ in found.values()), sum(n for _, n in found.values())
    for name, (hits, n) in {**found, "": pooled}.items():
        each = clopper_pearson(hits, n)
        yield Finding(
            f"memorization.recall.{name}" if name else "memorization.recall",
            each.value,
            each.low,
            each.high,
            n,
            "share of planted copies",
            "higher is better",
            "copies of random training images, "
            + (f"changed by {name}" if name else f"all of {', '.join(found)} together")
            + ", flagged as synthetic images are; Clopper-Pearson interval",
            at_attempts=share_at_attempts(hits, n),
        )
