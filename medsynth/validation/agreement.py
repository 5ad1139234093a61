"""Does a classifier say the same of the reconstruction as of the original?

A small network learns a label from ORIGINALS, cross-validated by patient:
each image is judged by a network that saw none of its patient's. It is then asked about the
original and about the reconstruction. What it says matters only as far as it is right on
originals: that stands beside it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..cohort import Cohort
from ..data.lessons import Classify, Lesson, Teach, show_cohorts
from ..runtime import derive_seed

FOLDS = 3
SEEN = 6000  # originals each fold's network sees, repeats counted
FEWEST = 8  # patients of a label, below which it is not learned
MOST = 12  # values of an attribute


@dataclass(frozen=True, eq=False)
class Judge:
    """An attribute's classifiers: `fold` says which of `nets` judges each image, -1 = none does,
    `truth` is the number of each image's value, `before` what was said of the original, and
    `patients` are their numbers."""

    attribute: str
    values: tuple[str, ...]
    nets: Sequence[Classify]
    fold: np.ndarray
    truth: np.ndarray
    before: np.ndarray
    patients: np.ndarray

    @property
    def right(self) -> float:
        """The share of the originals asked about of which the truth is said."""
        return float((self.before == self.truth)[self.before >= 0].mean())

    @property
    def commonest(self) -> float:
        """The share of the commonest value: what is right without looking."""
        asked = self.truth[self.before >= 0]
        return float(np.bincount(asked).max() / len(asked))

    @property
    def has_learned(self) -> bool:
        """True where it is right clearly more often than whoever does not look."""
        patients = len(np.unique(self.patients[self.before >= 0]))
        error = np.sqrt(self.commonest * (1 - self.commonest) / patients)
        return self.right > self.commonest + 2 * error

    def says(self, images: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return (n,) the values' numbers that are said of images (n, C, H, W) in [-1, 1], which
        stand at `places` of the cohort; -1 where none is asked."""
        said = np.full(len(images), -1)
        for number, net in enumerate(self.nets):
            mine = np.flatnonzero(self.fold[places] == number)
            if len(mine):
                said[mine] = net(images[mine]).argmax(1)
        return said

    def compare(self, after: np.ndarray) -> dict[str, np.ndarray]:
        """Return {name: (N,)} of what was said of the reconstructions (N,), NaN where not asked."""
        asked = (self.before >= 0) & (after >= 0)
        right_before, right_after = (said == self.truth for said in (self.before, after))
        numbers = {
            "agreement": after == self.before,
            "accuracy": right_after,
            "accuracy_lost": right_before.astype(float) - right_after,
        }
        return {name: np.where(asked, value, np.nan) for name, value in numbers.items()}


def attributes(cohort: Cohort) -> list[str]:
    """Return the labels that can be learned: 2 to 12 values, of 8 patients or more each."""
    names = sorted({name for record in cohort.records for name in record.labels})
    return [name for name in names if 2 <= len(values_of(cohort, name)) <= MOST]


def values_of(cohort: Cohort, attribute: str) -> tuple[str, ...]:
    """Return the values of a label that 8 patients or more have, sorted."""
    patients: dict[str, set[int]] = {}
    for value, patient in zip(cohort.labels(attribute), cohort.patients.tolist(), strict=True):
        patients.setdefault(value, set()).add(patient)
    return tuple(sorted(v for v, who in patients.items() if v and len(who) >= FEWEST))


def train_judge(
    cohort: Cohort,
    attribute: str,
    *,
    teach: Teach,
    seed: int,
    seen: int = SEEN,
    progress: Callable[[float], None] = lambda share: None,
) -> Judge:
    """Train the classifiers of one attribute, each by `teach`, and ask them about the originals.

    Every value weighs the same in training, however rare. Images whose value is rare or not known
    are left out.
    """
    values = values_of(cohort, attribute)
    number = {value: i for i, value in enumerate(values)}
    truth = np.array([number.get(label, -1) for label in cohort.labels(attribute)])
    rng = np.random.default_rng(derive_seed(seed, "folds", attribute))
    patients = cohort.patients
    fold = (rng.permutation(patients.max() + 1) % FOLDS)[patients]
    fold = np.where(truth >= 0, fold, -1)
    nets = []
    for one in range(FOLDS):
        chosen = np.flatnonzero((fold != one) & (fold >= 0))
        lesson = Lesson(
            show_cohorts([(cohort, chosen)]),
            truth[chosen],
            len(values),
            cohort.channels,
            seen,
            derive_seed(seed, "judge", attribute, one),
        )
        with tempfile.TemporaryDirectory() as folder:
            nets.append(teach(lesson, Path(folder)))
        progress((one + 1) / FOLDS)
    judge = Judge(attribute, values, nets, fold, truth, np.full(len(cohort), -1), patients)
    parts = [np.arange(i, min(i + 256, len(cohort))) for i in range(0, len(cohort), 256)]
    before = np.concatenate([judge.says(cohort.floats(part), part) for part in parts])
    return replace(judge, before=before)
