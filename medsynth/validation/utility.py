"""Of what use are the images? Train on synthetic, test on real (TSTR), beside train on real (TRTR).

A small network learns a label from the synthetic images, from all real training images, from both,
and from fewer and fewer real ones. All are asked about the same held-out patients, whom neither
they nor the generator ever saw. A synthetic image shows what its record says that it shows.
Sources: Esteban et al., arXiv 1706.02633 (TSTR); Ravuri and Vinyals, arXiv 1905.10887.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ..finding import Finding
from . import Case, worth
from .resampling import Resampled
from .schooling import School
from .subgroups import word
from .trials import share

LEAST = 20  # held-out patients of a group that is looked at apart
HALF = 0.5
CHANGED = "flipped where the domain allows it and by RandAugment"
REAL = "the same, learned from all real training images"
UP = "higher is better"


def measure(case: Case) -> Iterable[Finding]:
    """Measure of what use the synthetic images are; nothing where the protocol does not ask for it
    or no label can be learned.

    Raises DataError where the protocol names a label that can't be.
    """
    if case.settings.utility is None:
        return
    with tempfile.TemporaryDirectory() as spare:
        yield from compare(school_of(case, Path(spare)))


def school_of(case: Case, spare: Path) -> School:
    """Return who learns what in a case, the answers kept where its search is kept."""
    folder = spare if case.scratch is None else case.scratch / "utility"
    folder.mkdir(parents=True, exist_ok=True)
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
    for name in ("trtr", "tstr", "mixed"):
        yield from _scores(school, name, said, areas)
    yield difference(school, "utility.tstr_gap", areas["tstr"] - areas["trtr"], "TSTR less TRTR")
    yield difference(
        school, "utility.mixed_gain", areas["mixed"] - areas["trtr"],
        "learned from real and synthetic images, less from real ones alone",
    )  # fmt: skip
    yield worth_of(school, areas)
    yield from _recalls(school, said)
    yield from _groups(school, said)


def answers(school: School) -> dict[str, np.ndarray]:
    """Return what networks say of the held-out images, (S, N, K) by what they learned from: `tstr`,
    `trtr`, `mixed`, and `real-M` for M real images."""
    real = (school.train, school.known(school.train))
    made = (school.synthetic, school.known(school.synthetic))
    kinds = {"tstr": [made], "trtr": [real], "mixed": [real, made]}
    said = {
        name: school.ask(name, lambda number, n=name, p=parts: school.lesson(p, n, number))
        for name, parts in kinds.items()
    }
    for count in _sizes(school)[:-1]:
        name = f"real-{count}"
        said[name] = school.ask(name, lambda number, c=count, n=name: school.lesson(
            [(school.train, school.some(c, number))], n, number))  # fmt: skip
    return said


def _sizes(school: School) -> list[int]:
    return worth.sizes(len(school.known(school.train)), len(school.values))


def say_how(school: School) -> str:
    """Return what all numbers' methods end with."""
    settings = school.settings
    return (
        f"{school.attribute} ({', '.join(school.values)}) by a small ResNet that sees "
        f"{settings.images:,} images, repeats counted; mean of {settings.trainings} trainings; "
        f"bootstrap over held-out patients and Student's t over trainings"
    )


# Findings -----------------------------------------------------------------------------------------


def _scores(school: School, name: str, said, areas: Mapping[str, Resampled]) -> Iterator[Finding]:
    """Say how well one kind of training does, beside training on real images (itself: chance)."""
    trials, made, real = school.trials, len(school.known(school.synthetic)), _sizes(school)[-1]
    words = {
        "tstr": f"learned from {made:,} synthetic images, {CHANGED}",
        "trtr": f"learned from {real:,} real images, {CHANGED}",
        "mixed": f"learned from {real:,} real and {made:,} synthetic images, {CHANGED}",
    }
    for measure_, score, floor in (
        ("auc", areas, HALF),
        ("balanced_accuracy", {n: trials.accuracy(said[n]) for n in (name, "trtr")},
         1 / len(school.values)),
    ):  # fmt: skip
        found = score[name]
        yield finding(
            f"utility.{name}.{measure_}", found, school, words[name],
            reference=floor if name == "trtr" else score["trtr"].value,
            reference_is="chance" if name == "trtr" else REAL,
        )  # fmt: skip


def finding(
    name: str,
    score: Resampled,
    school: School,
    words: str,
    *,
    reference: float | None,
    reference_is: str,
) -> Finding:
    """Return a score of trainings, from 0 to 1, as a finding."""
    ends = share(score)
    unit = "probability" if "auc" in name.split(".") else "share of each class"
    return Finding(
        name, ends.value, ends.low, ends.high, score.images, unit, UP,
        f"{words}; {say_how(school)}", reference, reference_is,
    )  # fmt: skip


def difference(school: School, name: str, score: Resampled, words: str) -> Finding:
    """Return the difference of two scores as a finding."""
    ends = share(score, lowest=-1.0) if score.value not in (0.0, 1.0) else score.estimate()
    return Finding(
        name, ends.value, ends.low, ends.high, score.images,
        "area under the curve", UP, f"{words}, of the same held-out images; {say_how(school)}",
        0.0, "no difference",
    )  # fmt: skip


def worth_of(school: School, areas: Mapping[str, Resampled]) -> Finding:
    """Say how many real images are as good as the synthetic ones."""
    counts = _sizes(school)
    curve = {count: areas[f"real-{count}"] for count in counts[:-1]} | {counts[-1]: areas["trtr"]}
    ends = worth.read(curve, areas["tstr"], chance=HALF).estimate()
    made = len(school.known(school.synthetic))
    words = f"real images that teach as much as the {made:,} synthetic ones"
    if np.isnan(ends.value):
        words += ", which can't be told: all real images together teach nothing clearly"
    elif ends.low <= counts[0] and ends.high >= counts[-1]:
        words += ", which can't be told: the interval is as wide as the learning curve"
    return Finding(
        "utility.worth", ends.value, ends.low, ends.high, areas["tstr"].images, "real images", UP,
        f"{words}; read from AUC after learning from {', '.join(map(str, counts))} real images, of "
        f"as many patients as can be (0 = chance; {counts[-1]:,} = all that there are, or more); "
        f"{say_how(school)}",
        float(made), "as many real images as synthetic ones: one for one",
        curve=tuple((float(count), curve[count].value) for count in counts),
    )  # fmt: skip


def _recalls(school: School, said: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Say how many of each class's images are called so."""
    for number, value in enumerate(school.values):
        found, real = (school.trials.recall(said[n], number) for n in ("tstr", "trtr"))
        yield finding(
            f"utility.tstr.recall.{word(value)}", found, school,
            f"share of {value} called so by networks that learned from synthetic images",
            reference=real.value, reference_is=REAL,
        )  # fmt: skip


def _groups(school: School, said: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Ask about the held-out patients of each value of every other attribute by themselves; a rare
    one, which might point to a person, is left out."""
    for attribute, value, inside in groups(school):
        found, real = (school.trials.area(said[n], inside) for n in ("tstr", "trtr"))
        yield finding(
            f"utility.tstr.auc.{word(attribute)}.{word(value)}", found, school,
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
