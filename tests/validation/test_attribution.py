"""The cohort's test is exact whatever the generator looks like, and sees copies."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from medsynth.validation.attribution import attribution_test, cut_offs, rank, weights

RUNS = 200
PATIENTS, HELD_OUT, IMAGES = 70, 30, 60


def draw(generator: str, rng: np.random.Generator) -> np.ndarray:
    """Return (IMAGES, 6) features of images by somebody who has seen nobody."""
    made = rng.standard_normal((IMAGES, 6))
    if generator == "smooth":
        made[:, 3:] *= 0.2
    if generator == "shrunk":
        made *= 0.4
    if generator == "collapsed":
        made = 0.01 * made + rng.standard_normal((3, 6))[rng.integers(3, size=IMAGES)]
    if generator == "of one class":
        made[:, 0] = np.abs(made[:, 0]) + 2
    return made


def people(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return (140, 6) features of the pooled real images and their patients, two images each."""
    patients = np.repeat(np.arange(PATIENTS), 2)
    centres = rng.standard_normal((PATIENTS, 6))
    centres[: PATIENTS // 5, 0] += 2  # a rare class
    return centres[patients] + 0.3 * rng.standard_normal((2 * PATIENTS, 6)), patients


def ranking(made, real, patients, rng):
    distance = ((made[:, None] - real[None]) ** 2).sum(2)
    nearest = patients[distance.argmin(1)]
    second = np.where(patients[None] == nearest[:, None], np.inf, distance).min(1)
    return rank(nearest, distance.min(1) / second, rng)


def simulated_p(seed: int, generator: str, copies: int = 0) -> float:
    """The p-value of one study with known truth, in two spaces."""
    rng = np.random.default_rng(seed)
    real, patients = people(rng)
    is_train = rng.permutation(np.arange(PATIENTS) >= HELD_OUT)
    made = draw(generator, rng)
    sources = rng.choice(np.flatnonzero(is_train[patients]), copies, replace=False)
    made[:copies] = real[sources] + 0.02 * rng.standard_normal((copies, 6))
    spaces = (slice(0, 6), slice(0, 3))
    rankings = [ranking(made[:, part], real[:, part], patients, rng) for part in spaces]
    return attribution_test(rankings, is_train, 99, rng)


@pytest.mark.parametrize("generator", ["fresh", "smooth", "shrunk", "collapsed", "of one class"])
def test_it_alarms_at_its_level_at_most_whatever_the_generator(generator):
    p = np.array([simulated_p(seed, generator) for seed in range(RUNS)])
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).sum() <= stats.binom.ppf(0.999, RUNS, level)
    if generator != "collapsed":  # few patients are anybody's nearest, and few p-values possible
        assert (p <= 0.2).sum() >= stats.binom.ppf(0.001, RUNS, 0.15)


def test_it_sees_copies():
    assert sum(simulated_p(seed, "fresh", copies=12) <= 0.05 for seed in range(40)) >= 36


def test_few_copies_that_stand_out_need_no_cut_off_at_their_number():
    rng = np.random.default_rng(0)
    is_train = np.arange(1000) < 500
    patients = rng.integers(1000, size=1000)
    scores = rng.uniform(0.9, 1.0, size=1000)
    patients[:8], scores[:8] = np.arange(8) * 7, rng.uniform(0.1, 0.4, size=8)
    assert attribution_test([rank(patients, scores, rng)], is_train, 1999, rng) < 0.02


def test_many_copies_of_one_patient_are_one_patient():
    """However often a generator repeats somebody: he was as likely to be held out."""
    rng = np.random.default_rng(1)
    is_train = np.arange(80) < 40
    patients, scores = np.repeat(3, 50), np.full(50, 0.1)
    assert attribution_test([rank(patients, scores, rng)], is_train, 999, rng) > 0.4


def test_it_agrees_with_counting_all_divisions():
    """An independent reckoning: every division of 8 patients, statistic by statistic."""
    rng = np.random.default_rng(2)
    found = rank(rng.integers(8, size=12), rng.uniform(size=12), rng)
    is_train = np.zeros(8, bool)
    is_train[[0, 2, 5, 6]] = True

    def counts(chosen):
        return [
            sum(1 for patient in found.patients[:cut] if patient in chosen)
            if not once
            else len(set(found.patients[:cut].tolist()) & set(chosen))
            for cut in cut_offs(12)
            for once in (False, True)
        ]

    def heaviest(chosen):
        best = dict.fromkeys(range(8), 0.0)
        for patient, score in zip(found.patients.tolist(), found.scores, strict=True):
            best[patient] = max(best[patient], (1 - score) ** 2)
        return [sum(best[patient] for patient in chosen)]

    divisions = [(0, 2, 5, 6), *combinations(range(8), 4)]
    places = []
    for statistic in (counts, heaviest):
        table = np.array([statistic(chosen) for chosen in divisions])
        spread = table[1:].std(0)
        z = (table - table[1:].mean(0)) / np.where(spread > 1e-9, spread, np.inf)
        largest = z.max(1).round(6)
        places.append((largest[None, 1:] >= largest[:, None]).mean(1))
    smallest = np.min(places, axis=0)
    exact = (smallest[1:] <= smallest[0] + 1e-12).mean()
    p = attribution_test([found], is_train, 4999, rng)
    assert p == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 5000) + 1 / 5000)


def test_it_is_blind_without_held_out_patients():
    rng = np.random.default_rng(3)
    found = rank(np.arange(30), np.linspace(0, 1, 30), rng)
    assert attribution_test([found], np.ones(30, bool), 99, rng) == 1


def test_all_nearest_to_training_patients_is_the_smallest_p_value():
    rng = np.random.default_rng(4)
    found = rank(np.arange(40), np.linspace(0, 1, 40), rng)
    assert attribution_test([found], np.arange(80) < 40, 199, rng) == 1 / 200


def test_all_nearest_to_held_out_patients_is_no_alarm():
    rng = np.random.default_rng(5)
    found = rank(np.arange(40), np.linspace(0, 1, 40), rng)
    assert attribution_test([found], np.arange(80) >= 40, 199, rng) > 0.9


def test_a_tie_falls_on_either_image_alike():
    rng = np.random.default_rng(6)
    first = [rank(np.array([7, 8]), np.array([0.5, 0.5]), rng).patients[0] for _ in range(400)]
    assert stats.binomtest(first.count(7), 400).pvalue > 0.001
    sorted_ = rank(np.array([3, 1, 2]), np.array([0.3, 0.1, 0.2]), rng)
    assert sorted_.patients.tolist() == [1, 2, 3]


def test_a_patient_weighs_by_the_worst_of_his_images_once():
    found = rank(np.array([2, 2, 0]), np.array([0.5, 0.1, 1.0]), np.random.default_rng(0))
    assert weights([found], 4)["weights"][0] == pytest.approx([0, 0, 0.81, 0])
