"""Are there training patients in the synthetic images?

An attack on the training patients, the same attack on held-out patients, and known copies to show
what the attack can see. Three questions, three answers of different kinds:

- the cohort: do the most suspicious synthetic images lie nearest to training patients more often
  than chance? `p_value`, exact by construction, no threshold.
- the image: which synthetic images are nearer to one training patient than all but the rarest
  held-out image is? `copy_rate`, `exposed_patients`, with a threshold from held-out patients.
- the attack: how many known copies would have been flagged? `recall`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import derive_seed
from . import Case, evidence
from .attack import Attack, Flags, check, run_attack
from .attribution import attribution_test, rank
from .statistics import Estimate, bootstrap_mean, clopper_pearson

EXACT = 0.999  # registered correlation from which an image is called the same
SPACES = "registered structure and lens features"


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


def p_value(case: Case, attack: Attack) -> Finding:
    """Test whether the most suspicious images lie nearest to training patients by chance."""
    rng = np.random.default_rng(derive_seed(case.seed, "permutations"))
    found = attack.synthetic["everyone"]
    rankings = [rank(space.patient, space.score, rng) for space in found.spaces.values()]
    p = attribution_test(rankings, attack.pool.patient_is_train, case.settings.permutations, rng)
    return Finding(
        "memorization.p_value",
        p,
        p,
        p,
        len(found.registered.score),
        "probability",
        "higher is better",
        f"patient-permutation test, {case.settings.permutations} permutations, largest "
        f"standardised count over cut-offs and sum of weights in {SPACES}; exact, so both ends "
        "are the p-value",
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
