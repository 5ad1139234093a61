"""Of what use are the images? Train on synthetic, test on real (TSTR), beside train on real (TRTR).

A small network learns a label from the synthetic images, from all real training images, from both,
and from fewer and fewer real ones. All are asked about the same held-out patients, whom neither
they nor the generator ever saw. A synthetic image shows what its record says that it shows.
Sources: Esteban et al., arXiv 1706.02633 (TSTR); Ravuri and Vinyals, arXiv 1905.10887.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from ..finding import Finding, word
from . import Case, worth
from .resampling import Resampled
from .schooling import School, place_of
from .trials import share

LEAST = 20  # held-out patients of a group that is looked at apart
HALF = 0.5
REAL = "the same, learned from all real training images"
UP = "higher is better"
KINDS = ("trtr", "tstr", "mixed")
UNITS = {
    "recall": "share of its images",
    "balanced_accuracy": "share of each class",
    "dice": "0 to 1",
}


class Asked(Protocol):
    """Who learns and is asked: how many synthetic images there are, the sizes of real cohorts on
    the learning curve, what is compared, how images are changed and all is measured, in words."""

    made: int
    sizes: list[int]
    scale: str
    changed: str
    how: str


def measure(case: Case) -> Iterable[Finding]:
    """Measure of what use the synthetic images are; nothing where the protocol does not ask for it
    or no label can be learned.

    Raises DataError where the protocol names a label that can't be.
    """
    if case.settings.utility is None:
        return
    with place_of(case) as folder:
        yield from compare(_school(case, folder))


def _school(case: Case, folder: Path) -> School:
    return School(
        settings=case.settings.utility,
        train=case.train,
        holdout=case.holdout,
        synthetic=case.synthetic,
        teach=case.teach,
        folder=folder,
        seed=case.seed,
        draws=case.settings.bootstrap,
        mirrored=case.domain.mirrored,
        subgroups=case.settings.subgroups,
        progress=case.progress,
    )


def compare(school: School) -> Iterator[Finding]:
    """Measure TSTR, TRTR and mixed, and what the synthetic images are worth."""
    if school.attribute is None:
        return
    said = answers(school)
    areas = {name: school.trials.area(row) for name, row in said.items()}
    right = {name: school.trials.accuracy(said[name]) for name in KINDS}
    yield from scores(school, "utility.{}.auc", areas, chance=HALF)
    yield from scores(school, "utility.{}.balanced_accuracy", right, chance=1 / len(school.values))
    yield from differences(school, "utility.{}", areas)
    yield worth_of(school, "utility.worth", areas, chance=HALF)
    yield from _recalls(school, said)
    yield from _groups(school, said)


def answers(school: School) -> dict[str, np.ndarray]:
    """Return what networks say of the held-out images, (S, N, K) by what they learned from: KINDS,
    and `real-M` for M real images."""
    real = (school.train, school.known(school.train))
    made = (school.synthetic, school.known(school.synthetic))
    kinds = dict(zip(KINDS, ([real], [made], [real, made]), strict=True))
    said = {
        name: school.ask(name, lambda number, n=name, p=parts: school.lesson(p, n, number))
        for name, parts in kinds.items()
    }
    for count in school.sizes[:-1]:
        name = f"real-{count}"
        said[name] = school.ask(name, lambda number, c=count, n=name: school.lesson(
            [(school.train, school.some(c, number))], n, number))  # fmt: skip
    return said


# Findings -----------------------------------------------------------------------------------------


def scores(
    school: Asked, form: str, found: Mapping[str, Resampled], *, chance: float
) -> Iterator[Finding]:
    """Say how well each of KINDS does, beside training on real images (itself: chance)."""
    made, real = f"{school.made:,} synthetic", f"{school.sizes[-1]:,} real"
    words = {"trtr": real, "tstr": made, "mixed": f"{real} and {made}"}
    for name in KINDS:
        alone = name == "trtr"
        yield finding(
            school, form.format(name), found[name],
            f"learned from {words[name]} images, {school.changed}",
            reference=chance if alone else found["trtr"].value,
            reference_is="chance" if alone else REAL,
        )  # fmt: skip


def finding(
    school: Asked,
    name: str,
    score: Resampled,
    words: str,
    *,
    reference: float | None,
    reference_is: str,
) -> Finding:
    """Return a score of trainings, from 0 to 1, as a finding."""
    ends = share(score)
    units = (unit for part, unit in UNITS.items() if part in name.split("."))
    return Finding(
        name, ends.value, ends.low, ends.high, score.images, next(units, "probability"), UP,
        f"{words}; {school.how}", reference, reference_is,
    )  # fmt: skip


def differences(school: Asked, form: str, found: Mapping[str, Resampled]) -> Iterator[Finding]:
    """Say how far TSTR is from TRTR, and what synthetic images add to real ones."""
    gap, gain = found["tstr"] - found["trtr"], found["mixed"] - found["trtr"]
    yield difference(school, form.format("tstr_gap"), gap, "TSTR less TRTR")
    words = "learned from real and synthetic images, less from real ones alone"
    yield difference(school, form.format("mixed_gain"), gain, words)


def difference(school: Asked, name: str, score: Resampled, words: str) -> Finding:
    """Return the difference of two scores as a finding."""
    found = score.estimate()
    low, high = np.clip([found.low, found.high], -1.0, 1.0).tolist()
    return Finding(
        name, found.value, low, high, score.images, school.scale, UP,
        f"{words}, of the same held-out images; {school.how}", 0.0, "no difference",
    )  # fmt: skip


def worth_of(school: Asked, name: str, found: Mapping[str, Resampled], *, chance: float) -> Finding:
    """Say how many real images are as good as the synthetic ones."""
    counts = school.sizes
    curve = {count: found[f"real-{count}"] for count in counts[:-1]} | {counts[-1]: found["trtr"]}
    ends = worth.read(curve, found["tstr"], chance=chance).estimate()
    words = f"real images that teach as much as the {school.made:,} synthetic ones"
    if np.isnan(ends.value):
        words += ", which can't be told: all real images together teach nothing clearly"
    elif ends.low <= counts[0] and ends.high >= counts[-1]:
        words += ", which can't be told: the interval is as wide as the learning curve"
    return Finding(
        name, ends.value, ends.low, ends.high, found["tstr"].images, "real images", UP,
        f"{words}; read from the {school.scale} after learning from "
        f"{', '.join(map(str, counts))} real images, of as many patients as can be (0 = chance; "
        f"{counts[-1]:,} = all that there are, or more); {school.how}",
        float(school.made), "as many real images as synthetic ones: one for one",
        curve=tuple((float(count), curve[count].value) for count in counts),
    )  # fmt: skip


def _recalls(school: School, said: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Say how many of each class's images are called so."""
    for number, value in enumerate(school.values):
        found, real = (school.trials.recall(said[n], number) for n in ("tstr", "trtr"))
        yield finding(
            school, f"utility.tstr.recall.{word(value)}", found,
            f"share of {value} called so by networks that learned from synthetic images",
            reference=real.value, reference_is=REAL,
        )  # fmt: skip


def _groups(school: School, said: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Ask about the held-out patients of each value of every other attribute by themselves; a rare
    one, which might point to a person, is left out."""
    for attribute, value, inside in groups(school):
        found, real = (school.trials.area(said[n], inside) for n in ("tstr", "trtr"))
        yield finding(
            school, f"utility.tstr.auc.{word(attribute)}.{word(value)}", found,
            f"held-out patients of {attribute}: {value}; learned from synthetic images",
            reference=real.value, reference_is=REAL,
        )  # fmt: skip


def groups(school: School) -> Iterator[tuple[str, str, np.ndarray]]:
    """Give (attribute, value, images (N,) bool) of the groups with enough patients of each class,
    in sorted order."""
    names = {name for record in school.holdout.records for name in record.labels}
    wanted = names if school.subgroups is None else names & set(school.subgroups)
    for attribute in sorted(wanted - {school.attribute}):
        labels = np.array(school.holdout.labels(attribute))
        for value in sorted(set(labels.tolist()) - {""}):
            inside = (labels == value) & (school.truth >= 0)
            people = [
                len(np.unique(school.holdout.patients[inside & (school.truth == v)]))
                for v in range(len(school.values))
            ]
            if min(people) >= LEAST // 2 and sum(people) >= LEAST and not inside.all():
                yield attribute, value, inside
