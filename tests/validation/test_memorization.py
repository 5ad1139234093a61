from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case
from PIL import Image

from medsynth.cohort import Cohort, to_pixels
from medsynth.errors import DataError
from medsynth.validation import attack, memorization, planted

TRAIN, HOLDOUT = cohort(range(30)), cohort(range(100, 130))
FRESH = cohort(range(200, 230), origin="synthetic")


def copied(count: int, change: str = "exact") -> Cohort:
    """The fresh cohort with its first images replaced by changed copies of training images."""
    pixels = np.array(FRESH.pixels)
    copies = planted.plant(TRAIN.floats(slice(count)), planted.CHANGES[change], 1)
    pixels[:count] = to_pixels(copies)
    return replace(FRESH, pixels=pixels)


@pytest.fixture
def few_changes(monkeypatch):
    few = {name: planted.CHANGES[name] for name in ("exact", "combined")}
    monkeypatch.setattr(planted, "CHANGES", few)


@pytest.fixture
def nothing_planted(monkeypatch):
    monkeypatch.setattr(attack, "plant_copies", lambda case: [])


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The findings of an innocent cohort, of one with careless copies, and of training itself."""
    cohorts = {
        "fresh": FRESH,
        "careless": copied(15, "combined"),
        "training": replace(TRAIN, records=FRESH.records),
    }
    found = {}
    for name, synthetic in cohorts.items():
        folder = tmp_path_factory.mktemp(name)
        case = make_case(folder, TRAIN, HOLDOUT, synthetic)
        found[name] = {f.name.removeprefix("memorization."): f for f in memorization.measure(case)}
        found[name]["folder"] = folder
    return found


def test_a_copy_of_the_training_set_is_the_worst_there_is(measured):
    worst = measured["training"]
    assert worst["p_value"].value == 1 / (SETTINGS.permutations + 1)
    assert worst["exact_copies"].value == len(TRAIN)
    assert worst["copy_rate"].value > 0.9
    assert worst["exposed_patients"].value == 1


def test_fresh_people_are_the_best_there_is(measured):
    best = measured["fresh"]
    assert best["p_value"].value > 0.05
    assert best["exact_copies"].value == 0
    assert best["copy_rate"].value <= 0.1
    assert best["copy_rate"].low == 0


def test_careless_copies_are_found_though_no_pixel_is_the_same(measured):
    found = measured["careless"]
    assert found["p_value"].value <= 0.01
    assert found["exact_copies"].value == 0
    assert found["copy_rate"].low <= 0.5 <= found["copy_rate"].high
    assert found["copy_rate"].value > 0.3
    assert found["exposed_patients"].value >= 10 / 30


def test_the_attack_finds_its_planted_copies(measured):
    recalls = {name: f for name, f in measured["fresh"].items() if name.startswith("recall.")}
    assert set(recalls) == {f"recall.{change}" for change in planted.CHANGES}
    assert all(f.n == SETTINGS.planted for f in recalls.values())
    for change in ("exact", "flip", "quarter_turn", "intensity", "jpeg", "blur"):
        assert recalls[f"recall.{change}"].value >= 0.9, change
    assert measured["fresh"]["recall"].n == SETTINGS.planted * len(planted.CHANGES)
    assert measured["fresh"]["recall"].value >= 0.8


def test_every_interval_holds_its_value_and_its_method(measured):
    for found in measured.values():
        for finding in (f for name, f in found.items() if name != "folder"):
            may_be_blind = finding.name.startswith(("membership", "memorization.same_patient"))
            blind = may_be_blind and np.isnan(finding.value)
            assert blind or finding.low <= finding.value <= finding.high, finding.name
            assert blind or finding.n > 0
            assert finding.method


def test_the_private_table_names_the_copied_image_first(measured):
    folder = measured["careless"]["folder"]
    rows = list(csv.DictReader((folder / "neighbours.csv").read_text().splitlines()))
    assert len(rows) == len(FRESH)
    pairs = {(row["synthetic"], row["nearest_training"]) for row in rows[:8]}
    assert pairs <= {(FRESH.records[i].id, TRAIN.records[i].id) for i in range(15)}
    assert {row["flagged"] for row in rows} == {"0", "1"}
    with Image.open(folder / "neighbours.png") as picture:
        assert picture.size == (4 * 130 - 2, 16 + 12 * 130)


def test_what_is_found_does_not_depend_on_the_order_of_anything(tmp_path, nothing_planted):
    turn = np.arange(30)[::-1]
    settings = SETTINGS.model_copy(update={"candidates": 30})
    case = make_case(tmp_path, TRAIN, HOLDOUT, copied(15, "crop"), settings=settings)
    turned = {name: getattr(case, name).take(turn) for name in ("train", "holdout", "synthetic")}
    other = replace(case, **turned)
    a, b = (attack.run_attack(each) for each in (case, other))
    first, second = (each.synthetic["train"].registered for each in (a, b))
    np.testing.assert_allclose(first.score, second.score[turn], atol=1e-4)
    np.testing.assert_allclose(
        np.sort(a.holdout.registered.score), np.sort(b.holdout.registered.score), atol=1e-4
    )


def test_swapping_training_and_held_out_makes_copies_of_training_innocent(tmp_path, few_changes):
    case = make_case(tmp_path, HOLDOUT, TRAIN, copied(15))
    found = {f.name: f.value for f in memorization.measure(case)}
    assert found["memorization.p_value"] > 0.5
    assert found["memorization.copy_rate"] <= 0.1


def test_the_same_case_gives_the_same_findings(tmp_path, few_changes):
    settings = SETTINGS.model_copy(update={"planted": 10})
    case = make_case(
        tmp_path,
        TRAIN.take(range(12)),
        HOLDOUT.take(range(12)),
        FRESH.take(range(12)),
        settings=settings,
    )
    assert list(memorization.measure(case)) == list(memorization.measure(case))


def test_what_the_autoencoder_makes_of_training_images_is_one_more_planted_change(tmp_path):
    case = make_case(tmp_path, TRAIN, HOLDOUT, FRESH, reconstruct=lambda images: images * 0.9)
    planted_names = [name for name, _ in attack.plant_copies(case)]
    assert planted_names == [*planted.CHANGES, "reconstruction"]


def test_both_eyes_of_a_patient_are_no_second_patient(tmp_path, nothing_planted):
    eyes = replace(
        TRAIN,
        records=tuple(
            replace(record, patient=f"P{i // 2}") for i, record in enumerate(TRAIN.records)
        ),
    )
    twins = replace(eyes, pixels=np.repeat(np.asarray(TRAIN.pixels[::2]), 2, axis=0))
    synthetic = replace(FRESH, pixels=np.asarray(twins.pixels))
    case = make_case(tmp_path, twins, HOLDOUT, synthetic)
    rows = attack.run_attack(case).synthetic["train"].registered
    assert np.median(rows.score) < 0.2


def test_a_patient_on_both_sides_is_an_error(tmp_path):
    case = make_case(tmp_path, TRAIN, cohort(range(29, 60)), FRESH)
    with pytest.raises(DataError, match="1 patients are in training and in held-out images"):
        list(memorization.measure(case))


def test_a_single_patient_is_an_error(tmp_path):
    case = make_case(tmp_path, cohort(range(1), images=4), HOLDOUT, FRESH)
    with pytest.raises(DataError, match="at least two patients a side, train has 1"):
        list(memorization.measure(case))
