"""The number of real images is read where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medsynth.validation import worth
from medsynth.validation.resampling import Resampled

COUNTS = np.array([0.0, 10, 30, 90])
SCORES = [0.5, 0.6, 0.7, 0.8]


def resampled(value: float, spread: float = 0.0, seed: int = 0) -> Resampled:
    noise = np.random.default_rng(seed).normal(0, spread, 400) if spread else np.zeros(400)
    return Resampled(value, value + noise, 100, 50)


@pytest.mark.parametrize(
    ("height", "wanted"),
    [
        (0.4, 0), (0.5, 0), (0.55, 5), (0.6, 10), (0.65, 10 * math.sqrt(3)),
        (0.7, 30), (0.8, 90), (0.9, 90),
    ],
)  # fmt: skip
def test_a_height_is_read_from_the_curve_and_never_beyond_it(height, wanted):
    assert worth.reach(COUNTS, SCORES, height) == pytest.approx(wanted)


def test_where_the_curve_falls_by_chance_points_are_pooled():
    found = worth.reach(COUNTS, [0.5, 0.7, 0.6, 0.8], 0.649)
    assert found == pytest.approx(10 * 0.149 / 0.15)
    after = worth.reach(COUNTS, [0.5, 0.7, 0.6, 0.8], 0.725)
    assert after == pytest.approx(30 * math.sqrt(3))


def test_sizes_rise_by_thirds_to_all_there_are():
    assert worth.sizes(1728, 2) == [7, 21, 64, 192, 576, 1728]
    assert worth.sizes(30, 3) == [10, 30]
    assert worth.sizes(5, 2) == [5]


def test_the_interval_is_that_of_the_draws_and_says_when_it_is_wide():
    curve = {10: resampled(0.6), 30: resampled(0.7), 90: resampled(0.8)}
    sharp = worth.read(curve, resampled(0.65), chance=0.5).estimate()
    assert sharp.low == sharp.value == sharp.high == pytest.approx(10 * math.sqrt(3))
    wide = worth.read(curve, resampled(0.65, 0.05), chance=0.5).estimate()
    assert wide.low < 12 < 25 < wide.high
    assert worth.read(curve, resampled(0.5), chance=0.5).value == 0


def test_where_real_images_teach_nothing_it_can_not_be_told():
    curve = {10: resampled(0.5, 0.05), 90: resampled(0.55, 0.05, 1)}
    assert math.isnan(worth.read(curve, resampled(0.7), chance=0.5).estimate().value)
