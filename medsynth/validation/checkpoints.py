"""When copying sets in: images drawn from weights on the way, held against who was trained on.

    flagged      nearer to one training patient than all but the rarest validation patient is: the
                 score of `nearest.Nearest`, registered, among training images alone
    the test     X of m drawn images lie under the r-th smallest of n validation patients' scores.
                 Where the weights do not copy, drawn images and new patients' come alike and every
                 order of the m + n scores is equally probable, so X is beta-binomial (m, r,
                 n + 1 - r); the p-value is P(X or more), exact with so few patients, too
    the choice   the last weights before the first at which the test rejects; the last of all
                 where it never does, the first where it does from the start

One image of each validation patient takes part, or images of one person would count as people.
The bar is a validation patient and not a number, so nothing is tuned. Held-out patients meet
nothing of this, nor does the lens, which has seen them: the gate asks them for the first time.

Source: Nelson, Technometrics 5 (1963), "Tables for a precedence life test"; Balakrishnan and Ng,
Precedence-Type Tests and Applications (2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ..cohort import Cohort
from ..domains import Domain
from ..errors import StageError
from ..protocol import Choose
from ..runtime import choose_device, derive_seed
from . import search
from .nearest import Nearest
from .statistics import one_of_each

CANDIDATES = 20
SEEN_PX = 8  # the side of the picture that a candidate may also be found by


@dataclass(frozen=True)
class Bar:
    """The score that an image must lie under to be flagged: the `rank`-th smallest of `patients`
    validation patients'."""

    score: float
    rank: int
    patients: int

    @property
    def expected(self) -> float:
        """The share of innocent images that are flagged."""
        return self.rank / (self.patients + 1)

    def p_value(self, flagged: int, drawn: int) -> float:
        """Return how probable so many flagged images, or more, are without copying."""
        counts = np.arange(flagged, drawn + 1)  # summed: 1 - the rest would round small ones to 0
        chances = stats.betabinom.pmf(counts, drawn, self.rank, self.patients + 1 - self.rank)
        return min(1.0, float(chances.sum()))

    def least(self, drawn: int, level: float) -> int:
        """Return how many of the drawn images must be flagged for the test to reject at a level;
        drawn + 1 where it can't."""
        counts = range(drawn + 1)
        return next((x for x in counts if self.p_value(x, drawn) <= level), drawn + 1)


def rank_of(patients: int, false_alarms: float) -> int:
    """Return the rank whose score flags at most a share of innocent images, 1 where none does."""
    return max(1, math.floor(false_alarms * (patients + 1)))


def check_possible(settings: Choose, *, patients: int) -> None:
    """Raise StageError where so few validation patients could never show any copying."""
    rank = rank_of(patients, settings.false_alarms)
    if patients < 1 or Bar(0.0, rank, patients).least(settings.images, settings.level) > (
        settings.images
    ):
        raise StageError(
            f"diffusion.choose can't see copying with {patients} validation patients and "
            f"{settings.images} images: raise split.validation or leave choose null"
        )


class Watch:
    """Training patients to be searched, and the bar that validation patients set."""

    def __init__(
        self, train: Cohort, validation: Cohort, domain: Domain, settings: Choose, *, seed: int
    ):
        self.order = np.random.default_rng(derive_seed(seed, "gallery")).permutation(len(train))
        self._nearest = search.finder(
            train.take(self.order),
            train.patients[self.order],
            small_picture,
            domain.symmetries,
            candidates=CANDIDATES,
            device=choose_device(),
        )
        one_each = one_a_patient(validation.patients, seed=derive_seed(seed, "validation"))
        scores = np.sort(self._nearest(validation.take(one_each)).score)
        rank = rank_of(len(scores), settings.false_alarms)
        self.bar = Bar(float(scores[rank - 1]), rank, len(scores))

    def find(self, images: np.ndarray) -> Nearest:
        """Return the nearest training image of each of (N, C, H, W) images in [-1, 1]; `image`
        counts within the training cohort."""
        found = self._nearest(images)
        return Nearest(self.order[found.image], found.patient, found.similarity, found.score)


def small_picture(images: np.ndarray) -> np.ndarray:
    """Return (N, D) small pictures of images (N, C, H, W), about their means: a lens that has seen
    nobody, for the search to choose candidates by."""
    n, c, h, w = images.shape
    tiles = images[..., : h // SEEN_PX * SEEN_PX, : w // SEEN_PX * SEEN_PX]
    small = tiles.reshape(n, c, SEEN_PX, h // SEEN_PX, SEEN_PX, w // SEEN_PX).mean((3, 5))
    flat = small.reshape(n, -1)
    return (flat - flat.mean(1, keepdims=True)).astype(np.float32)


def one_a_patient(patients: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the index of one image of each patient, drawn at random, in ascending order."""
    return np.sort(one_of_each(patients, np.random.default_rng(seed)))


def choose(copying: Sequence[bool]) -> int:
    """Return which weights are taken, given for each in order whether the test rejects: the last
    before the first that copies; 0 where they copy from the start."""
    first = next((i for i, copies in enumerate(copying) if copies), len(copying))
    return max(0, first - 1)
