"""A division that was not drawn by chance is seen; one that was raises no alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_truth import cohort, make_case
from scipy import stats

from medsynth.validation import division


def finding(case):
    (only,) = division.measure(case)
    return only


def rows(seed: int, count: int, *, shift: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, 12))
    return noise + shift * np.eye(12)[0]


def test_area_counts_pairs_won_ties_half():
    a, b = np.array([1.0, 2, 2, 5]), np.array([0.0, 2, 3])
    won = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert division.auc(a, b) == pytest.approx(won)
    assert division.auc(a, a) == 0.5
    assert division.auc(a, b) + division.auc(b, a) == pytest.approx(1)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.83, 1.0])
def test_interval_holds_its_value_and_stays_in_0_to_1(value):
    found = division.auc_interval(value, 30, 40)
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.low < found.high


def test_interval_at_half_is_mann_whitneys_own_spread():
    found = division.auc_interval(0.5, 400, 300)
    spread = np.sqrt((400 + 300 + 1) / (12 * 400 * 300))
    assert found.high - 0.5 == pytest.approx(1.96 * spread, rel=0.02)
    assert 0.5 - found.low == pytest.approx(1.96 * spread, rel=0.02)


def test_interval_holds_the_true_area_of_two_normals():
    rng, shift, draws = np.random.default_rng(0), 1.2, 400
    truth = stats.norm.cdf(shift / np.sqrt(2))
    hits = 0
    for _ in range(draws):
        value = division.auc(rng.normal(shift, 1, 30), rng.normal(0, 1, 25))
        found = division.auc_interval(value, 30, 25)
        hits += found.low <= truth <= found.high
    assert stats.binomtest(hits, draws, 0.95, alternative="less").pvalue > 0.001


def test_division_by_chance_is_called_one_at_the_nominal_rate():
    draws, alarms, values = 60, 0, []
    for seed in range(draws):
        found = division.separability(
            rows(2 * seed, 40), rows(2 * seed + 1, 30), np.random.default_rng(seed)
        )
        alarms += found.low > 0.5
        values.append(found.value)
    assert stats.binomtest(alarms, draws, 0.025, alternative="greater").pvalue > 0.001
    assert np.mean(values) == pytest.approx(0.5, abs=3 * np.std(values) / np.sqrt(draws))


def test_what_differs_is_seen_and_what_can_not_be_told_is_no_number():
    rng = np.random.default_rng(0)
    assert division.separability(rows(1, 40, shift=2.5), rows(2, 40), rng).low > 0.75
    assert division.separability(rows(1, 40, shift=50), rows(2, 40), rng).value == 1
    assert np.isnan(division.separability(rows(1, 3), rows(2, 40), rng).value)


def test_order_of_the_patients_does_not_matter_more_than_the_folds():
    a, b = rows(1, 60, shift=1), rows(2, 60)
    first, second = (
        division.separability(x, b, np.random.default_rng(0)).value for x in (a, a[::-1])
    )
    assert abs(first - second) < 0.03


def test_held_out_images_of_another_camera_are_seen_through_a_lens_that_does_not_care(tmp_path):
    train, holdout = cohort(range(20), images=2), cohort(range(100, 120))
    synthetic = cohort(range(200, 210), origin="synthetic")
    brighter = replace(holdout, pixels=(holdout.pixels * 0.8 + 51).astype(np.uint8))
    fair, unfair = (
        finding(
            make_case(
                tmp_path, train, side, synthetic, lens=lambda images: np.ones((len(images), 4))
            )
        )
        for side in (holdout, brighter)
    )
    assert fair.low < 0.5 < fair.high
    assert unfair.low > 0.85
    assert fair.n == unfair.n == 40
    assert fair.direction == "lower is better"
