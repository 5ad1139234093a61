"""Patients into train, validation and holdout, at random, before anything is trained.

The gate's test permutes which patients were trained on and which were held out; it is exact only
because that was decided by chance alone. So the split follows no label and no order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..protocol import Split
from ..runtime import derive_seed

PARTS = ("train", "validation", "holdout")
EXCHANGED = PARTS[::-1]
LEVELS = (0.05, 0.01, 0.001)
FIRST = 0.025  # what the gate's first attempt has of a level of 5 %
COPIES = (5, 10, 20)


def split_patients(cohort: Cohort, settings: Split, seed: int) -> np.ndarray:
    """Return (N,) words of PARTS, one an image; a patient and linked duplicates are never divided.

    Shares are shares of patients, rounded. Neither the order of the records nor their labels
    change who goes where. Two runs that differ in `settings.half` alone exchange training and
    held-out patients. Raises DataError where a part would have no patient.
    """
    groups = cohort.patients
    counts = _part_sizes(int(groups.max(initial=-1)) + 1, settings)
    order = np.random.default_rng(derive_seed(seed, "split")).permutation(sum(counts))
    parts = EXCHANGED if settings.half == "second" else PARTS
    part_of_rank = np.repeat(parts, counts)[np.argsort(order)]
    return part_of_rank[_ranks(cohort)[groups]]


def _ranks(cohort: Cohort) -> np.ndarray:
    """Rank the patients by their smallest record id: (patients,) int64."""
    first: dict[int, str] = {}
    for group, record in zip(cohort.patients.tolist(), cohort.records, strict=True):
        first[group] = min(record.id, first.get(group, record.id))
    ranks = np.empty(len(first), np.int64)
    ranks[sorted(first, key=first.__getitem__)] = np.arange(len(first))
    return ranks


def _part_sizes(patients: int, settings: Split) -> tuple[int, int, int]:
    validation = math.floor(settings.validation * patients + 0.5)
    holdout = math.floor(settings.holdout * patients + 0.5)
    if settings.half is not None:
        holdout = (patients - validation) // 2
    sizes = (patients - validation - holdout, validation, holdout)
    empty = [part for part, size in zip(PARTS, sizes, strict=True) if size < 1]
    if empty:
        raise DataError(
            f"the split of {patients} patients leaves none for {' and '.join(empty)}: every part "
            f"needs one. Change split.validation ({settings.validation}) and split.holdout "
            f"({settings.holdout}), or add patients"
        )
    return sizes


@dataclass(frozen=True)
class Foresight:
    """What the gate will be able to see, known before anything is trained.

    `train_share` is the share of the training patients among those compared: how often the nearest
    patient is a training patient by chance. `copies` maps a level of significance to the smallest
    number of copied images, each of another patient, that is significant when all their nearest
    patients are training patients; None where no number is.
    """

    train_patients: int
    holdout_patients: int
    train_share: float
    copies: dict[str, int | None]
    sentence: str


def foresee(train_patients: int, holdout_patients: int) -> Foresight:
    """Say how many copies the permutation test needs, at best, to see them.

    Exact (hypergeometric): k different patients drawn without replacement are all training
    patients with probability prod (n_T - i) / (n_T + n_H - i), which is t^k for large numbers.
    Raises DataError where a side is empty.
    """
    if min(train_patients, holdout_patients) < 1:
        raise DataError("foresight needs at least one training and one held-out patient")
    copies = {f"{p:g}": _smallest_count(train_patients, holdout_patients, p) for p in LEVELS}
    share = train_patients / (train_patients + holdout_patients)
    sentence = _foresight_sentence(train_patients, holdout_patients, copies)
    return Foresight(train_patients, holdout_patients, share, copies, sentence)


def _smallest_count(train: int, holdout: int, level: float) -> int | None:
    chance = 1.0
    for k in range(train):
        chance *= (train - k) / (train + holdout - k)
        if chance <= level:
            return k + 1
    return None


def _foresight_sentence(train: int, holdout: int, copies: dict[str, int | None]) -> str:
    text = f"With {train} training and {holdout} held-out patients "
    seen = [(level, k) for level, k in copies.items() if k is not None]
    if not seen:
        return text + "no number of copies can be told from chance: hold out more patients."
    needs = ", ".join(f"{k} at {float(level) * 100:g} %" for level, k in seen)
    text += f"the gate can see copies of at least so many different patients: {needs}"
    unseen = [f"{float(level) * 100:g} %" for level, k in copies.items() if k is None]
    return text + (f"; at {' and '.join(unseen)} none." if unseen else ".")


def propose_holdout(patients: int, copies: int, *, validation: float) -> float | None:
    """Return the smallest split.holdout, in steps of 0.01, with which so many copies, each of
    another patient, can be significant at the gate's first attempt; None where no share is enough.
    """
    for percent in range(1, 95):
        held_out = math.floor(percent / 100 * patients + 0.5)
        train = patients - math.floor(validation * patients + 0.5) - held_out
        if validation + percent / 100 >= 0.95 or train < 1:
            return None
        if held_out and (_smallest_count(train, held_out, FIRST) or math.inf) <= copies:
            return percent / 100
    return None


def say_holdouts(patients: int, *, validation: float, copies: Sequence[int] = COPIES) -> str:
    """Say in a sentence how large split.holdout must be to see so many copies."""
    shares = {k: propose_holdout(patients, k, validation=validation) for k in copies}
    seen = [f"{k} from {share:g} on" for k, share in shares.items() if share is not None]
    unseen = [str(k) for k, share in shares.items() if share is None]
    text = f"Copies of so many of {patients} patients can be seen at best, by split.holdout: "
    text += ", ".join(seen) if seen else "none"
    few = f"; {' or '.join(unseen)} never, for want of patients" if unseen else ""
    return text + few + ". The test looks in several ways, and needs two or three more."


def say_halves(patients: int, *, validation: float) -> str:
    """Say in a sentence what two runs on exchanged halves could see."""
    left = patients - math.floor(validation * patients + 0.5)
    copies = _smallest_count(left - left // 2, left // 2, FIRST) if left > 1 else None
    if copies is None:
        return f"Two runs on exchanged halves of {patients} patients could see no copies either."
    return (
        f"Two runs on exchanged halves (medsynth run --halves) would train on {left // 2} patients "
        f"each, on everybody once, and see copies of {copies} at best."
    )


HALVES = (
    "This is the {this} of two runs on exchanged halves: the patients it holds out are those whom "
    "the {other} is trained on. What is found here is about this run's images alone."
)


def describe(
    cohort: Cohort,
    parts: np.ndarray,
    *,
    caveats: Sequence[str] = (),
    half: str | None = None,
) -> dict[str, Any]:
    """Return what split.json says: counts, what the gate can see, and what may be claimed.

    `caveats` are what the data set does not know, as intake.json has them; the claim allows for
    them, and the gate says them after it. `half` is the protocol's `split.half`.
    """
    counts = {part: _count(cohort, np.flatnonzero(parts == part)) for part in PARTS}
    foresight = foresee(counts["train"]["patients"], counts["holdout"]["patients"])
    unknown = sum(record.patient == "" for record in cohort.records)
    return {
        "parts": counts,
        "foresight": asdict(foresight),
        "patients_known": unknown == 0,
        "images_of_unknown_patients": unknown,
        "claim": _claim(len(cohort), unknown, limited=bool(caveats)),
        "caveats": list(caveats),
        "half": _say_half(half),
    }


def _say_half(half: str | None) -> str:
    if half is None:
        return ""
    return HALVES.format(this=half, other="second" if half == "first" else "first")


def _count(cohort: Cohort, indices: np.ndarray) -> dict[str, Any]:
    records = [cohort.records[i] for i in indices]
    attributes = sorted({name for record in records for name in record.labels})
    labels = {
        name: dict(sorted(Counter(r.labels[name] for r in records if name in r.labels).items()))
        for name in attributes
    }
    patients = len(set(cohort.patients[indices].tolist()))
    return {"patients": patients, "images": len(records), "labels": labels}


def _claim(images: int, unknown: int, *, limited: bool) -> str:
    if unknown == 0:
        about = "what is found about leakage is about patients"
        limits = ", as far as the data set tells them apart" if limited else ""
        return (
            f"Every image's patient is known, and no patient stands in two parts: {about}{limits}."
        )
    of_some = "Several images of one person may stand on both sides, so copies can be missed or "
    of_some += "mistaken: what can be said is about images, not about people."
    if unknown == images:
        return f"No patient is known: each file counts as a patient of its own. {of_some}"
    return (
        f"The patient of {unknown} of {images} images is not known: each of their files counts "
        f"as a patient of its own. {of_some}"
    )
