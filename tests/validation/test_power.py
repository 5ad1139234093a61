"""The smallest share of copies that an audit sees: what its own test would have said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_attack import found, study
from scipy import stats
from tiny import study as study_protocol

from medsynth.finding import read_findings, write_findings
from medsynth.pipeline.run import Run, level_of_test
from medsynth.protocol import Rule
from medsynth.release import gate
from medsynth.validation import power
from medsynth.validation.attribution import attribution_test
from medsynth.validation.power import NAME, Rows

PATIENTS, TRAINED, IMAGES, PLANTED = 60, 30, 100, 25


def made(
    seed: int = 0,
    *,
    recall: float = 1.0,
    trained: int = TRAINED,
    leak: int = 0,
    images: int = IMAGES,
) -> tuple[Rows, Rows, np.ndarray]:
    """Innocent images, planted copies of which a share looks like one, and who was trained on.

    The first `leak` images are copies that the generator made.
    """
    rng = np.random.default_rng(seed)
    is_train = rng.permutation(np.arange(PATIENTS) < trained)
    nearest, scores = rng.integers(PATIENTS, size=(1, IMAGES)), rng.uniform(0.6, 1, (1, IMAGES))
    nearest[:, :leak], scores[:, :leak] = rng.choice(np.flatnonzero(is_train), leak), 0.2
    seen = rng.random((1, PLANTED)) < recall
    patients = rng.choice(np.flatnonzero(is_train), (1, PLANTED))
    patients = np.where(seen, patients, rng.integers(PATIENTS, size=(1, PLANTED)))
    low = np.where(seen, rng.uniform(0.1, 0.4, (1, PLANTED)), rng.uniform(0.6, 1, (1, PLANTED)))
    return Rows(nearest, scores), Rows(patients, low), is_train


def findings_of(folder, changes, *, permutations: int = 199, **settings) -> dict:
    """Findings by name, for {change: arguments of `made`}; the base is the first change's."""
    case = attack = None
    copies = {}
    for change, arguments in changes.items():
        base, planted, is_train = made(**arguments)
        if case is None:
            case, attack = study(
                folder,
                is_train,
                base.patients[0],
                base.scores[0],
                permutations=permutations,
                **settings,
            )
        copies[change] = dict.fromkeys(
            ("train", "everyone"), found(planted.patients[0], planted.scores[0])
        )
    attack = replace(attack, copies=copies)
    measured = power.measure(case, attack, ["registered"], tuple(changes))
    return {f.name.removeprefix("memorization."): f for f in measured}


@pytest.mark.parametrize(("count", "recall"), [(5, 1.0), (7, 1.0), (10, 0.7)])
def test_so_many_copies_are_caught_as_often_as_the_audit_s_own_test_catches_them(count, recall):
    """An independent reckoning: the whole test, with its permutations, on every mix."""
    base, copies, is_train = made(recall=recall)
    rng = np.random.default_rng(1)
    own = [
        attribution_test(power.mix(base, copies, count, PATIENTS, rng), is_train, 199, rng)
        for _ in range(250)
    ]
    quick = power.p_values(base, copies, count, is_train, 199, rng, mixes=500)
    for level in (0.05, 0.025):
        a, b = np.mean(np.array(own) < level), np.mean(quick < level)
        pooled = (250 * a + 500 * b) / 750
        assert 0.1 < pooled < 0.99
        assert abs(a - b) < 3.3 * np.sqrt(pooled * (1 - pooled) * (1 / 250 + 1 / 500)) + 0.01


@pytest.mark.parametrize("leak", [0, 40])
def test_without_a_planted_copy_it_alarms_at_its_level_even_where_the_cohort_leaks(leak):
    base, copies, is_train = made(leak=leak)
    p = power.p_values(base, copies, 0, is_train, 999, np.random.default_rng(2), mixes=600)
    for level in (0.025, 0.1, 0.3):
        assert int((p < level).sum()) <= stats.binom.ppf(0.999, 600, level)
    assert (p < 0.5).mean() > 0.2  # else nothing was tested


def test_a_cohort_that_leaks_is_not_called_keenly_watched(tmp_path):
    clean = findings_of(tmp_path, {"exact": {}})
    leaking = findings_of(tmp_path, {"exact": {"leak": 40}})
    assert leaking["smallest_rate"].value >= clean["smallest_rate"].value


def test_copies_that_look_like_no_one_are_never_caught(tmp_path):
    blind = findings_of(tmp_path, {"exact": {"recall": 0.0}})["smallest_rate.exact"]
    assert (blind.value, blind.high) == (1.0, 1.0)
    assert blind.low == PLANTED / IMAGES
    assert "not even 25 of 100 images are" in blind.method


def test_without_held_out_patients_nothing_is_caught(tmp_path):
    found = findings_of(tmp_path, {"exact": {"trained": PATIENTS - 1}})["smallest_rate"]
    assert (found.value, found.high) == (1.0, 1.0)


def test_copies_that_stand_out_are_caught_from_the_number_that_chance_allows(tmp_path):
    """All k copies of different training patients: chance has it with C(30, k) / C(60, k)."""
    chance = [stats.hypergeom.pmf(k, PATIENTS, TRAINED, k) for k in range(1, 12)]
    fewest = 1 + next(i for i, p in enumerate(chance) if p < 0.025)
    keen = findings_of(tmp_path, {"exact": {}})["smallest_rate"]
    assert fewest <= keen.value * IMAGES <= 3 * fewest
    assert keen.low <= keen.value <= keen.high < 1


def test_the_worst_change_is_the_finding_and_its_high_ends_are_the_highest(tmp_path):
    measured = findings_of(tmp_path, {"exact": {}, "crop": {"recall": 0.6}})
    exact, crop, worst = (measured[f"smallest_rate{x}"] for x in (".exact", ".crop", ""))
    assert exact.value < crop.value == worst.value
    assert worst.high == max(exact.high, crop.high)
    assert "crop" in worst.method


def test_changes_that_do_not_count_have_no_part_in_the_worst(tmp_path):
    base, planted, is_train = made()
    blind = made(recall=0.0)[1]
    case, attack = study(tmp_path, is_train, base.patients[0], base.scores[0], permutations=999)
    copies = {
        name: dict.fromkeys(("train", "everyone"), found(x.patients[0], x.scores[0]))
        for name, x in (("exact", planted), ("crop", blind))
    }
    attack = replace(attack, copies=copies)
    measured = {f.name: f for f in power.measure(case, attack, ["registered"], ["exact"])}
    assert measured[NAME].value == measured[f"{NAME}.exact"].value < 1
    assert measured[f"{NAME}.crop"].value == 1


def test_a_later_attempt_has_less_to_spend_and_sees_no_fewer(tmp_path):
    found = findings_of(tmp_path, {"exact": {}}, permutations=999)["smallest_rate"]
    highs = [high for _, high in found.at_attempts]
    assert highs == sorted(highs)
    assert highs[0] == found.high < highs[3]
    assert highs[-1] == 1.0  # 999 permutations can't tell


def test_the_interval_holds_the_number_that_many_more_mixes_find():
    base, copies, is_train = made(recall=0.8)
    rng = np.random.default_rng(5)
    many = {
        k: power.p_values(base, copies, k, is_train, 499, rng, mixes=500)
        for k in power.ladder(PLANTED)
        if 8 <= k <= 15
    }
    truth = next(k for k, p in many.items() if (p < 0.025).mean() >= power.SURE)
    held = 0
    for seed in range(4):
        rungs = power.climb(base, copies, is_train, 499, np.random.default_rng(seed))
        low = next(r.copies for r in rungs if r.caught(0.025).high >= power.SURE)
        high = next(r.copies for r in rungs if power.is_sure(r, 0.05, 1))
        held += low <= truth <= high
    assert truth > 8
    assert held >= 3  # of 4 draws that each hold with at least 0.95 fewer do with 0.014


def test_no_space_to_believe_means_nothing_is_caught(tmp_path):
    base, _, is_train = made()
    case, attack = study(tmp_path, is_train, base.patients[0], base.scores[0])
    (each, worst) = power.measure(case, attack, [], ["exact"])
    assert each.value == worst.value == 1
    assert "no space is believed" in worst.method


def test_more_copies_are_tried_step_by_step():
    assert power.ladder(10) == [1, 2, 3, 4, 5, 6, 8, 10]
    assert power.ladder(7) == [1, 2, 3, 4, 5, 6, 7]
    assert power.ladder(1) == [1]


def test_the_first_attempt_is_looked_at_even_where_permutations_are_few():
    base, copies, is_train = made()
    rungs = power.climb(base, copies, is_train, 99, np.random.default_rng(0), level=0.03)
    assert len(rungs) > 3
    assert power.attempts_told(0.03, 99) == [1]
    assert power.attempts_told(0.05, 1999) == [1, 2, 3, 4, 5]


def test_a_mix_keeps_its_size_and_holds_so_many_copies():
    base, copies, _ = made()
    (ranking,) = power.mix(base, copies, 9, PATIENTS, np.random.default_rng(0))
    assert len(ranking.patients) == IMAGES
    assert (ranking.scores < 0.5).sum() == 9
    assert set(ranking.patients[:9]) <= set(copies.patients[0])


def test_a_rule_bounds_it_and_an_audit_too_weak_is_inconclusive_not_refused(tmp_path):
    keen = findings_of(tmp_path, {"exact": {}})
    blind = findings_of(tmp_path, {"exact": {"recall": 0.0}})

    def judged(measured, bar, attempt=1):
        findings = {f.name: f for f in measured.values()}
        rules = [Rule(finding=NAME, at_most=bar)]
        return gate.decide(findings, rules, attempt=attempt, claim=(), digests={})

    assert judged(keen, 0.3).outcome == "passed"
    assert judged(keen, 0.02).outcome == "inconclusive"
    assert judged(keen, 0.3, attempt=12).outcome == "inconclusive"
    (reason,) = judged(blind, 0.3).reasons
    assert judged(blind, 0.3).outcome == "inconclusive"
    for advice in ("split.holdout", "sample.images", "lens"):
        assert advice in reason


def test_a_file_keeps_the_curve_it_was_read_from(tmp_path):
    measured = findings_of(tmp_path, {"exact": {}})
    write_findings(tmp_path / "findings.jsonl", measured.values())
    back = read_findings(tmp_path / "findings.jsonl")
    assert back == {f.name: f for f in measured.values()}
    shares, caught = zip(*back[NAME].curve, strict=True)
    assert list(shares) == sorted(shares)
    assert caught[-1] > 0.95


def test_a_rule_s_level_is_the_one_that_is_told_of_and_another_level_makes_evidence_stale():
    def run_of(*rules):
        exact = {"finding": "memorization.exact_copies", "at_most": 0}
        return Run(Path(), study_protocol(**{"gate.rules": [exact, *rules]}))

    usual, strict, none, groups = (
        run_of(*rules)
        for rules in (
            [{"finding": "memorization.p_value", "not_rejected_at": 0.05}],
            [{"finding": "memorization.*", "not_rejected_at": 0.02}],
            [],
            [{"finding": "memorization.p_value.*", "not_rejected_at": 0.02}],
        )
    )
    levels = [level_of_test(run.protocol) for run in (usual, strict, none, groups)]
    assert levels == [0.05, 0.02, 0.05, 0.05]
    assert usual.settings("evidence") == none.settings("evidence")
    assert usual.settings("evidence") != strict.settings("evidence")


def test_a_stricter_test_sees_no_fewer_copies():
    base, copies, is_train = made(recall=0.8)
    rng = np.random.default_rng(3)
    (usual, strict) = (
        power.climb(base, copies, is_train, 1999, rng, level=level)[-1].copies
        for level in (0.2, 0.01)
    )
    assert usual < strict
