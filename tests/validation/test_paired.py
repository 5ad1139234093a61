"""Masks beside images: found where they are, missed where they are not, copies of them seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case, masked

from medsynth.validation.paired import Paired, measure_masks, measure_pairs
from medsynth.validation.quarantine import remaining

NAME, FEW = "chest_xray", SETTINGS.model_copy(update={"candidates": 4})


@pytest.fixture(scope="module")
def sides():
    return tuple(masked(cohort(range(a, a + 16), name=NAME)) for a in (0, 100))


def case_of(folder, sides, drawn, find=None):
    paired = Paired(*sides, find, (1, 2), ("lung", "heart"))
    return make_case(folder, *sides, drawn, paired=paired, settings=FEW)


def by_name(findings):
    return {finding.name: finding for finding in findings}


def test_images_that_show_their_masks_are_told_from_others(sides, tmp_path):
    drawn = masked(cohort(range(200, 212), name=NAME, origin="synthetic"))
    answers = {image.tobytes(): mask for side in (drawn, sides[1])
               for image, mask in zip(side.floats(), side.masks, strict=True)}  # fmt: skip

    def knows(images):
        return np.stack([answers[image.tobytes()] for image in images])

    found = by_name(measure_pairs(case_of(tmp_path, sides, drawn, knows)))
    assert found["pairs.dice"].value == found["pairs.dice_real"].value == 1.0
    assert found["pairs.boundary_f1"].value == 1.0
    assert found["pairs.dice"].reference < 0.9
    assert found["pairs.gain"].low > 0
    lungs = found["pairs.area.lung"]
    assert lungs.value == pytest.approx((drawn.masks == 1).mean())
    assert lungs.reference == pytest.approx((sides[1].masks == 1).mean())
    assert (found["pairs.dice"].n, found["pairs.dice_real"].n) == (12, 16)

    def sees_the_next(images):
        return np.roll(knows(images), 5, axis=0)

    found = by_name(measure_pairs(case_of(tmp_path, sides, drawn, sees_the_next)))
    assert found["pairs.gain"].low <= 0


def test_a_case_without_masks_measures_none(sides, tmp_path):
    case = replace(case_of(tmp_path, sides, sides[0]), paired=None)
    assert list(measure_masks(case)) == list(measure_pairs(case)) == []
    assert not (tmp_path / "masks").exists()


def test_copied_masks_are_seen_under_new_images_and_taken_out_with_them(sides, tmp_path):
    new = cohort(range(300, 324), name=NAME, origin="synthetic")
    masks = masked(cohort(range(400, 424), name=NAME, origin="synthetic")).masks
    masks[:16] = sides[0].masks[:, :, ::-1]
    drawn = replace(new, masks=masks)
    case = case_of(tmp_path, sides, drawn)
    found = by_name(measure_masks(case))
    assert found["masks.p_value"].value <= 0.01
    assert found["masks.exact_copies"].value == 16
    assert found["masks.copy_rate"].unit == "share of synthetic masks"
    assert found["masks.copy_rate"].method.startswith("of masks as pictures: ")
    (tmp_path / "quarantine.csv").write_text("synthetic,p,quarantined\n")
    left = remaining(drawn, tmp_path)
    assert not {record.id for record in drawn.records[:16]} & {r.id for r in left.records}
    assert len(left) >= 6
