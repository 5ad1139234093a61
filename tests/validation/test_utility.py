"""Both ends: fresh real images are worth as many real ones, labels by chance are worth nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from made_school import SETTINGS, learn_quickly, patterned, school

from medsynth.cohort import Cohort
from medsynth.errors import DataError
from medsynth.validation import utility

TRAIN, HOLDOUT = patterned(range(300)), patterned(range(1000, 1200), images_each=2)
FRESH = patterned(range(2000, 2100), origin="synthetic")


def shuffled(cohort: Cohort) -> Cohort:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(cohort))
    records = tuple(
        replace(record, labels=cohort.records[i].labels)
        for record, i in zip(cohort.records, order, strict=True)
    )
    return Cohort(cohort.domain, records, cohort.pixels)


def noise(cohort: Cohort) -> Cohort:
    rng = np.random.default_rng(0)
    return Cohort(
        cohort.domain, cohort.records, rng.integers(0, 256, cohort.pixels.shape).astype(np.uint8)
    )


def found(folder, synthetic: Cohort, **changes) -> dict:
    held = changes.pop("holdout", HOLDOUT)
    return {f.name: f for f in utility.compare(school(folder, TRAIN, held, synthetic, **changes))}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return found(tmp_path_factory.mktemp("fresh"), FRESH)


def test_fresh_real_images_teach_as_much_as_as_many_real_ones(fresh):
    worth = fresh["utility.worth"]
    assert worth.low <= 100 <= worth.high
    assert 30 < worth.value < 300
    assert worth.reference == 100
    assert [x for x, _ in worth.curve] == [11, 33, 100, 300]
    same = found_with_as_many()
    assert same.low <= 0 <= same.high


def found_with_as_many():
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        many = patterned(range(3000, 3300), origin="synthetic")
        return found(Path(folder), many)["utility.tstr_gap"]


@pytest.mark.parametrize("spoil", [shuffled, noise])
def test_labels_by_chance_and_noise_teach_nothing(tmp_path, fresh, spoil):
    spoiled = found(tmp_path, spoil(FRESH))
    tstr = spoiled["utility.tstr.auc"]
    assert tstr.low < 0.55
    assert spoiled["utility.tstr_gap"].high < 0
    assert spoiled["utility.worth"].low == 0
    assert spoiled["utility.worth"].value < 11
    assert spoiled["utility.trtr.auc"] == fresh["utility.trtr.auc"]
    assert spoiled["utility.mixed_gain"].high < 0.05


def test_every_number_stands_beside_the_same_of_real_images(fresh):
    real, made = fresh["utility.trtr.auc"], fresh["utility.tstr.auc"]
    assert real.reference == 0.5
    assert made.reference == real.value
    assert real.low > 0.6
    gap = fresh["utility.tstr_gap"]
    assert gap.value == pytest.approx(made.value - real.value)
    assert "learned from 100 synthetic images" in made.method
    assert "finding (sick, well)" in made.method
    assert all(f.low <= f.value <= f.high for f in fresh.values())
    assert all(f.n == 400 for name, f in fresh.items() if name.count(".") == 2 and "auc" in name)


def test_classes_and_groups_are_looked_at_apart(fresh, tmp_path):
    recalls = [fresh[f"utility.tstr.recall.{value}"] for value in ("sick", "well")]
    mean = np.mean([one.value for one in recalls])
    assert mean == pytest.approx(fresh["utility.tstr.balanced_accuracy"].value)
    assert sum(one.n for one in recalls) == 400
    sites = [fresh[f"utility.tstr.auc.site.{value}"] for value in ("north", "south")]
    assert sum(one.n for one in sites) == 400
    few = found(tmp_path, FRESH, holdout=HOLDOUT.take(range(60)))
    assert not [name for name in few if ".site." in name]  # too few patients to be told apart


def test_nobody_who_is_asked_about_is_learned_from(tmp_path):
    held, shown = {image.tobytes() for image in HOLDOUT.floats()}, set()

    def watched(lesson, folder):
        def show(chosen, draws):
            images = lesson.show(chosen, draws)
            shown.update(image.tobytes() for image in images)
            return images

        return learn_quickly(replace(lesson, show=show), folder)

    found(tmp_path, FRESH, teach=watched)
    learned = {image.tobytes() for cohort in (TRAIN, FRESH) for image in cohort.floats()}
    assert shown
    assert shown <= learned
    assert not shown & held


def test_the_order_of_held_out_images_does_not_matter(tmp_path, fresh):
    other = HOLDOUT.take(np.random.default_rng(2).permutation(len(HOLDOUT)))
    again = found(tmp_path, FRESH, holdout=other)
    assert again.keys() == fresh.keys()
    for name, one in fresh.items():
        assert again[name].value == pytest.approx(one.value, abs=1e-6), name


def test_stopped_and_started_again_it_finds_the_same_and_trains_no_network_twice(tmp_path, fresh):
    trained = []

    def counted(lesson, folder):
        if len(trained) == 8:
            raise KeyboardInterrupt
        trained.append(lesson.seed)
        return learn_quickly(lesson, folder)

    with pytest.raises(KeyboardInterrupt):
        found(tmp_path, FRESH, teach=counted)
    assert len(trained) == 8
    trained.append("over")

    def rest(lesson, folder):
        trained.append(lesson.seed)
        return learn_quickly(lesson, folder)

    assert found(tmp_path, FRESH, teach=rest) == fresh
    assert len(trained) == len(set(trained)) == 3 * SETTINGS.trainings + 3 * 3 + 1


def test_smaller_real_cohorts_are_parts_of_larger_ones_and_of_many_patients():
    train = patterned(range(50), images_each=3)
    made = school_without_folder(train)
    small, large = made.some(20, 0), made.some(60, 0)
    assert set(small) < set(large)
    assert len(set(train.patients[small])) == 20
    assert len(set(train.patients[large])) == 50
    assert not np.array_equal(small, made.some(20, 1))
    shots = made.shots(4, 0)
    assert np.bincount(made.classes(train)[shots]).tolist() == [4, 4]


def school_without_folder(train: Cohort):
    from pathlib import Path

    return school(Path.cwd(), train, HOLDOUT, FRESH)


def test_what_can_not_be_learned_is_said_or_left_out(tmp_path):
    named = SETTINGS.model_copy(update={"attribute": "age"})
    with pytest.raises(DataError, match=r"attribute is age: .* there is finding, site"):
        found(tmp_path, FRESH, settings=named)
    bare = Cohort(
        "chest_xray", tuple(replace(r, labels={}) for r in HOLDOUT.records), HOLDOUT.pixels
    )
    assert found(tmp_path, FRESH, holdout=bare) == {}
    mute = tuple(replace(r, labels={}) for r in FRESH.records)
    assert found(tmp_path, Cohort("chest_xray", mute, FRESH.pixels)) == {}


def test_synthetic_images_without_the_label_are_left_out(tmp_path):
    half = tuple(replace(r, labels={} if i % 2 else r.labels) for i, r in enumerate(FRESH.records))
    some = found(tmp_path, Cohort("chest_xray", half, FRESH.pixels))
    assert "50 synthetic images" in some["utility.tstr.auc"].method
    assert math.isfinite(some["utility.worth"].value)
