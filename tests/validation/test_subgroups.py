"""Groups of patients are tested by themselves, and all together keep to their level."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from made_attack import study
from scipy import stats

from medsynth.errors import DataError
from medsynth.validation import subgroups

PATIENTS, IMAGES = 120, 90


def labels_of(seed: int) -> list[dict[str, str]]:
    """Sex, a common and a rare finding."""
    rng = np.random.default_rng(seed)
    return [
        {
            "sex": "F" if rng.random() < 0.5 else "M",
            "finding": "rare" if i < 30 else str(rng.choice(["none", "effusion"])),
        }
        for i in range(PATIENTS)
    ]


def findings_of(folder, seed: int = 0, *, copied: int = 0, **settings) -> dict:
    """Findings by name; the first `copied` images are copies of rare training patients."""
    rng = np.random.default_rng(seed)
    is_train = rng.permutation(np.arange(PATIENTS) < PATIENTS // 2)
    nearest, scores = rng.integers(PATIENTS, size=IMAGES), rng.uniform(0.6, 1, IMAGES)
    rare = np.flatnonzero(is_train[:30])[:copied]
    nearest[: len(rare)], scores[: len(rare)] = rare, rng.uniform(0.5, 0.7, len(rare))
    case, attack = study(
        folder,
        is_train,
        nearest,
        scores,
        labels=labels_of(seed),
        **({"permutations": 99} | settings),
    )
    return {f.name: f for f in subgroups.measure(case, attack, ["registered"])}


def test_every_value_of_every_attribute_is_a_group(tmp_path):
    names = {name.removeprefix("memorization.p_value.") for name in findings_of(tmp_path)}
    assert names == {"sex.F", "sex.M", "finding.rare", "finding.none", "finding.effusion",
                     "worst_group"}  # fmt: skip
    only = {
        name.removeprefix("memorization.p_value.")
        for name in findings_of(tmp_path, subgroups=("sex",))
    }
    assert only == {"sex.F", "sex.M", "worst_group"}


def test_a_leak_in_a_rare_class_is_seen_in_its_group(tmp_path):
    findings = findings_of(tmp_path, copied=14, permutations=499)
    rare = findings["memorization.p_value.finding.rare"]
    assert rare.value <= 0.01
    assert findings["memorization.p_value.worst_group"].value == rare.value
    assert findings["memorization.p_value.finding.none"].value > 0.05


def test_a_p_value_that_is_adjusted_can_be_as_small_as_the_whole_cohort_s(tmp_path):
    """Five groups, each with five times the permutations."""
    is_train = np.arange(PATIENTS) % 2 == 0
    nearest = np.flatnonzero(is_train)
    case, attack = study(
        tmp_path,
        is_train,
        nearest,
        np.full(len(nearest), 0.2),
        labels=labels_of(0),
        permutations=99,
    )
    found = {f.name: f.value for f in subgroups.measure(case, attack, ["registered"])}
    assert found[subgroups.WORST] == pytest.approx(1 / 100)


def test_where_nothing_was_copied_all_groups_together_alarm_at_their_level(tmp_path):
    runs = 100
    worst = [findings_of(tmp_path, seed)[subgroups.WORST].value for seed in range(runs)]
    for level in (0.05, 0.2):
        assert sum(p <= level for p in worst) <= stats.binom.ppf(0.999, runs, level)
    assert sum(p <= 0.5 for p in worst) >= 10  # else nothing was tested


def test_groups_too_small_to_reject_are_said_and_not_named(tmp_path):
    labels = [{"sex": "F" if i % 2 else "M", "disease": "seldom" if i < 3 else "none"}
              for i in range(PATIENTS)]  # fmt: skip
    is_train = np.arange(PATIENTS) // 2 % 2 == 0
    case, attack = study(tmp_path, is_train, np.arange(90), np.ones(90), labels=labels)
    findings = {f.name: f for f in subgroups.measure(case, attack, ["registered"])}
    assert "memorization.p_value.disease.seldom" not in findings
    assert "1 more could not be tested" in findings[subgroups.WORST].method
    assert not any("seldom" in f.method or "seldom" in name for name, f in findings.items())
    rows = list(csv.DictReader((tmp_path / "subgroups.csv").read_text().splitlines()))
    seldom = next(row for row in rows if row["value"] == "seldom")
    assert (seldom["training"], seldom["held_out"], seldom["p"]) == ("2", "1", "too few patients")


def test_no_group_that_can_be_tested_is_no_pass(tmp_path):
    labels = [{"disease": f"kind {i}"} for i in range(PATIENTS)]
    is_train = np.arange(PATIENTS) % 2 == 0
    case, attack = study(tmp_path, is_train, np.arange(90), np.ones(90), labels=labels)
    (worst,) = subgroups.measure(case, attack, ["registered"])
    assert math.isnan(worst.value)
    assert worst.n == 0


def test_without_labels_nothing_is_said_of_groups(tmp_path):
    case, attack = study(tmp_path, np.arange(20) < 10, np.arange(20), np.ones(20))
    assert list(subgroups.measure(case, attack, ["registered"])) == []


def test_an_attribute_that_no_image_has_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"validate\.subgroups names age, which no real image has"):
        findings_of(tmp_path, subgroups=("age",))


def test_names_are_safe_and_told_apart(tmp_path):
    labels = [{"Sex / gender": ("Fe male", "Fe/male")[i % 2]} for i in range(PATIENTS)]
    is_train = np.random.default_rng(0).permutation(np.arange(PATIENTS) < 60)
    case, attack = study(tmp_path, is_train, np.arange(90), np.ones(90), labels=labels)
    names = [f.name for f in subgroups.measure(case, attack, ["registered"])]
    assert names[:2] == ["memorization.p_value.Sex-gender.Fe-male",
                         "memorization.p_value.Sex-gender.Fe-male~2"]  # fmt: skip


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03], [0.5, 0.5], [0.2], [], [0.9, 0.02, 0.02, 0.4]])
def test_holm_is_what_its_steps_say(p):
    """Independent reckoning: p_i is rejected at a where all smaller ones are, each at a / left."""
    adjusted = subgroups.holm(p)
    for level in np.linspace(0.001, 0.999, 300):
        rejected, left = set(), len(p)
        for i in sorted(range(len(p)), key=lambda i: p[i]):
            if p[i] * left > level:
                break
            rejected.add(i)
            left -= 1
        assert {i for i, q in enumerate(adjusted) if q <= level} == rejected


def test_the_smallest_p_is_one_over_all_divisions():
    assert subgroups.smallest_p(8, 4) == pytest.approx(1 / 70)
    assert subgroups.smallest_p(5, 5) == 1
    assert subgroups.smallest_p(20000, 10000) == 0
