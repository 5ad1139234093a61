"""What training, held-out and synthetic folders have in common that they should not."""

from __future__ import annotations

import numpy as np
import pytest

from medsynth.cohort import Cohort, Record
from medsynth.data import overlap, phantoms

SIDE_PX = 64
SAME = {"correlation": 0.9}


def pixels(*people: int, image: int = 0) -> np.ndarray:
    return np.stack([phantoms.draw("fundus", p, image, 1, SIDE_PX)[0] for p in people])


def cohort(images: np.ndarray, patients=None, *, origin: str = "real") -> Cohort:
    names = patients or [""] * len(images)
    records = [Record(f"{origin}-{n}", origin, name) for n, name in enumerate(names)]
    return Cohort("fundus", tuple(records), images)


def saved_anew(images: np.ndarray) -> np.ndarray:
    """Copies as another program exports them: darker, a little noisy."""
    rng = np.random.default_rng(0)
    changed = images * 0.9 + rng.normal(0, 2, images.shape)
    return np.clip(changed, 0, 255).astype(np.uint8)


def test_different_people_do_not_match():
    found = overlap.match(pixels(*range(30)), pixels(*range(100, 130)), **SAME)
    assert not found.found.any()
    assert found.counts == {"exact": 0, "near": 0}


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x[:, :, ::-1], lambda x: x.swapaxes(1, 2)])
def test_copies_match_the_image_they_copy_however_turned(turn):
    found = overlap.match(turn(pixels(50, 3, 51, 1)), pixels(0, 1, 2, 3), **SAME)
    assert found.other.tolist() == [-1, 3, -1, 1]
    assert found.exact.tolist() == [False, True, False, True]
    assert found.correlation.tolist() == [0, 1, 0, 1]


def test_copies_that_were_saved_anew_match_and_are_not_called_exact():
    found = overlap.match(saved_anew(pixels(2, 60)), pixels(0, 1, 2), **SAME)
    assert found.other.tolist() == [2, -1]
    assert found.counts == {"exact": 0, "near": 1}
    assert 0.9 <= found.correlation[0] < 1


def test_a_negative_matches_with_a_correlation_below_0():
    found = overlap.match(255 - pixels(1), pixels(0, 1), **SAME)
    assert found.other.tolist() == [1]
    assert found.correlation[0] <= -0.9


def test_correlation_of_1_asks_for_exact_copies_alone():
    images = np.concatenate([pixels(1), saved_anew(pixels(0))])
    found = overlap.match(images, pixels(0, 1), correlation=1.0)
    assert found.other.tolist() == [1, -1]


def test_a_chain_of_likeness_does_not_join_what_is_not_alike():
    """a is like b and b like c; a and c are looked up in one another."""
    rng = np.random.default_rng(1)
    a, c = rng.normal(size=(2, SIDE_PX // 2, SIDE_PX // 2, 1)).repeat(2, 1).repeat(2, 2)
    images = [np.cos(angle) * a + np.sin(angle) * c for angle in (0.0, 0.4, 0.8)]
    first, middle, last = (np.clip(128 + 40 * x, 0, 255).astype(np.uint8) for x in images)
    found = overlap.match(np.stack([middle, last]), first[None], correlation=0.85)
    assert found.other.tolist() == [0, -1]


def test_every_image_of_a_held_out_patient_with_one_in_training_is_taken_out():
    train = cohort(pixels(0, 1, 2), ["a", "b", "c"])
    images = np.concatenate([pixels(5, 1), pixels(6, 5, image=1)])
    holdout = cohort(images, ["x", "y", "z", "y"])
    found = overlap.find_overlap(train, holdout, cohort(pixels(9), origin="synthetic"), **SAME)
    assert found.holdout_in_train.found.tolist() == [False, True, False, False]
    assert found.kept.tolist() == [True, False, True, False]
    assert not found.shared_patients


def test_patients_on_both_sides_are_told():
    train, holdout = (
        cohort(pixels(0, 1), ["a", "b"]),
        cohort(pixels(5, 6, 7), ["b", "", "d"]),
    )
    found = overlap.find_overlap(train, holdout, cohort(pixels(9), origin="synthetic"), **SAME)
    assert found.shared_patients == {"b"}
    assert found.kept.all()


def test_synthetic_images_are_looked_up_on_both_sides():
    train, holdout = cohort(pixels(0, 1)), cohort(pixels(5, 6))
    synthetic = cohort(pixels(1, 9, 5, 6), origin="synthetic")
    found = overlap.find_overlap(train, holdout, synthetic, **SAME)
    assert found.synthetic_in_train.found.tolist() == [True, False, False, False]
    assert found.synthetic_in_holdout.found.tolist() == [False, False, True, True]


def test_a_held_out_image_that_is_a_training_image_counts_as_a_training_image_only():
    train, holdout = cohort(pixels(0, 1)), cohort(pixels(5, 1, 6))
    found = overlap.find_overlap(train, holdout, cohort(pixels(1, 6), origin="synthetic"), **SAME)
    assert found.synthetic_in_train.other.tolist() == [1, -1]
    assert found.synthetic_in_holdout.other.tolist() == [-1, 2]
