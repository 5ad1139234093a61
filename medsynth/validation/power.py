"""How few copies would this very audit see? The proof of the cohort's test, on the data it judges.

Copies of training images were planted and looked up once, by the attack. Here few of them take
the place of random synthetic images, and the test is made again: no image is looked up twice.
The smallest share of copies that the test then catches with 95 % probability is the finding.

What the copies are mixed into must hold none of its own, else a cohort that leaks would seem to
be watched by a keen test. So the synthetic images keep their scores and who of them shares a
nearest patient with whom, which is what makes this generator's copies easy or hard to tell, but
the patients are drawn anew for each mix. That is the null of the test: patients were divided by
chance, so images that know nobody fall on any patients alike. Copies that the generator did make
then are suspicious images without cause, which hide the planted ones: such a cohort's smallest
share comes out too large rather than too small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..finding import Finding
from ..runtime import derive_seed
from . import Case
from .attack import Attack
from .attribution import Ranking, rank, standardise, weights
from .nearest import Found
from .statistics import ATTEMPTS, Estimate, clopper_pearson

NAME = "memorization.smallest_rate"
SURE = 0.95  # a share of copies is seen if it is caught with this probability
MIXES = 150  # for each number of copies that may be enough
GLANCE = 40  # to see that a number is not enough
DRAWN = 50  # divisions a mix; those of all mixes together tell what is rare
STEP = 1.25  # from one number of copies to the next


@dataclass(frozen=True)
class Rows:
    """The nearest patient and the score of each image, (S, N) for S spaces."""

    patients: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Rung:
    """The p-values of all mixes with so many copies, (M,)."""

    copies: int
    p: np.ndarray

    def caught(self, level: float, *, confidence: float = 0.95) -> Estimate:
        """Return the probability that the test rejects, p < level, with its exact interval."""
        return clopper_pearson(int((self.p < level).sum()), len(self.p), level=confidence)


def measure(
    case: Case, attack: Attack, spaces: Sequence[str], counted: Sequence[str]
) -> Iterable[Finding]:
    """Measure the smallest share of copies that is caught, for each change and for the worst of
    the changes that are `counted`.

    `spaces` are those that take part in the test; where there is none, nothing is caught.
    """
    climbs = climb_all(case, attack, spaces)
    each = {change: finding(change, rungs, case) for change, rungs in climbs.items()}
    yield from each.values()
    yield worst([each[change] for change in counted])


def climb_all(case: Case, attack: Attack, spaces: Sequence[str]) -> dict[str, list[Rung]]:
    """Return {change: its rungs}; without a space that is believed there are none."""
    if not spaces:
        return {change: [] for change in attack.copies}
    base = rows(attack.synthetic["everyone"], spaces)
    is_train = attack.pool.patient_is_train
    climbs = {}
    for change, copies in attack.copies.items():
        rng = np.random.default_rng(derive_seed(case.seed, "power", change))
        planted = rows(copies["everyone"], spaces)
        climbs[change] = climb(
            base, planted, is_train, case.settings.permutations, rng, level=case.level
        )
        case.progress("smallest share of copies", len(climbs) / len(attack.copies))
    return climbs


def finding(change: str, rungs: Sequence[Rung], case: Case) -> Finding:
    """Report from how many copies on a change is caught; 1.0 where no number that was tried is.

    The ends are the first numbers that the mixes do not rule out, and that they prove. They are
    taken for every attempt at the level that it has, of which few permutations can't tell all.
    """
    images = len(case.synthetic)

    def first(holds: Callable[[Rung], bool], *, otherwise: float = 1.0) -> float:
        return next((rung.copies / images for rung in rungs if holds(rung)), otherwise)

    def end(attempt: int) -> float:
        return first(lambda rung: is_sure(rung, case.level, attempt))

    level, told = case.level / 2, attempts_told(case.level, case.settings.permutations)
    tried = rungs[-1].copies / images if rungs else 0.0
    low = first(lambda rung: rung.caught(level).high >= SURE, otherwise=tried)
    value = first(lambda rung: rung.caught(level).value >= SURE)
    high = max(end(1), value)
    ends = [max(high, end(i)) if i in told else 1.0 for i in range(1, ATTEMPTS + 1)]
    return Finding(
        f"{NAME}.{change}",
        value,
        low,
        high,
        images,
        "share of synthetic images",
        "lower is better",
        _say(change, value, rungs, images, level),
        at_attempts=tuple((low, each) for each in ends),
        curve=tuple((rung.copies / images, rung.caught(level).value) for rung in rungs),
    )


def worst(each: Sequence[Finding]) -> Finding:
    """Return the finding of the change that is caught last. Its high ends are the highest of all
    changes: they lie at or above that of the truly worst, whichever that is."""
    last = max(each, key=lambda found: (found.value, found.high))
    highest = [max(found.at_attempts[i][1] for found in each) for i in range(ATTEMPTS)]
    return replace(
        last,
        name=NAME,
        high=max(found.high for found in each),
        at_attempts=tuple((last.low, high) for high in highest),
        method=f"the worst of {len(each)} changes, {last.name.removeprefix(NAME + '.')}: "
        f"{last.method}",
    )


def _say(change: str, value: float, rungs: Sequence[Rung], images: int, level: float) -> str:
    if not rungs:
        return "no space is believed, so there is no test and nothing is caught"
    most = rungs[-1].copies
    seen = f"{round(value * images)} of {images} images are enough"
    return (
        f"copies of random training images, changed by {change}, in the place of random synthetic "
        f"images whose nearest patients are drawn anew: from what share on the test rejects "
        f"(p below {level:.3g}) in {SURE:.0%} of mixes; "
        f"{seen if value < 1 else f'not even {most} of {images} images are, the most tried'}; "
        f"interval from {len(rungs[-1].p)} mixes (Clopper-Pearson), in steps of a quarter"
    )


def rows(found: Found, spaces: Sequence[str]) -> Rows:
    """Return what a search found in some spaces."""
    nearest = [found.spaces[name] for name in spaces]
    return Rows(np.stack([x.patient for x in nearest]), np.stack([x.score for x in nearest]))


# Simulated mixes --------------------------------------------------------------------------------


def ladder(limit: int) -> list[int]:
    """Return the numbers of copies that are tried, each by a quarter larger, from 1 to `limit`."""
    found = [1]
    while found[-1] < limit:
        found.append(min(limit, max(found[-1] + 1, round(found[-1] * STEP))))
    return found


def climb(
    base: Rows,
    copies: Rows,
    is_train: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
    *,
    level: float = 0.05,
) -> list[Rung]:
    """Mix in more and more copies until they are caught at every attempt that can be told of.

    A number that is not enough shows after a few mixes; one that may be enough is looked at anew
    with more, so that no number is taken for having been lucky at first.
    """
    rungs = []
    for count in ladder(min(base.scores.shape[1], copies.scores.shape[1])):
        p = p_values(base, copies, count, is_train, permutations, rng, mixes=GLANCE)
        if Rung(count, p).caught(level / 2).high >= SURE:
            p = p_values(base, copies, count, is_train, permutations, rng, mixes=MIXES)
        rungs.append(Rung(count, p))
        if all(is_sure(rungs[-1], level, i) for i in attempts_told(level, permutations)):
            break
    return rungs


def is_sure(rung: Rung, level: float, attempt: int) -> bool:
    """True if so many copies are caught with 95 % probability at an attempt, for all that the
    number of mixes leaves open: that is wrong with a probability of at most 0.05 / 2^attempt."""
    confidence = 1 - 0.1 / 2**attempt
    return rung.caught(level / 2**attempt, confidence=confidence).low >= SURE


def attempts_told(level: float, permutations: int) -> list[int]:
    """Return the attempts at which the test can reject and so many mixes can tell how often; the
    first is always looked at."""
    every = range(1, ATTEMPTS + 1)
    smallest = 1 / (permutations + 1)
    all_caught = (clopper_pearson(MIXES, MIXES, level=1 - 0.1 / 2**i).low for i in every)
    return [
        i
        for i, low in zip(every, all_caught, strict=True)
        if i == 1 or (low >= SURE and level / 2**i >= max(2 * smallest, 4 / (MIXES * DRAWN)))
    ]


def p_values(
    base: Rows,
    copies: Rows,
    count: int,
    is_train: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
    *,
    mixes: int,
) -> np.ndarray:
    """Return (mixes,): the p-values that the audit's test would give where `count` of its images
    are copies.

    The test would draw thousands of divisions for each mix. Here a mix has fifty, and what is
    rare is read from those of all mixes together: all have as many copies, and their statistics
    are standardised by their own moments, so their null distributions differ little. Then the
    permutations that the test would draw are drawn as what they are, a binomial count.
    """
    drawn = rng.permuted(np.tile(is_train, (DRAWN, 1)), axis=1)
    found = []
    for _ in range(mixes):
        rankings = mix(base, copies, count, len(is_train), rng)
        statistics = standardise(weights(rankings, len(is_train)).values(), is_train)
        divisions = drawn[:, rng.permutation(len(is_train))]  # again uniform, and cheap
        found.append(statistics.largest(np.concatenate([is_train[None], divisions])))
    largest = np.stack(found)
    observed, null = largest[:, 0], largest[:, 1:].reshape(-1, largest.shape[2])
    own, others = (_rarest(values, null) for values in (observed, null))
    rarer = np.searchsorted(np.sort(others), own, side="right")
    hits = rng.binomial(permutations, (1 + rarer) / (1 + len(others)))
    return (1 + hits) / (1 + permutations)


def mix(
    base: Rows, copies: Rows, count: int, patients: int, rng: np.random.Generator
) -> list[Ranking]:
    """Put `count` random copies in the place of random images, whose patients are drawn anew.

    Copies are of random training images, none taken twice; two may be of the same patient. Of as
    many copies as there are every mix has the same, so that what was chance in planting them shows
    in all: with few planted copies and many in a mix, their number and not that of mixes counts.
    """
    kept = rng.permutation(base.scores.shape[1])[count:]
    chosen = rng.permutation(copies.scores.shape[1])[:count]
    anew = rng.permutation(patients)
    return [
        rank(
            np.concatenate([anew[base.patients[space, kept]], copies.patients[space, chosen]]),
            np.concatenate([base.scores[space, kept], copies.scores[space, chosen]]),
            rng,
        )
        for space in range(len(base.scores))
    ]


def _rarest(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return (N,): the smaller of the families' places of (N, F) values among those of `null`."""
    places = [
        1 - np.searchsorted(np.sort(null[:, i]), values[:, i], side="left") / len(null)
        for i in range(null.shape[1])
    ]
    return np.min(places, axis=0)
