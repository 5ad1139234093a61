"""Can a training patient be recognised in a synthetic image, also where nothing was copied?

Another image of the same person is no copy, and still says who it is of. Whether two images are of
one person is judged by a likeness that is learnt from the patients who have several images
(`recognition`): training and held-out ones alike, and none of them by a likeness that was learnt
from them. What it can do is measured first, for an attack that knows nobody is no evidence.
Source: Packhaeuser et al., arXiv 2211.01323, who filter synthetic chest radiographs by such a
network; that it is tried on held-out patients, and the test, are as in `memorization`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..cohort import Cohort
from ..finding import Finding
from ..runtime import derive_seed
from . import Case, recognition
from .attack import check
from .attribution import attribution_test, rank
from .division import auc_interval
from .recognition import FOLDS, Eye, Match
from .search import in_batches
from .statistics import (
    Estimate,
    at_attempts,
    clopper_pearson,
    conformal_threshold,
    share_at_attempts,
)
from .windows import views

FEWEST = 2 * FOLDS  # patients with several images
PAIRED = 3000  # images of a fold whose pairs are looked at
CHANCE = 0.5
LIKENESS = (
    f"linear discriminant of grey images at {recognition.SIDE_PX} px, learnt from both sides "
    f"alike, {FOLDS}-fold, nobody judged by what was learnt from them"
)


@dataclass(frozen=True)
class People:
    """All real images, of each picture one, in random order: rows (V, N, D), V ways of showing an
    image, the first as it is; whose they are (N,); which are of training patients (N,) bool; and
    each patient's fold (P,)."""

    rows: np.ndarray
    patients: np.ndarray
    is_train: np.ndarray
    folds: np.ndarray

    @property
    def patient_is_train(self) -> np.ndarray:
        """(P,) bool by patient number."""
        return np.bincount(self.patients, self.is_train, len(self.folds)) > 0

    @property
    def several(self) -> np.ndarray:
        """(P,) bool: has several images."""
        return np.bincount(self.patients, minlength=len(self.folds)) > 1


@dataclass(frozen=True)
class Recognised:
    """What the attack found.

    `ranks` (P',): how the pairs of each patient with several images rank among pairs of different
    people. `held_out`: the scores of held-out images among training patients, `threshold` and
    `rate` what share of them passes which score. `scores` (Q,): the same of synthetic images;
    `nearest` (Q,): whom they resemble most of all real people, and how much. `betrayed` (P'',):
    of each training patient with several images the share that another one of theirs betrays.
    """

    ranks: np.ndarray
    held_out: np.ndarray
    threshold: float
    rate: float
    scores: np.ndarray
    nearest: Match
    betrayed: np.ndarray


def measure(case: Case) -> Iterable[Finding]:
    """Measure `identity.power`, `identity.recall`, `identity.match_rate` and `identity.p_value`.

    Where too few patients have several images nothing is known: NaN, in [0, 1].
    Raises DataError where there are fewer than two patients a side, or one stands on both.
    """
    check(case)
    people = gather(case)
    found = attack(case, people) if people.several.sum() >= FEWEST else None
    told = power(found)
    yield told
    yield recall(found)
    yield match_rate(case, people, found)
    yield p_value(case, people, found, told.low > CHANCE)


def gather(case: Case) -> People:
    """Pool training and held-out images in a random order that no label follows."""
    rng = np.random.default_rng(derive_seed(case.seed, "people"))
    sides = [_one_of_each(side) for side in (case.train, case.holdout)]
    rows = np.concatenate([_ways(case, side) for side in sides], 1)
    numbers = [np.unique(side.patients, return_inverse=True)[1] for side in sides]
    patients = np.concatenate([numbers[0], numbers[1] + numbers[0].max() + 1])
    order = rng.permutation(len(patients))
    patients = rng.permutation(patients.max() + 1)[patients[order]]
    folds = recognition.divide(patients, rng)
    return People(rows[:, order], patients, order < len(sides[0]), folds)


def attack(case: Case, people: People) -> Recognised:
    """Recognise held-out, synthetic and training images, each by what was learnt of others.

    The people of a fold were unknown to the eye that judges them, as whoever a synthetic image
    shows may be; which fold's eye judges a synthetic image is drawn.
    """
    rng = np.random.default_rng(derive_seed(case.seed, "identity"))
    fold_of = people.folds[people.patients]
    eyes = [Eye.learnt(people.rows[0], people.patients, fold_of != fold) for fold in range(FOLDS)]
    train, everyone = people.is_train, np.ones_like(people.is_train)
    held_out = np.concatenate(
        [
            eye.find(people.rows[:, (fold_of == fold) & ~train], train).score
            for fold, eye in enumerate(eyes)
        ]
    )
    threshold, rate = conformal_threshold(held_out, case.settings.false_alarms)
    rows, judges = _ways(case, case.synthetic), rng.permutation(len(case.synthetic)) % FOLDS
    return Recognised(
        np.concatenate([_pairs(people, eye, fold_of == f, rng) for f, eye in enumerate(eyes)]),
        held_out,
        threshold,
        rate,
        _in_turn(eyes, rows, judges, train).score,
        _in_turn(eyes, rows, judges, everyone),
        np.concatenate([_betrayed(people, eye, f, threshold) for f, eye in enumerate(eyes)]),
    )


def power(found: Recognised | None) -> Finding:
    """Say how well two images of one person are told from those of two people."""
    ranks = np.zeros(0) if found is None else found.ranks
    n = len(ranks)
    area = auc_interval(float(ranks.mean()), n, n) if n else Estimate(math.nan, 0.0, 1.0)
    return Finding(
        "identity.power",
        area.value,
        area.low,
        area.high,
        n,
        "probability",
        "higher is better",
        "area under the curve of pairs of one patient against pairs of two, each patient weighing "
        f"the same; {LIKENESS}; Newcombe's interval for as many patients{_say_none(found)}",
        CHANCE,
        "a likeness that knows nobody",
    )


def recall(found: Recognised | None) -> Finding:
    """Say what share of training patients another real image of theirs would betray."""
    shares = np.zeros(0) if found is None else found.betrayed
    hits, n = float(shares.sum()), len(shares)
    each = clopper_pearson(hits, n)
    return Finding(
        "identity.recall",
        each.value,
        each.low,
        each.high,
        n,
        "share of training patients",
        "higher is better",
        "other images of training patients, looked up as synthetic images are, that pass the "
        "threshold and resemble their own patient most; each patient weighing the same; "
        f"Clopper-Pearson interval for as many patients{_say_none(found)}",
        None if found is None else found.rate,
        "" if found is None else "images of people who are not among the training patients",
        share_at_attempts(hits, n),
    )


def match_rate(case: Case, people: People, found: Recognised | None) -> Finding:
    """Estimate the share of synthetic images in which a training patient is recognised.

    As `memorization.copy_rate`: the high end is the upper end of the share over the lower end of
    the attack's recall, so that an attack which knows few people bounds little; false alarms are
    taken off the value and the low end only.
    """
    n = len(case.synthetic)
    value, reference, ends = math.nan, None, at_attempts(lambda level: Estimate(math.nan, 0.0, 1.0))
    if found is not None:
        passed = found.scores <= found.threshold
        hits = int((passed & people.patient_is_train[found.nearest.patient]).sum())
        innocent = int((found.held_out <= found.threshold).sum()), len(found.held_out)
        reference = innocent[0] / innocent[1]
        value = max(0.0, hits / n - reference)

        def bound(level: float) -> Estimate:
            each = (1 + level) / 2  # either part of an end may fail
            share = clopper_pearson(hits, n, level=each)
            least = clopper_pearson(found.betrayed.sum(), len(found.betrayed), level=each).low
            high = min(1.0, share.high / least) if least > 0 else 1.0
            low = max(0.0, share.low - clopper_pearson(*innocent, level=each).high)
            return Estimate(value, low, max(high, value))

        ends = at_attempts(bound)
    return Finding(
        "identity.match_rate",
        value,
        *ends[0],
        n,
        "share of synthetic images",
        "lower is better",
        "recognised as one training patient rather than the next at a threshold that held-out "
        f"images pass at {'no rate' if found is None else f'{found.rate:.2g}'}, and no held-out "
        "patient more so; less the held-out share; high end Clopper-Pearson over the recall; "
        f"copies are matches, too{_say_none(found)}",
        reference,
        "" if reference is None else "the same threshold on held-out patients' images",
        ends,
    )


def p_value(case: Case, people: People, found: Recognised | None, able: bool) -> Finding:
    """Test whether the images that are most like one person are most like training patients by
    chance; NaN where the attack is not `able` to tell people apart."""
    rng = np.random.default_rng(derive_seed(case.seed, "permutations of identities"))
    p, why = math.nan, _say_none(found)
    if found is not None and able:
        ranking = rank(found.nearest.patient, found.nearest.score, rng)
        p = attribution_test([ranking], people.patient_is_train, case.settings.permutations, rng)
    elif found is not None:
        why = "; no evidence: the attack can't tell people apart"
    return Finding(
        "identity.p_value",
        p,
        p,
        p,
        len(case.synthetic),
        "probability",
        "higher is better",
        f"patient-permutation test, {case.settings.permutations} permutations, as "
        f"memorization.p_value, on whom each image resembles; {LIKENESS}; exact, so both ends "
        f"are the p-value{why}",
    )


def _say_none(found: Recognised | None) -> str:
    few = f"; no evidence: fewer than {FEWEST} patients have two images that differ"
    return few if found is None else ""


def _pairs(people: People, eye: Eye, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    some = rng.permutation(np.flatnonzero(inside))[:PAIRED]
    return recognition.pair_ranks(eye.gallery[some], people.patients[some])


def _betrayed(people: People, eye: Eye, fold: int, threshold: float) -> np.ndarray:
    """Return the share of each training patient's images that another one of theirs betrays."""
    patients, train = people.patients, people.is_train
    chosen = people.several[patients] & train & (people.folds[patients] == fold)
    own = np.flatnonzero(chosen)
    if not len(own):
        return np.zeros(0)
    queries = people.rows[:, own]
    near = eye.find(queries, train, but=own)
    nearest = eye.find(queries, np.ones_like(train), but=own)
    hit = (near.score <= threshold) & (nearest.patient == patients[own])
    numbers = np.unique(patients[own], return_inverse=True)[1]
    return np.bincount(numbers, hit) / np.bincount(numbers)


def _in_turn(eyes: list[Eye], rows: np.ndarray, judges: np.ndarray, part: np.ndarray) -> Match:
    """Look up each of the rows (V, Q, D) among a part of the real images, by its own eye."""
    found = Match(np.empty(len(judges), np.int64), np.empty(len(judges)))
    for number, eye in enumerate(eyes):
        mine = judges == number
        some = eye.find(rows[:, mine], part)
        found.patient[mine], found.score[mine] = some.patient, some.score
    return found


def _ways(case: Case, cohort: Cohort) -> np.ndarray:
    """(V, N, D): what is seen of images, in every way in which the domain's images may come."""

    def seen(images: np.ndarray) -> np.ndarray:
        ways = views(images, case.domain.augmentations)
        return np.stack([recognition.small(way) for way in ways], 1)

    return in_batches(seen, cohort).swapaxes(0, 1)


def _one_of_each(cohort: Cohort) -> Cohort:
    """Leave of linked images, which show one picture, the first: a copy is no other image."""
    return cohort.take(np.sort(np.unique(cohort.pictures, return_index=True)[1]))
