from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medsynth.validation.membership import Guess, findings, p_value, per_patient, true_positives


def guess(scores: np.ndarray, *, naive: np.ndarray | None = None) -> Guess:
    naive = np.zeros(len(scores)) if naive is None else naive
    return Guess("loss", scores, naive, "scored so", "nothing")


def by_name(scores, is_train, **options):
    return {f.name: f for f in findings(guess(scores, **options), is_train)}


def test_perfect_scores_find_everybody_and_backward_ones_nobody():
    is_train = np.repeat([True, False], [300, 1200])
    perfect, backward = (by_name(sign * is_train.astype(float), is_train) for sign in (1, -1))
    for name in ("membership.loss.auc", "membership.loss.tpr_1", "membership.loss.tpr_01"):
        assert perfect[name].value == perfect[name].high == 1.0
        assert backward[name].value == backward[name].low == 0.0
    assert perfect["membership.loss.auc"].low > 0.98
    assert perfect["membership.loss.tpr_1"].low > 0.98
    assert backward["membership.loss.tpr_1"].high < 0.02


def test_a_constant_score_is_a_guess():
    is_train = np.repeat([True, False], 200)
    found = by_name(np.zeros(400), is_train)
    assert found["membership.loss.auc"].value == 0.5
    assert found["membership.loss.tpr_1"].value == 0.0
    assert p_value([guess(np.zeros(400))], is_train, 99, np.random.default_rng(0)) == 1.0


@pytest.mark.parametrize(("held_out", "resolved"), [(98, False), (99, True)])
def test_a_rate_that_held_out_patients_cannot_resolve_has_no_value(held_out, resolved):
    rng = np.random.default_rng(0)
    is_train = np.repeat([True, False], [50, held_out])
    found = by_name(rng.standard_normal(50 + held_out), is_train)["membership.loss.tpr_1"]
    assert found.is_number == resolved
    assert ("that takes 99 held-out ones" in found.method) != resolved
    assert 0.0 == found.low < found.high < 0.3  # a bound there is all the same


def test_scores_that_are_no_numbers_give_findings_that_are_none():
    is_train = np.repeat([True, False], 100)
    found = by_name(np.full(200, np.nan), is_train)
    assert not any(finding.is_number for finding in found.values())
    assert all((f.low, f.high) == (0.0, 1.0) for f in found.values())


def test_the_naive_guess_is_judged_as_the_attack_is():
    rng = np.random.default_rng(2)
    is_train = rng.random(500) < 0.5
    naive = rng.standard_normal(500) + is_train
    found = by_name(rng.standard_normal(500), is_train, naive=naive)
    itself = by_name(naive, is_train)
    for name in ("membership.loss.auc", "membership.loss.tpr_1"):
        assert found[name].reference == itself[name].value
    assert found["membership.loss.tpr_01"].reference is None


def test_the_order_of_patients_does_not_matter():
    rng = np.random.default_rng(3)
    is_train, scores = rng.random(300) < 0.4, rng.standard_normal(300)
    order = rng.permutation(300)
    assert by_name(scores, is_train) == by_name(scores[order], is_train[order])


def test_patients_of_many_images_are_spread_as_patients_of_one_are():
    rng = np.random.default_rng(0)
    patients = np.concatenate([np.arange(500), np.repeat(np.arange(500, 1000), 9)])
    scores = per_patient(rng.normal(3, 7, len(patients)), patients)
    assert np.allclose([scores[:500].std(), scores[500:].std()], 1, atol=0.12)
    assert np.allclose([scores[:500].mean(), scores[500:].mean()], 0, atol=0.2)


@pytest.mark.parametrize("m", [60, 400, 3000])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_interval_of_the_share_found_holds_the_truth_at_either_end(m, shift):
    """Normal scores, shifted for members: the true share is known in closed form."""
    rng = np.random.default_rng(int(m + 10 * shift))
    rate, trials = 0.01, 800
    truth = stats.norm.sf(stats.norm.isf(rate) - shift)
    found = [
        true_positives(rng.standard_normal(150) + shift, rng.standard_normal(m), rate)
        for _ in range(trials)
    ]
    most = stats.binom.ppf(0.999, trials, 0.025)
    assert sum(f.low > truth for f in found) <= most
    assert sum(f.high < truth for f in found) <= most
    assert all(f.low <= f.value <= f.high or math.isnan(f.value) for f in found)


def test_few_held_out_patients_still_bound_the_share_found_from_above():
    """Of 40 held-out patients one passes the true threshold of 0.1 % in 1 of 25 studies."""
    rng = np.random.default_rng(0)
    found = true_positives(rng.standard_normal(400), rng.standard_normal(40), 0.001)
    assert math.isnan(found.value)
    assert 0.0 == found.low < found.high < 0.2


def test_tied_scores_never_make_a_threshold_looser_than_asked_for():
    """Half of the held-out patients share the highest score: nobody lies over it."""
    outside = np.repeat([0.0, 1.0], 500)
    assert true_positives(np.ones(100), outside, 0.01).value == 0.0
    assert true_positives(np.full(100, 2.0), outside, 0.01).value == 1.0


def test_the_p_value_is_spread_evenly_where_nothing_was_learned():
    """Three correlated guesses of 40 patients, tested together, 400 times."""
    rng = np.random.default_rng(1)
    small = 0
    for trial in range(400):
        base = rng.standard_normal(40)
        guesses = [guess(base + rng.standard_normal(40)) for _ in range(3)]
        is_train = rng.permutation(np.repeat([True, False], [25, 15]))
        small += p_value(guesses, is_train, 99, np.random.default_rng(trial)) <= 0.05
    assert stats.binomtest(small, 400, 0.05, alternative="greater").pvalue > 0.001
    assert small >= stats.binom.ppf(0.001, 400, 0.03)  # it does not sleep either


def test_the_p_value_sees_a_shift_of_all_and_a_few_who_stand_out():
    rng = np.random.default_rng(5)
    is_train = np.repeat([True, False], [80, 170])
    shifted = rng.standard_normal(250) + 0.6 * is_train
    few = rng.standard_normal(250)
    few[:5] = 9.0  # chance puts five of them into training once in 300 divisions
    for scores in (shifted, few):
        guesses = [guess(rng.standard_normal(250)), guess(scores)]
        assert p_value(guesses, is_train, 999, rng) < 0.05
    assert math.isnan(p_value([], is_train, 99, rng))
