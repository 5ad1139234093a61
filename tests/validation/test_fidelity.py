from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case
from scipy import ndimage

from medsynth.errors import DataError
from medsynth.validation import fidelity

TRAIN, HOLDOUT = cohort(range(40)), cohort(range(100, 140))
FRESH = cohort(range(200, 260), origin="synthetic")


def measured(folder, synthetic, **changes):
    case = make_case(folder, TRAIN, HOLDOUT, synthetic, **changes)
    return {f.name.removeprefix("fidelity."): f for f in fidelity.measure(case)}


def test_fresh_images_of_the_same_kind_reach_the_real_against_real_floor(tmp_path):
    found = measured(tmp_path, FRESH)
    for name in ("precision", "recall", "density", "coverage", "sharpness"):
        assert found[name].value == pytest.approx(found[name].reference, abs=0.3), name
    assert found["frechet"].value < 2 * found["frechet"].reference
    assert found["kernel"].low < 0.02


def test_noise_is_far_from_everything(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, FRESH.pixels.shape).astype(np.uint8)
    found = measured(tmp_path, replace(FRESH, pixels=noise))
    assert found["precision"].value == found["coverage"].value == found["density"].value == 0
    assert found["frechet"].low > found["frechet"].reference
    assert found["kernel"].low > found["kernel"].reference
    assert found["sharpness"].low > 5


def test_a_blurred_cohort_is_less_sharp_than_real(tmp_path):
    blurred = ndimage.gaussian_filter(FRESH.pixels.astype(float), (0, 1, 1, 0)).astype(np.uint8)
    found = measured(tmp_path, replace(FRESH, pixels=blurred))
    assert found["sharpness"].high < 0.7


def test_one_image_again_and_again_is_faithful_and_covers_nothing(tmp_path):
    same = np.repeat(np.asarray(TRAIN.pixels[:1]), len(FRESH), axis=0)
    found = measured(tmp_path, replace(FRESH, pixels=same))
    assert found["recall"].value == 0
    assert found["coverage"].value < 0.3


def test_all_sides_have_as_many_images_and_say_so(tmp_path):
    found = measured(tmp_path, FRESH)
    assert {f.n for f in found.values()} == {40}
    assert all("40 images a side" in f.method for f in found.values())
    few = measured(tmp_path, FRESH, settings=SETTINGS.model_copy(update={"fidelity_images": 15}))
    assert {f.n for f in few.values()} == {15}


def test_every_interval_holds_its_value(tmp_path):
    for finding in measured(tmp_path, FRESH).values():
        assert finding.low <= finding.value <= finding.high, finding.name


def test_too_few_images_are_an_error(tmp_path):
    with pytest.raises(DataError, match="at least 10 images a side, got 3"):
        measured(tmp_path, FRESH.take(range(3)))
