from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from medsynth.validation.statistics import (
    at_attempts,
    bootstrap_mean,
    clopper_pearson,
    conformal_threshold,
    divide,
    jackknife,
)


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (3, 20), (20, 20), (7, 1000)])
def test_clopper_pearson_agrees_with_scipy(hits, n):
    found = clopper_pearson(hits, n)
    wanted = stats.binomtest(hits, n).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_no_hit_among_300_bounds_the_rate_by_the_rule_of_three():
    assert clopper_pearson(0, 300, level=0.90).high == pytest.approx(3 / 300, rel=0.01)


def test_nothing_tried_says_nothing():
    found = clopper_pearson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


def test_bootstrap_covers_the_truth_when_images_of_a_patient_agree():
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(40), 5)
        values = rng.standard_normal(40)[patients] + 0.1 * rng.standard_normal(200)
        found = bootstrap_mean(values, patients, 200, rng)
        covered += found.low <= 0 <= found.high
    assert covered >= stats.binom.ppf(0.001, 200, 0.93)


def test_bootstrap_over_images_would_be_too_narrow():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(30), 10)
    values = rng.standard_normal(30)[patients]
    whole = bootstrap_mean(values, patients, 400, rng)
    single = bootstrap_mean(values, np.arange(300), 400, rng)
    assert whole.high - whole.low > 2 * (single.high - single.low)


def test_jackknife_of_a_mean_is_student_s_interval_over_groups():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(20), 7)
    values = rng.standard_normal(140)
    found = jackknife(lambda keep: values[keep[groups]].mean(), 20)
    means = values.reshape(20, 7).mean(1)
    wanted = stats.t.interval(0.95, 19, means.mean(), stats.sem(means))
    assert (found.low, found.high) == pytest.approx(wanted)


def test_a_single_group_gives_no_interval():
    found = jackknife(lambda keep: 4.0, 1)
    assert found.value == 4
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_groups_hold_whole_patients_and_are_as_many_on_both_sides():
    rng = np.random.default_rng(2)
    few, many = np.repeat(np.arange(6), 3), np.arange(100)
    groups = divide([few, many], rng)
    assert all(set(side) == set(range(6)) for side in groups)
    assert all(len(set(groups[0][few == patient])) == 1 for patient in range(6))


def test_the_conformal_threshold_keeps_its_rate():
    rng = np.random.default_rng(3)
    passed = []
    for _ in range(2000):
        threshold, rate = conformal_threshold(rng.random(99), 0.05)
        passed.append(rng.random() <= threshold)
    assert rate == 0.05
    assert stats.binomtest(sum(passed), 2000, 0.05).pvalue > 0.001


def test_the_conformal_threshold_says_when_there_are_too_few_scores():
    threshold, rate = conformal_threshold(np.array([0.7, 0.4, 0.9]), 0.01)
    assert (threshold, rate) == (0.4, 0.25)


def test_intervals_widen_with_the_attempt_and_fail_together_at_five_per_cent_at_most():
    ends = at_attempts(lambda level: clopper_pearson(3, 200, level=level))
    assert ends[0] == (clopper_pearson(3, 200).low, clopper_pearson(3, 200).high)
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in itertools.pairwise(ends))
    failing = sum(stats.binom.cdf(3, 200, high) for _, high in ends)
    assert failing == pytest.approx(0.05, rel=1e-3)
