"""Would another image of a training patient pass for a copy?

It is none: a generator that makes one has not copied, but shows who was trained on, which is for
`identity` to find. Here other real images of training patients are looked up as synthetic ones
are, so that it is known what a flag says. Images that were taken an hour apart may differ less
than an image and its bent copy, and no measure of likeness can tell these two apart.
"""

from __future__ import annotations

import numpy as np

from ..finding import Finding
from ..runtime import choose_device, derive_seed
from . import Case, search
from .attack import Attack
from .statistics import clopper_pearson, one_of_each, share_at_attempts


def measure(case: Case, attack: Attack) -> Finding:
    """Measure `memorization.same_patient`; NaN in [0, 1] where nobody has two pictures.

    One image each of at most `planted` training patients is looked up among all others.
    """
    pictures = case.train.pictures
    chosen = choose(case, pictures)
    hits = sum(_passes(case, attack, image, pictures == pictures[image]) for image in chosen)
    n = len(chosen)
    share = clopper_pearson(hits, n)
    return Finding(
        "memorization.same_patient",
        share.value,
        share.low,
        share.high,
        n,
        "share of other images of training patients",
        "neither",
        "real images of training patients who have several, one each, flagged as copies where they "
        "themselves are left out; Clopper-Pearson interval"
        + ("" if n else "; no training patient has two images that differ"),
        attack.rate,
        "images of people who are not among the training patients",
        share_at_attempts(hits, n),
    )


def choose(case: Case, pictures: np.ndarray) -> np.ndarray:
    """Choose training images, at most one a patient, whose patient has another picture."""
    rng = np.random.default_rng(derive_seed(case.seed, "same patient"))
    patients = case.train.patients
    first = one_of_each(patients, rng)
    whose = patients[np.unique(pictures, return_index=True)[1]]
    several = np.bincount(whose, minlength=patients.max() + 1) > 1
    return rng.permutation(first[several[patients[first]]])[: case.settings.planted]


def _passes(case: Case, attack: Attack, image: int, same: np.ndarray) -> bool:
    """Say whether a training image is flagged where the same picture, (N,) bool, is left out."""
    pool = attack.pool
    out = pool.is_train & same[np.where(pool.is_train, pool.order, 0)]
    seen = search.look(
        case.train.floats(np.array([image])),
        case.lens,
        case.domain.symmetries,
        device=choose_device(),
    )
    among = {name: part & ~out for name, part in pool.parts.items()}
    found = search.search(seen, pool.gallery, among, candidates=case.settings.candidates)
    return bool(attack.flags(found).copied[0])
