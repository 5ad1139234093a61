"""When copying sets in: an exact test, a fixed rule, and truth that is known."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from known_truth import cohort
from scipy import stats

from medsynth.domains import domain
from medsynth.errors import StageError
from medsynth.protocol import Choose
from medsynth.validation.checkpoints import (
    Bar,
    Watch,
    check_possible,
    choose,
    one_a_patient,
    rank_of,
    small_picture,
)

SETTINGS = Choose(images=30, false_alarms=0.05)


@pytest.mark.parametrize(
    ("drawn", "patients", "rank"), [(4, 5, 1), (4, 5, 2), (6, 3, 3), (3, 1, 1)]
)
def test_p_values_are_those_of_all_orders_counted_out(drawn, patients, rank):
    """The oracle: every order of the scores, each as probable as any other."""
    counts = []
    for places in combinations(range(drawn + patients), patients):
        bar = sorted(places)[rank - 1]
        counts.append(sum(place not in places for place in range(bar)))
    bar = Bar(0.0, rank, patients)
    for flagged in range(drawn + 1):
        expected = np.mean(np.array(counts) >= flagged)
        assert bar.p_value(flagged, drawn) == pytest.approx(expected, rel=1e-9)


def test_small_p_values_are_not_nothing():
    """All of 200 images under the smallest of 79: one order in as many as there are."""
    assert Bar(0.0, 1, 79).p_value(200, 200) == pytest.approx(1 / comb(279, 79), rel=1e-6)
    assert Bar(0.0, 1, 79).p_value(0, 200) == pytest.approx(1.0)


@pytest.mark.parametrize("digits", [9, 1])
@pytest.mark.parametrize("patients", [12, 60])
def test_weights_that_do_not_copy_are_held_back_at_most_at_the_level(patients, digits):
    """With scores of one digit there are many ties, which must not count against the weights."""
    rng, trials, drawn = np.random.default_rng(patients), 4000, 50
    rank = rank_of(patients, 0.05)
    least = Bar(0.0, rank, patients).least(drawn, 0.05)
    bars = np.sort(rng.random((trials, patients)).round(digits), 1)[:, rank - 1]
    flagged = (rng.random((trials, drawn)).round(digits) < bars[:, None]).sum(1)
    rejected = int((flagged >= least).sum())
    assert stats.binomtest(rejected, trials, 0.05, alternative="greater").pvalue > 0.001
    if digits == 9:
        assert rejected > 0.02 * trials  # and the level is used


def test_the_fewest_flagged_images_that_reject_are_the_fewest():
    bar = Bar(0.0, 1, 50)
    least = bar.least(200, 0.05)
    assert bar.p_value(least, 200) <= 0.05 < bar.p_value(least - 1, 200)
    assert Bar(0.0, 1, 1).least(3, 0.05) == 4  # 1 / 4 is the smallest there is


@pytest.mark.parametrize(("patients", "rank"), [(1, 1), (98, 1), (199, 2), (1000, 10)])
def test_bar_flags_at_most_the_share_asked_for_where_it_can(patients, rank):
    assert rank_of(patients, 0.01) == rank
    assert Bar(0.0, rank, patients).expected <= max(0.01, 1 / (patients + 1))


@pytest.mark.parametrize(
    ("copying", "taken"),
    [
        ([False, False, False], 2),
        ([False, False, True], 1),
        ([False, True, False], 0),  # what comes later is not believed
        ([True, False, False], 0),
        ([True, True, True], 0),
        ([False], 0),
    ],
)
def test_last_weights_before_the_first_that_copy_are_taken(copying, taken):
    assert choose(copying) == taken


@pytest.fixture(scope="module")
def watch() -> Watch:
    train, validation = cohort(range(40)), cohort(range(40, 80))
    return Watch(train, validation, domain("fundus"), SETTINGS, seed=1)


def test_copies_are_flagged_and_traced_to_their_originals(watch):
    images = cohort(range(5, 20)).floats()
    found = watch.find(images[..., ::-1].copy())
    assert (found.score < watch.bar.score).all()
    assert (found.image == np.arange(5, 20)).all()
    assert watch.bar.p_value(15, 15) < 1e-4


def test_other_people_are_not_taken_for_copies(watch):
    flagged = int((watch.find(cohort(range(80, 120)).floats()).score < watch.bar.score).sum())
    assert watch.bar.expected == pytest.approx(2 / 41)
    assert watch.bar.p_value(flagged, 40) > 0.05


def test_order_of_the_patients_does_not_matter(watch):
    order = np.random.default_rng(0).permutation(40)
    train, validation = cohort(range(40)), cohort(range(40, 80))
    again = Watch(train.take(order), validation.take(order), domain("fundus"), SETTINGS, seed=2)
    assert again.bar.score == pytest.approx(watch.bar.score, abs=1e-5)
    images = cohort(range(3)).floats()
    assert (order[again.find(images).image] == np.arange(3)).all()


def test_every_patient_has_one_image_in_it():
    patients = np.array([7, 7, 7, 3, 9, 9])
    taken = [one_a_patient(patients, seed=seed) for seed in range(40)]
    assert all(sorted(patients[some]) == [3, 7, 9] for some in taken)
    assert {int(i) for some in taken for i in some} == set(range(6))


def test_small_picture_does_not_know_how_bright_an_image_is():
    images = cohort(range(2)).floats()
    seen = small_picture(images)
    assert seen.shape == (2, 3 * 64)
    np.testing.assert_allclose(small_picture(images - 0.3), seen, atol=1e-6)


def test_too_few_validation_patients_to_see_anything_are_refused():
    check_possible(SETTINGS, patients=10)
    with pytest.raises(StageError, match="can't see copying with 0 validation patients"):
        check_possible(SETTINGS, patients=0)
    with pytest.raises(StageError, match=r"raise split\.validation or leave choose null"):
        check_possible(SETTINGS.model_copy(update={"level": 0.01}), patients=1)
