"""A segmenter asked twice: Dice by hand, both ends, and nobody outlined by who saw them."""

from __future__ import annotations

import numpy as np
import pytest
from known_truth import SETTINGS
from scipy import ndimage

from medsynth.cohort import Cohort, Record
from medsynth.validation import keeping
from medsynth.validation.segmented import Segmenter, dice, divide

SIZE = 32
rng = np.random.default_rng(0)


def spotted(patients: int = 9) -> tuple[Cohort, np.ndarray]:
    """Grey images with a bright square of known place, two a patient; and its mask."""
    pixels = rng.integers(60, 100, (2 * patients, SIZE, SIZE, 1))
    maps = np.zeros((2 * patients, 1, SIZE, SIZE), np.uint8)
    for i, (y, x) in enumerate(rng.integers(2, SIZE - 6, (2 * patients, 2))):
        pixels[i, y : y + 4, x : x + 4] += 120
        maps[i, 0, y : y + 4, x : x + 4] = 255
    records = tuple(Record(f"r{i}", "real", f"P{i // 2}") for i in range(2 * patients))
    return Cohort("chest_xray", records, pixels.astype(np.uint8)), maps


COHORT, MAPS = spotted()
EVERY = np.arange(len(COHORT))


def bright(images: np.ndarray) -> np.ndarray:
    return (images > 0.2).astype(np.float32)


def segmenter(**changes) -> Segmenter:
    parts = {
        "cohort": COHORT,
        "masked": EVERY,
        "maps": MAPS,
        "values": (7,),
        "fold": divide(COHORT.patients, seed=1),
        "nets": (bright,) * 3,
    }
    return Segmenter(**(parts | changes))


def test_dice_of_shares_is_the_usual_one_where_they_are_0_or_1():
    a, b = rng.random((2, 5, 3, 8, 8)) > 0.5
    usual = 2 * (a & b).sum((2, 3)) / (a.sum((2, 3)) + b.sum((2, 3)))
    assert dice(a, b) == pytest.approx(usual)
    shares = rng.random((2, 1, 8, 8))
    assert dice(shares, shares) == pytest.approx(np.ones((2, 1)))
    assert dice(shares, shares / 2) == pytest.approx(np.full((2, 1), 2 / 3))
    assert dice(shares, np.zeros_like(shares)) == pytest.approx(np.zeros((2, 1)))
    assert np.isnan(dice(np.zeros_like(shares), shares)).all()


def test_identity_loses_nothing_and_a_blur_loses_what_is_small():
    judge, images = segmenter(), COHORT.floats()
    same = judge.compare(images, images, EVERY)
    assert judge.right == {"class_7": 1.0}
    for name, value in (("agreement", 1), ("dice", 1), ("dice_lost", 0)):
        assert (same[f"segmenter.class_7.{name}"] == value).all()
    gone = judge.compare(images, ndimage.gaussian_filter(images, (0, 0, 4, 4)), EVERY)
    assert (gone["segmenter.class_7.dice_lost"] == 1).all()
    assert (gone["segmenter.class_7.agreement"] == 0).all()


def test_each_image_is_outlined_by_the_net_of_its_fold_alone():
    fold = divide(COHORT.patients, seed=3)
    nets = [lambda x, k=k: np.full((len(x), 1, SIZE, SIZE), k / 2, np.float32) for k in range(3)]
    found = segmenter(fold=fold, nets=nets).outline(COHORT.floats(), EVERY)[0]
    assert (found[:, 0, 0, 0] == fold / 2).all()
    for one in range(3):
        assert not set(COHORT.patients[fold == one]) & set(COHORT.patients[fold != one])
        assert len(set(COHORT.patients[fold == one])) == 3


def test_images_without_a_mask_or_without_the_class_have_no_number():
    maps = MAPS[::2].copy()
    maps[0] = 0
    judge = segmenter(masked=EVERY[::2], maps=maps, fold=divide(COHORT.patients[::2], seed=1))
    found = judge.compare(COHORT.floats(), COHORT.floats(), EVERY)["segmenter.class_7.dice"]
    assert np.isnan(found[1::2]).all()
    assert np.isnan(found[0])
    assert (found[2::2] == 1).all()


def test_findings_have_intervals_over_patients_and_say_how_good_the_segmenter_is():
    subject = keeping.Subject(COHORT, SETTINGS, seed=1, segmenter=segmenter())
    half, soft = (
        keeping.look(subject, way, what="x")
        for way in (keeping.halved, lambda x: ndimage.gaussian_filter(x, (0, 0, 1.2, 1.2)))
    )
    found = {one.name: one for one in keeping.to_findings(subject, soft, half)}
    lost = found["segmenter.class_7.dice_lost"]
    assert lost.low <= lost.value <= lost.high
    assert 0.05 < lost.value < 1
    assert lost.reference < lost.value  # half the size loses less
    assert lost.direction == "lower is better"
    assert "Dice 1.00 on the originals" in lost.method
    assert "over 9 patients" in lost.method
    better = {one.name: one for one in keeping.better(subject, half, soft)}
    assert better["better.segmenter.class_7.dice_lost"].low > 0
