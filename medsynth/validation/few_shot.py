"""A few real images of each class: do their variations help a classifier, beside what is usual?

The same few images are learned from as they are (`plain`), flipped within the domain's symmetry and
through RandAugment (`classical`), with children of each standing in for it (`children`, DA-Fusion),
and with both at once (`both`). The children's generator has learned from all training patients: the
table says what it adds for somebody who has it, not what could be had from the few images alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..cohort import Cohort
from ..data.lessons import Lesson, Show
from ..finding import Finding
from .resampling import Resampled
from .schooling import CHANGED, School
from .utility import difference, finding

ARMS = {
    "plain": "as they are",
    "classical": CHANGED,
    "children": "with children standing in for them",
    "both": f"with children standing in for them, {CHANGED}",
}
BESIDE = {"classical": "plain", "children": "plain", "both": "classical"}

StandIn = Callable[[Cohort, np.ndarray, int], Show]
"""(cohort, indices, seed) -> shows these images, or now and then a child of each."""


def compare(school: School, stand_in: StandIn) -> Iterator[Finding]:
    """Measure every arm at every number of shots that the training images allow, and the gains."""
    for shots in school.settings.shots:
        if all(len(mine) >= shots for mine in school.by_class(0)):
            yield from _one_row(school, shots, stand_in)


def parents(school: School) -> np.ndarray:
    """Return which training images any of the trainings sees: those that need children."""
    most = max(school.settings.shots)
    chosen = [school.shots(most, number) for number in range(school.settings.trainings)]
    return np.unique(np.concatenate(chosen))


def _one_row(school: School, shots: int, stand_in: StandIn) -> Iterator[Finding]:
    areas = {
        arm: school.trials.area(
            school.ask(f"few-{shots}-{arm}", lambda number, a=arm: _lesson(
                school, shots, a, number, stand_in))
        )
        for arm in ARMS
    }  # fmt: skip
    for arm, area in areas.items():
        yield finding(
            school, _name(shots, arm), area,
            f"learned from {shots} real images of each class, {ARMS[arm]}",
            reference=None if arm == "plain" else areas["plain"].value,
            reference_is="" if arm == "plain" else "the same images as they are",
        )  # fmt: skip
    for arm, other in BESIDE.items():
        yield _gain(school, shots, arm, other, areas[arm] - areas[other])


def _lesson(school: School, shots: int, arm: str, number: int, stand_in: StandIn) -> Lesson:
    chosen = school.shots(shots, number)
    # the arms differ in nothing else: the same start, the same images in the same order
    name, classical = f"few-{shots}", arm in ("classical", "both")
    lesson = school.lesson([(school.train, chosen)], name, number, classical=classical)
    if arm in ("plain", "classical"):
        return lesson
    show = stand_in(school.train, chosen, lesson.seed)
    return school.lesson([(school.train, chosen)], name, number, classical=classical, show=show)


def _gain(school: School, shots: int, arm: str, other: str, gain: Resampled) -> Finding:
    words = f"{shots} real images of each class, {ARMS[arm]}, less the same {ARMS[other]}"
    return difference(school, _name(shots, f"{arm}_gain"), gain, words)


def _name(shots: int, arm: str) -> str:
    return f"utility.few_shot.{shots}.{arm}"
