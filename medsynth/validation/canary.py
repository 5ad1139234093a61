"""What the trained model gives away of canaries: a lower bound of epsilon from one training run.

Whoever has the weights ranks all canaries by how well the model predicts noise on them, guesses
that the best known fifth was trained on and the least known fifth was not, and abstains from the
rest. How many are guessed, and how, is fixed here, before any coin is seen. The bound can refute a
privacy budget; it can't confirm one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..data.canaries import STRENGTHS, Canaries
from ..finding import Finding
from ..runtime import derive_seed
from . import Case
from .losses import Model, losses
from .one_run import one_run_bound
from .statistics import clopper_pearson

TIMES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)  # shares of the schedule at which noise is predicted
NOISES = 4  # at each
GUESSED = 0.2  # share of a strength's canaries guessed as trained on, and as many as not
DELTA = 1e-5  # where no privacy budget says one
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Tally:
    """How many of so many canaries were guessed, and how many of these rightly."""

    right: int
    guessed: int
    canaries: int

    def bound(self, *, delta: float, confidence: float = CONFIDENCE) -> float:
        """Return the largest epsilon that these guesses refute."""
        counts = (self.right, self.guessed, self.canaries)
        return one_run_bound(*counts, delta=delta, confidence=confidence)


def measure(case: Case) -> Iterable[Finding]:
    """Give `canary.epsilon`, in all and by strength, and `canary.right`; nothing where no canary
    was planted or there is no model to ask."""
    if case.canaries is None or case.model is None:
        return
    canaries = case.canaries
    scores = familiarity(case.model, canaries, seed=derive_seed(case.seed, "canary noise"))
    guesses = guess(scores, canaries.strengths)
    parts = {name: canaries.strengths == name for name in STRENGTHS}
    tallies = {name: tally(guesses[part], canaries.included[part]) for name, part in parts.items()}
    every = tally(guesses, canaries.included)
    delta = case.budget.delta if case.budget else DELTA
    yield _epsilon(case, every, tallies, delta)
    for name, found in tallies.items():
        yield _epsilon_of(name, found, delta)
    yield _right(every)


def familiarity(model: Model, canaries: Canaries, *, seed: int) -> np.ndarray:
    """Return (N,) scores: how much less than other canaries' the noise on each is mispredicted.

    0 is as well known as all on average, 1 would be no error at all. The condition is null, as it
    was in training.
    """
    times = [int(share * len(model.abar)) for share in TIMES for _ in range(NOISES)]
    found = losses(model, canaries.cohort, [{}] * len(canaries.cohort), times=times, seed=seed)
    return 1 - (found / found.mean(0)).mean(1)


def guess(scores: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """Return (N,) guesses: 1 trained on, -1 not, 0 abstained, as many of each in every strength.

    Canaries are ranked among those of their own strength: one kind may be easier to predict.
    """
    guesses = np.zeros(len(scores), np.int64)
    for name in np.unique(strengths):
        own = np.flatnonzero(strengths == name)
        order = own[np.argsort(scores[own], kind="stable")]
        count = math.floor(GUESSED * len(own))
        guesses[order[len(order) - count :]] = 1
        guesses[order[:count]] = -1
    return guesses


def tally(guesses: np.ndarray, included: np.ndarray) -> Tally:
    """Count how many guesses (N,) agree with the coins, (N,) bool."""
    right = (guesses == np.where(included, 1, -1)).sum()
    return Tally(int(right), int((guesses != 0).sum()), len(guesses))


def _epsilon(case: Case, every: Tally, tallies: dict[str, Tally], delta: float) -> Finding:
    """Take the best bound of all canaries together and of each strength, at a third of the error
    each, so that choosing it costs nothing."""
    looked = (every, *tallies.values())
    confidence = 1 - (1 - CONFIDENCE) / len(looked)
    bound = max(found.bound(delta=delta, confidence=confidence) for found in looked)
    most = max(
        Tally(found.guessed, found.guessed, found.canaries).bound(
            delta=delta, confidence=confidence
        )
        for found in looked
    )
    claimed = case.budget.epsilon if case.budget else math.inf
    return Finding(
        "canary.epsilon",
        bound,
        bound,
        bound,
        every.canaries,
        f"at delta {delta:g}",
        "lower is better",
        f"one-run audit: {int(case.canaries.included.sum())} of {every.canaries} canaries were "
        f"trained on, by coin; the best known and the least known {GUESSED:.0%} of each strength "
        f"were guessed by the error of the predicted noise at {len(TIMES)} times, {every.right} of "
        f"{every.guessed} rightly; the largest lower bound of all and each strength, "
        f"{CONFIDENCE:.0%} confidence together, so both ends are the bound; with so many guesses "
        f"it could not exceed {most:.2f}, and 0 is no proof of privacy",
        claimed if math.isfinite(claimed) else 0.0,
        "what the privacy ledger allows" if math.isfinite(claimed) else "guessing by coin",
    )


def _epsilon_of(strength: str, found: Tally, delta: float) -> Finding:
    bound = found.bound(delta=delta)
    return Finding(
        f"canary.epsilon.{strength}",
        bound,
        bound,
        bound,
        found.canaries,
        f"at delta {delta:g}",
        "lower is better",
        f"as canary.epsilon, of the {strength} canaries alone: {found.right} of {found.guessed} "
        f"guesses right, lower bound at {CONFIDENCE:.0%} confidence by itself",
        0.0,
        "guessing by coin",
    )


def _right(every: Tally) -> Finding:
    share = clopper_pearson(every.right, every.guessed)
    return Finding(
        "canary.right",
        share.value,
        share.low,
        share.high,
        every.guessed,
        "share of guesses",
        "lower is better",
        f"guesses whether a canary was trained on that are right, {every.guessed} of "
        f"{every.canaries} canaries guessed; Clopper-Pearson interval",
        0.5,
        "guessing by coin",
    )
