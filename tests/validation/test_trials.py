"""Numbers of several trainings: right against plain formulas, and their intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medsynth.validation.trials import Trials, share


def trials(truth, patients=None, *, trainings=3, draws=400, seed=0) -> Trials:
    truth = np.asarray(truth)
    patients = np.arange(len(truth)) if patients is None else patients
    return Trials(
        truth, patients, trainings=trainings, draws=draws, rng=np.random.default_rng(seed)
    )


def answers(truth, *, classes=2, trainings=3, strength=1.0, seed=1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    truth = np.asarray(truth)
    logits = rng.normal(size=(trainings, len(truth), classes)).round(1)
    logits[:, np.arange(len(truth)), np.maximum(truth, 0)] += strength
    return (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).round(6)


def area_by_pairs(scores: np.ndarray, positive: np.ndarray) -> float:
    a, b = scores[positive][:, None], scores[~positive][None]
    return float((a > b).mean() + (a == b).mean() / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_areas_and_accuracies_are_those_of_plain_formulas(classes):
    truth = np.random.default_rng(2).integers(0, classes, 60)
    said = answers(truth, classes=classes)
    found = trials(truth)
    sides = range(1 if classes == 2 else 0, classes)
    areas = [np.mean([area_by_pairs(row[:, v], truth == v) for v in sides]) for row in said]
    assert found.area(said).value == pytest.approx(np.mean(areas))
    right = said.argmax(2) == truth
    recalls = [[row[truth == v].mean() for v in range(classes)] for row in right]
    assert found.accuracy(said).value == pytest.approx(np.mean(recalls))
    assert found.recall(said, 1).value == pytest.approx(np.mean(recalls, axis=0)[1])


def test_draws_are_those_of_whole_patients():
    truth, patients = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 3])
    said = answers(truth, trainings=1)
    found = trials(truth, patients, trainings=1, draws=50)
    drawn = found.area(said).drawn
    for times, value in zip(found.resampling.times, drawn, strict=True):
        again = np.repeat(np.arange(6), times[patients])
        if len(np.unique(truth[again])) == 2:
            wanted = area_by_pairs(said[0, again, 1], truth[again] == 1)
            assert value == pytest.approx(wanted)
        else:
            assert math.isnan(value)


def test_order_does_not_matter_and_what_is_not_asked_counts_nowhere():
    truth = np.array([0, 1] * 20)
    said = answers(truth)
    order = np.random.default_rng(5).permutation(40)
    one, other = trials(truth), trials(truth[order])
    assert one.area(said).value == pytest.approx(other.area(said[:, order]).value)
    more = np.concatenate([truth, [-1, -1]])
    wider = np.concatenate([said, np.full((3, 2, 2), 0.5)], axis=1)
    found = trials(more, trainings=3)
    assert found.area(wider).value == pytest.approx(one.area(said).value)
    assert found.accuracy(wider).value == pytest.approx(one.accuracy(said).value)
    assert found.area(wider).images == 40


def test_both_ends():
    truth = np.array([0, 1] * 30)
    perfect = np.stack([np.eye(2)[truth]] * 3)
    found = trials(truth)
    assert found.area(perfect).value == found.accuracy(perfect).value == 1
    ends = share(found.area(perfect))
    assert 0.85 < ends.low < ends.high == 1  # 30 patients do not prove that all are right
    blind = np.full((3, 60, 2), 0.5)
    assert found.area(blind).value == found.accuracy(blind).value == 0.5


def test_one_class_alone_has_no_area():
    found = trials(np.zeros(10, int))
    assert math.isnan(found.area(answers(np.zeros(10, int))).value)


@pytest.mark.parametrize(("between", "trainings"), [(0.0, 3), (0.08, 3), (0.08, 5)])
def test_the_interval_covers_what_trainings_and_patients_would_say_on_average(between, trainings):
    """A simulated classifier: each training has its own skill, each patient is harder or easier
    for all of them. The truth is the share of right answers of all trainings about everybody."""
    rng, hits, runs, truth = np.random.default_rng(3), 0, 200, np.zeros(60, int)
    for run in range(runs):
        easy = rng.normal(0, 0.15, 30).repeat(2)
        skill = rng.normal(0, between, (trainings, 1))
        right = rng.random((trainings, 60)) < np.clip(0.7 + easy + skill, 0, 1)
        said = np.stack([right, ~right], axis=2).astype(float)
        found = trials(truth, np.arange(30).repeat(2), trainings=trainings, seed=run)
        ends = found.mean((said.argmax(2) == truth).astype(float)).estimate()
        hits += ends.low <= 0.7 <= ends.high
    assert stats.binom.cdf(hits, runs, 0.95) > 1e-3  # not clearly less often than promised


def test_trainings_that_agree_add_nothing_to_the_bootstrap_over_patients():
    values = np.random.default_rng(0).random((1, 40)).repeat(3, 0)
    found = trials(np.zeros(40, int))
    together, alone = found.mean(values), found.resampling.mean(values[0])
    assert together.drawn == pytest.approx(alone.drawn)


def test_a_paired_difference_leaves_out_what_both_share():
    truth = np.array([0, 1] * 40)
    said = answers(truth, strength=0.5)
    better = said + 0.0
    found = trials(truth)
    assert (found.area(said) - found.area(better)).estimate().high == 0
