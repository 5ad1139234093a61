"""Small cohorts with known truth: phantoms of patients who were, or were not, copied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from medsynth.cohort import Cohort, Record
from medsynth.data import phantoms
from medsynth.domains import domain
from medsynth.protocol import Validate
from medsynth.validation import Case
from medsynth.validation.losses import Model

SIZE_PX = 32
SETTINGS = Validate(permutations=199, bootstrap=100, candidates=8, planted=10, false_alarms=0.05)


@cache
def pixels(name: str, patient: int, image: int) -> np.ndarray:
    return phantoms.draw(name, patient, image, 5, SIZE_PX)[0]


def cohort(
    patients: range, *, images: int = 1, origin: str = "real", name: str = "fundus"
) -> Cohort:
    """Draw a cohort of phantoms; patients with different numbers are different people."""
    keys = [(patient, image) for patient in patients for image in range(images)]
    records = tuple(
        Record(f"{origin}-{p}-{i}", origin, "" if origin == "synthetic" else f"P{p}")
        for p, i in keys
    )
    return Cohort(name, records, np.stack([pixels(name, p, i) for p, i in keys]))


def masked(plain: Cohort) -> Cohort:
    """Give a cohort of phantoms the masks that belong to its images."""
    keys = [record.id.rsplit("-", 2)[1:] for record in plain.records]
    masks = [phantoms.draw_mask(plain.domain, int(p), int(i), 5, SIZE_PX) for p, i in keys]
    return replace(plain, masks=np.stack(masks))


def stand_in_lens(channels: int = 3) -> Callable[[np.ndarray], np.ndarray]:
    """A fixed random network that has seen nobody."""
    weights = np.random.default_rng(0).standard_normal((channels * 64, 16)) / 8

    def lens(images: np.ndarray) -> np.ndarray:
        n, c, h, _ = images.shape
        small = images.reshape(n, c, 8, h // 8, 8, h // 8).mean((3, 5)).reshape(n, -1)
        return np.tanh(small @ weights).astype(np.float32)

    return lens


def blind() -> Model:
    """A model that has learned nothing: it never sees any noise."""
    return Model(np.copy, lambda x_t, time, labels: 0 * x_t, np.linspace(0.99, 0.01, 100))


def make_case(private: Path, train: Cohort, holdout: Cohort, synthetic: Cohort, **changes) -> Case:
    values = {
        "settings": SETTINGS,
        "domain": domain(train.domain),
        "lens": stand_in_lens(train.channels),
        "reconstruct": None,
        "seed": 3,
        **changes,
    }
    return Case(train=train, holdout=holdout, synthetic=synthetic, private=private, **values)
