"""The cohort's test once more for every group of patients: a rare class may leak where the whole
does not.

A group is all patients who have a value of a label attribute. Within a group, too, who was
trained on was decided by chance, so the test of `attribution` holds as it stands: the images whose
nearest patient is of the group are ranked, and the label is permuted among the group's patients.
Whatever labels synthetic images bear plays no part. Over all groups together the p-values are
adjusted (Holm), so that with no copy anywhere one of them rejects at its level at most.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..finding import Finding, word
from ..runtime import derive_seed, write_text
from . import Case
from .attack import Attack, Pool
from .attribution import attribution_test, rank

LEVEL = 0.025  # what the gate's first attempt has of 5 %
WORST = "memorization.p_value.worst_group"


@dataclass(frozen=True)
class Group:
    """The patients who have a value of an attribute, (P,) bool by patient number in the pool."""

    attribute: str
    value: str
    patients: np.ndarray

    @property
    def words(self) -> str:
        return f"{self.attribute}: {self.value}"


def measure(case: Case, attack: Attack, spaces: Sequence[str]) -> Iterable[Finding]:
    """Test every group; the worst is a finding of its own. Writes private/subgroups.csv.

    Nothing is yielded where there is no attribute; no test at all is NaN, never a pass.
    """
    found = groups(case, attack.pool)
    if not found:
        return
    is_train = attack.pool.patient_is_train
    tested = _can_reject(found, is_train) if spaces else []
    raw = [_p_value(case, attack, spaces, group, len(tested)) for group in tested]
    adjusted = holm(raw)
    _write(case, found, tested, is_train, raw, adjusted)
    names = _names(tested)
    images = len(case.synthetic)
    for group, name, p in zip(tested, names, adjusted, strict=True):
        yield _finding(name, p, images, f"patient-permutation test among patients of {group.words}")
    yield _finding(
        WORST, min(adjusted, default=math.nan), images if tested else 0, _say_worst(found, tested)
    )


def groups(case: Case, pool: Pool) -> list[Group]:
    """Return the groups of patients by the values of the protocol's attributes, in sorted order.

    A value that everybody has makes no group. Raises DataError where an attribute that the
    protocol names is on no real image.
    """
    members: dict[tuple[str, str], np.ndarray] = {}
    everybody = len(pool.patient_is_train)
    for image, (side, patient) in enumerate(zip(pool.is_train, pool.patients, strict=True)):
        cohort = case.train if side else case.holdout
        for pair in cohort.records[pool.order[image]].labels.items():
            members.setdefault(pair, np.zeros(everybody, bool))[patient] = True
    known = {attribute for attribute, _ in members}
    wanted = known if case.settings.subgroups is None else set(case.settings.subgroups)
    if wanted - known:
        raise DataError(
            f"validate.subgroups names {', '.join(sorted(wanted - known))}, which no real image "
            f"has: expected some of {', '.join(sorted(known)) or 'no attribute at all'}"
        )
    return [
        Group(*pair, mask)
        for pair, mask in sorted(members.items(), key=lambda item: item[0])
        if pair[0] in wanted and not mask.all()
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number. Source: Holm, Scand. J. Statist. 6 (1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def smallest_p(patients: int, trained: int) -> float:
    """Return the smallest p-value that dividing so many patients can give: 1 / divisions."""
    return 1 / math.comb(patients, trained)


def _can_reject(found: Sequence[Group], is_train: np.ndarray) -> list[Group]:
    """Return the groups that could reject if all their copies were found, adjusted for as many."""
    sizes = [(int(g.patients.sum()), int(is_train[g.patients].sum())) for g in found]
    possible = sorted(smallest_p(*size) for size in sizes)
    enough = [p for k, p in enumerate(possible, start=1) if p <= LEVEL / k]
    limit = max(enough, default=-1.0)
    return [g for g, size in zip(found, sizes, strict=True) if smallest_p(*size) <= limit]


def _p_value(case: Case, attack: Attack, spaces: Sequence[str], group: Group, number: int) -> float:
    """Test one of `number` groups, with so many times the permutations: adjusted for their number
    it can still be as small as the whole cohort's."""
    rng = np.random.default_rng(derive_seed(case.seed, "subgroup", group.attribute, group.value))
    place = np.cumsum(group.patients) - 1  # the number of each member within the group
    rankings = []
    for space in spaces:
        nearest = attack.synthetic["everyone"].spaces[space]
        inside = group.patients[nearest.patient]
        rankings.append(rank(place[nearest.patient[inside]], nearest.score[inside], rng))
    permutations = number * (case.settings.permutations + 1) - 1
    is_train = attack.pool.patient_is_train[group.patients]
    return attribution_test(rankings, is_train, permutations, rng)


def _say_worst(found: Sequence[Group], tested: Sequence[Group]) -> str:
    """Say how many groups were tested, and not which were too small: a rare label points to a
    person."""
    left = len(found) - len(tested)
    return f"smallest of {len(tested)} p-values, one a group of patients" + (
        f"; {left} more could not be tested, with too few patients or no space that is believed"
        if left
        else ""
    )


def _names(tested: Sequence[Group]) -> list[str]:
    """Return a finding's name for each group; a number tells apart what would be alike."""
    names: list[str] = []
    for group in tested:
        name = f"memorization.p_value.{word(group.attribute)}.{word(group.value)}"
        alike = sum(other == name or other.startswith(f"{name}~") for other in names)
        names.append(f"{name}~{alike + 1}" if alike else name)
    return names


def _finding(name: str, p: float, n: int, method: str) -> Finding:
    return Finding(
        name,
        p,
        p,
        p,
        n,
        "probability",
        "higher is better",
        f"{method}; adjusted for the number of groups (Holm), exact, so both ends are the p-value",
    )


def _write(
    case: Case,
    found: Sequence[Group],
    tested: Sequence[Group],
    is_train: np.ndarray,
    raw: Sequence[float],
    adjusted: Sequence[float],
) -> None:
    """Write private/subgroups.csv: how many patients a group has is for the hospital only."""
    p_values = {id(g): pair for g, *pair in zip(tested, raw, adjusted, strict=True)}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["attribute", "value", "training", "held_out", "p", "adjusted_p"])
    for group in found:
        trained = int(is_train[group.patients].sum())
        sizes = [trained, int(group.patients.sum()) - trained]
        p = [f"{value:.6g}" for value in p_values.get(id(group), ())] or ["too few patients", ""]
        table.writerow([group.attribute, group.value, *sizes, *p])
    write_text(case.private / "subgroups.csv", text.getvalue())
