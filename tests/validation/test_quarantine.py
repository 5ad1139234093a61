"""The image's test takes copies and few others; what remains is not called cleaner than it is."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from made_attack import numbered, study
from scipy import stats

from medsynth.errors import DataError
from medsynth.validation import memorization, quarantine, remaining, trust

TRAINED = np.arange(40) < 20
NO_COPY = np.zeros(60, bool)


def case_of(folder, scores, **options):
    nearest = np.arange(len(scores)) % 20
    return study(folder, TRAINED, nearest, np.asarray(scores, float), **options)


def judged(folder, scores, **options):
    case, attack = case_of(folder, scores, **options)
    exact = np.zeros(len(scores), bool)
    return quarantine.judge_images(case, attack, ["registered"], exact)


def test_the_conformal_p_value_of_an_innocent_image_is_even():
    rng = np.random.default_rng(0)
    p = [quarantine.conformal_p(rng.random(1), rng.random(49))[0] for _ in range(2000)]
    for level in (0.02, 0.1, 0.5):
        assert stats.binomtest(sum(x <= level + 1e-9 for x in p), 2000, level).pvalue > 0.001


def test_it_counts_the_innocent_images_that_are_as_suspicious():
    p = quarantine.conformal_p(np.array([0.05, 0.2, 0.95]), np.array([0.1, 0.2, 0.3, 0.9]))
    assert p.tolist() == pytest.approx([1 / 5, 3 / 5, 1])


def test_copies_are_taken_and_innocent_images_stay(tmp_path):
    scores = [0.1, 0.2, *np.linspace(0.6, 1, 58)]
    found = judged(tmp_path, scores, innocent=np.linspace(0.5, 1, 999), quarantine=0.001)
    assert np.flatnonzero(found.taken).tolist() == [0, 1]
    assert found.kept.tolist() == list(range(2, 60))


def test_an_exact_copy_is_taken_whatever_its_p_value(tmp_path):
    case, attack = case_of(tmp_path, np.ones(60))
    exact = np.arange(60) == 7
    found = quarantine.judge_images(case, attack, [], exact)
    assert np.flatnonzero(found.taken).tolist() == [7]


def test_with_few_held_out_images_more_innocent_ones_go_and_that_is_said(tmp_path):
    found = judged(tmp_path, np.ones(60), innocent=np.linspace(0.5, 1, 49), quarantine=0.001)
    assert found.rate == pytest.approx(1 / 50)
    said = quarantine.finding(found, 0.001)
    assert "0.001 was asked for, which 49 held-out images can't resolve" in said.method
    assert said.reference == pytest.approx(1 / 50)


def test_innocent_images_are_taken_at_its_rate_at_most(tmp_path):
    rng = np.random.default_rng(1)
    taken = 0
    for _ in range(60):
        found = judged(tmp_path, rng.random(100), innocent=rng.random(99), quarantine=0.03)
        taken += found.taken.sum()
    mean, spread = 60 * 100 * 0.03, np.sqrt(60) * 100 * np.sqrt(0.03 * 0.97 / 99) + 15
    assert abs(taken - mean) < 4 * spread


def test_what_the_table_leaves_is_what_remains(tmp_path):
    cohort = numbered(60, origin="synthetic")
    found = judged(tmp_path, [*np.ones(30), 0.1, *np.ones(29)])
    quarantine.write(tmp_path, cohort, found)
    rows = list(csv.DictReader((tmp_path / "quarantine.csv").read_text().splitlines()))
    assert rows[0]["synthetic"] == "synthetic-30"
    rest = quarantine.remaining(cohort, tmp_path)
    assert [record.id for record in rest.records] == [
        f"synthetic-{i}" for i in range(60) if i != 30
    ]


def test_nothing_taken_is_the_very_same_cohort(tmp_path):
    cohort = numbered(60, origin="synthetic")
    quarantine.write(tmp_path, cohort, judged(tmp_path, np.ones(60)))
    assert quarantine.remaining(cohort, tmp_path) is cohort


# The bound --------------------------------------------------------------------------------------


def rate_of(folder, scores, hits, **settings):
    case, attack = case_of(folder, scores, hits=hits, **settings)
    return memorization.copy_rate(case, attack, attack.flags(attack.synthetic), hits)


def test_the_bound_is_divided_by_the_recall_of_the_weakest_change(tmp_path):
    hits = {"exact": (100, 100), "crop": (40, 100)}
    found = rate_of(tmp_path, np.ones(60), hits)
    tail = 0.0125  # half of the 2.5 % of the first attempt
    share = 1 - tail ** (1 / 60)
    recall = stats.beta.ppf(tail, 40, 61)
    assert found.high == pytest.approx(share / recall)
    assert "the weakest change, crop (40 of 100)" in found.method
    assert rate_of(tmp_path, np.ones(60), hits, copy_changes=("exact",)).high < found.high / 2


def test_a_change_that_is_never_found_bounds_nothing(tmp_path):
    found = rate_of(tmp_path, np.ones(60), {"exact": (100, 100), "crop": (0, 100)})
    assert found.high == 1


def test_the_bound_holds_the_truth_at_every_attempt_s_share(tmp_path):
    """Copies at 10 %, half of them found: the bound fails at 2.5 % at the first attempt."""
    rng, failed = np.random.default_rng(2), np.zeros(2)
    runs = 400
    for _ in range(runs):
        seen = rng.binomial(60, 0.1 * 0.5)
        scores = np.where(np.arange(60) < seen, 0.1, 1.0)
        hits = {"exact": (100, 100), "crop": (int(rng.binomial(100, 0.5)), 100)}
        ends = rate_of(tmp_path, scores, hits).at_attempts
        failed += [ends[0][1] < 0.1, ends[1][1] < 0.1]
    assert failed[0] <= stats.binom.ppf(0.999, runs, 0.025)
    assert failed[1] <= failed[0]


def test_a_change_that_is_not_planted_is_an_error(tmp_path):
    with pytest.raises(DataError, match="copy_changes names melt, which is not planted"):
        rate_of(tmp_path, np.ones(60), {"exact": (9, 10)}, copy_changes=("melt",))


def test_taking_out_what_was_found_does_not_lower_the_bound(tmp_path):
    case, attack = case_of(tmp_path, [*np.full(6, 0.1), *np.ones(54)], hits={"exact": (50, 100)})
    rate = memorization.copy_rate(
        case, attack, attack.flags(attack.synthetic), {"exact": (50, 100)}
    )
    found = quarantine.judge_images(case, attack, [], NO_COPY)
    assert found.taken.sum() == 6
    rest = {f.name: f for f in remaining.measure(case, attack, found, NO_COPY, rate, [])}
    after = rest["memorization.remaining.copy_rate"]
    assert after.value == 0
    assert after.high == pytest.approx(min(1, rate.high * 60 / 54))
    assert after.n == 54


def test_where_nothing_remains_nothing_is_said_of_it(tmp_path):
    case, attack = case_of(tmp_path, np.full(60, 0.1))
    found = quarantine.judge_images(case, attack, [], NO_COPY)
    rate = memorization.copy_rate(case, attack, attack.flags(attack.synthetic), {"exact": (9, 10)})
    assert list(remaining.measure(case, attack, found, NO_COPY, rate, ["registered"])) == []


# Spaces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "believed"), [(90, ("registered",)), (50, ())])
def test_a_space_is_believed_by_the_low_end_of_its_recall(tmp_path, hits, believed):
    case, attack = case_of(tmp_path, np.ones(60), hits={"exact": (hits, 100)})
    recalls = trust.space_recalls(attack, case.settings)
    assert recalls["registered"].value == hits / 100
    assert trust.believed(recalls, 0.5) == believed


def test_where_no_space_is_believed_the_p_value_is_no_number(tmp_path):
    case, attack = case_of(tmp_path, np.ones(60), hits={"exact": (10, 100)})
    recalls = trust.space_recalls(attack, case.settings)
    found = memorization.p_value(case, attack, recalls)
    assert not found.is_number
    assert (
        "left out, for too small a share of planted copies found: registered (0.1)" in found.method
    )
