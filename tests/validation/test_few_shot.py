"""Children that are new images of the same class help, children of noise do not."""

from __future__ import annotations

import numpy as np
import pytest
from made_school import SETTINGS, learn_quickly, patterned, school

from medsynth.validation import few_shot

STRENGTH = 0.08
TRAIN, HOLDOUT = (patterned(who, strength=STRENGTH) for who in (range(60), range(1000, 1200)))
FRESH = patterned(range(2000, 2400), strength=STRENGTH)
ABLE = SETTINGS.model_copy(update={"shots": (1, 4, 50), "trainings": 4})


def fresh(cohort, chosen, seed):
    """Show new images of the same class."""
    pools = {
        value: np.flatnonzero(np.array(FRESH.labels("finding")) == value)
        for value in ("sick", "well")
    }
    classes = [cohort.records[i].labels["finding"] for i in chosen]

    def show(indices, draws):
        rng = np.random.default_rng([seed % 1000, int(draws[0])])
        return FRESH.floats([rng.choice(pools[classes[i]]) for i in indices])

    return show


def noise(cohort, chosen, seed):
    def show(indices, draws):
        rng = np.random.default_rng([seed % 1000, int(draws[0])])
        return rng.normal(0, 0.5, (len(indices), 1, 16, 16)).clip(-1, 1).astype(np.float32)

    return show


def compare(folder, stand_in, teach=learn_quickly) -> dict:
    made = school(folder, TRAIN, HOLDOUT, FRESH, settings=ABLE, teach=teach)
    return {item.name.removeprefix("utility.few_shot."): item
            for item in few_shot.compare(made, stand_in)}  # fmt: skip


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    return compare(tmp_path_factory.mktemp("fresh"), fresh)


def test_new_images_of_the_class_help(helped):
    assert helped["1.children_gain"].low > 0
    assert helped["1.children"].value > helped["1.plain"].value + 0.05
    assert helped["1.children"].reference == helped["1.plain"].value
    gain = helped["4.children"].value - helped["4.plain"].value
    assert helped["4.children_gain"].value == pytest.approx(gain)


def test_noise_in_their_place_does_not(tmp_path, helped):
    spoiled = compare(tmp_path, noise)
    assert spoiled["4.children_gain"].high < 0
    assert spoiled["4.plain"] == helped["4.plain"]


def test_more_images_teach_more_and_what_there_is_too_little_of_is_left_out(helped):
    assert helped["1.plain"].value < helped["4.plain"].value
    assert {name.split(".")[0] for name in helped} == {"1", "4"}


def test_all_arms_learn_from_the_same_images_which_are_those_that_need_children(tmp_path):
    shown: dict[int, list] = {}

    def note(lesson, folder):
        shown.setdefault(lesson.seed, []).append(lesson.classes.tolist())
        return learn_quickly(lesson, folder)

    asked = []

    def stand_in(cohort, chosen, seed):
        asked.append(set(chosen.tolist()))
        return fresh(cohort, chosen, seed)

    compare(tmp_path, stand_in, teach=note)
    assert all(len(rows) == 4 and rows == [rows[0]] * 4 for rows in shown.values())
    assert len(shown) == 2 * 4
    made = school(tmp_path, TRAIN, HOLDOUT, FRESH, settings=ABLE)
    needed = set(few_shot.parents(made).tolist())
    assert set().union(*asked) <= needed
    first, later = (made.shots(count, 0) for count in (1, 4))
    assert set(first) < set(later)
