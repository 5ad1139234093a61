from __future__ import annotations

import math

import numpy as np
import pytest

from medsynth.validation.resampling import Resampling
from medsynth.validation.statistics import bootstrap_mean, clopper_pearson


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_the_interval_is_that_of_the_bootstrap_over_patients():
    patients = np.repeat(np.arange(30), 3)
    values = np.repeat(rng().normal(size=30), 3) + 0.1 * rng().normal(size=90)
    found = Resampling(patients, draws=4000, rng=rng()).mean(values).estimate()
    wanted = bootstrap_mean(values, patients, 4000, rng())
    assert found.value == pytest.approx(wanted.value)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=0.03)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw, hits = rng(), 0
    for _ in range(200):
        values = draw.normal(size=40)
        found = Resampling(np.arange(40), draws=300, rng=draw).mean(values).estimate()
        hits += found.low <= 0 <= found.high
    assert 0.88 <= hits / 200 <= 0.98


def test_a_paired_difference_is_narrower_than_its_parts():
    easy = rng().normal(0, 1, 50)  # some images are easier than others, for both
    both = Resampling(np.arange(50), draws=1000, rng=rng())
    a, b = both.mean(easy + 0.1), both.mean(easy + 0.01 * rng().normal(size=50))
    difference = (a - b).estimate()
    assert difference.low > 0
    assert difference.high - difference.low < 0.1 * (a.estimate().high - a.estimate().low)


def test_images_without_a_number_are_left_out():
    found = Resampling(np.array([0, 0, 1, 2]), draws=50, rng=rng()).mean(
        np.array([1.0, math.nan, 3.0, math.nan])
    )
    assert (found.value, found.images, found.patients) == (2.0, 2, 2)
    nothing = Resampling(np.arange(3), draws=50, rng=rng()).mean(np.full(3, math.nan))
    assert math.isnan(nothing.value)
    assert nothing.images == 0


def test_one_patient_gives_no_interval():
    found = Resampling(np.zeros(9, int), draws=50, rng=rng()).mean(np.arange(9.0)).estimate()
    assert found.value == 4
    assert math.isnan(found.low)


def test_when_all_agree_the_ends_are_those_of_so_many_patients():
    patients = np.repeat(np.arange(12), 2)
    every = Resampling(patients, draws=50, rng=rng())
    assert every.mean(np.ones(24)).share() == clopper_pearson(12, 12)
    assert every.mean(np.zeros(24)).share() == clopper_pearson(0, 12)
    some = every.mean((np.arange(24) % 3 == 0).astype(float))
    assert some.share() == some.estimate()
