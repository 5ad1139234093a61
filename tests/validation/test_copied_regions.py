from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case
from PIL import Image
from scipy.stats import beta

from medsynth.cohort import Cohort, to_pixels
from medsynth.errors import DataError
from medsynth.pipeline.report import private_pictures
from medsynth.validation import copied_regions, patches, region_pictures, regions
from medsynth.validation.attribution import attribution_test, rank
from medsynth.validation.planted_regions import plant

TRAIN, HOLDOUT = cohort(range(24)), cohort(range(100, 124))
FRESH = cohort(range(200, 224), origin="synthetic")
EASY = SETTINGS.model_copy(update={"least_lens_recall": 0.2})


def with_regions(count: int) -> Cohort:
    """The fresh cohort with half of a training image's side in each of its first images."""
    grafts = plant(FRESH.floats(slice(count)), TRAIN.floats(slice(count)), 0.5, "flip", 1)
    pixels = np.array(FRESH.pixels)
    pixels[:count] = to_pixels(np.stack([graft.image for graft in grafts]))
    return replace(FRESH, pixels=pixels)


def measured(folder: Path, synthetic: Cohort, **changes) -> dict:
    case = make_case(folder, TRAIN, HOLDOUT, synthetic, **{"settings": EASY, **changes})
    return {f.name.removeprefix("memorization."): f for f in copied_regions.measure(case)}


@pytest.fixture
def nothing_planted(monkeypatch):
    monkeypatch.setattr(copied_regions, "plant", lambda *given: {"half": (10, 10)})


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    cohorts = {"fresh": FRESH, "regions": with_regions(12)}
    folders = {name: tmp_path_factory.mktemp(name) for name in cohorts}
    return {name: (folders[name], measured(folders[name], cohorts[name])) for name in cohorts}


def test_copied_regions_in_new_images_are_found(studies):
    _, found = studies["regions"]
    assert found["region_p_value"].value <= 0.01
    assert found["region_rate"].value >= 0.25
    assert found["region_rate"].low <= 0.5 <= found["region_rate"].high


def test_fresh_people_are_the_best_there_is(studies):
    _, found = studies["fresh"]
    assert found["region_p_value"].value > 0.05
    assert found["region_rate"].value <= 0.1
    assert found["region_rate"].low == 0


def test_the_larger_a_planted_region_the_better_it_is_seen(studies):
    _, found = studies["fresh"]
    recalls = [found[f"region_recall.{size}"] for size in ("quarter", "third", "half")]
    assert recalls[0].value <= recalls[2].value
    assert recalls[2].value >= 0.7
    assert all(each.n == SETTINGS.planted for each in recalls)
    assert found["region_recall"].n == 3 * SETTINGS.planted
    assert found["region_recall"].value == pytest.approx(np.mean([r.value for r in recalls]))


def test_every_interval_holds_its_value_and_widens_with_attempts(studies):
    for _, found in studies.values():
        for finding in found.values():
            assert finding.low <= finding.value <= finding.high, finding.name
            lows, highs = zip(*(finding.at_attempts or [(0, 1)]), strict=True)
            assert sorted(lows, reverse=True) == list(lows)
            assert sorted(highs) == list(highs)


def test_an_attack_that_sees_no_size_gives_no_number_and_no_bound(tmp_path):
    case = make_case(tmp_path, TRAIN, HOLDOUT, FRESH)
    found = made_search(recalls={"quarter": (1, 10), "third": (2, 10), "half": (4, 10)})
    assert copied_regions.sizes_seen(found.recalls, 0.5) == []
    p, rate = (copied_regions.p_value(case, found, []), copied_regions.region_rate(found, []))
    assert math.isnan(p.value)
    assert "too blind to regions of 0.25 of the side" in p.method
    assert "sees regions" not in p.method
    assert (rate.value, rate.high) == (0.0, 1.0)


def test_the_bound_is_that_of_the_weakest_size_that_is_seen():
    blind = made_search(recalls={"quarter": (0, 100), "third": (60, 100), "half": (100, 100)})
    rate = copied_regions.region_rate(blind, ["third", "half"])
    none_of_80 = 1 - 0.0125 ** (1 / 80)  # each end fails at half of 2.5 %
    assert rate.high == pytest.approx(none_of_80 / beta.ppf(0.0125, 60, 41))
    assert copied_regions.region_rate(blind, ["half"]).high < rate.high


def test_false_alarms_among_held_out_images_are_taken_off():
    scores = np.linspace(0.1, 1, 80)
    found = made_search(synthetic=scores, holdout=scores, threshold=0.3)
    rate = copied_regions.region_rate(found, ["half"])
    assert rate.value == 0
    assert rate.reference == pytest.approx(18 / 80)
    assert rate.low == 0


def test_no_division_of_the_patients_is_told_apart_where_nothing_was_copied(nothing_planted):
    case = make_case(Path(), TRAIN, HOLDOUT, FRESH, settings=EASY)
    found = copied_regions.search(case, 24)
    rng = np.random.default_rng(0)
    ranking = rank(found.synthetic.patient, found.synthetic.score, rng)
    drawn = (rng.permutation(found.trained) for _ in range(200))
    alarms = sum(attribution_test([ranking], each, 99, rng) <= 0.1 for each in drawn)
    assert alarms <= 34  # 99.9 % of such runs, at 10 % of 200


def test_nothing_that_is_found_depends_on_who_was_trained_on(monkeypatch, nothing_planted):
    monkeypatch.setattr(regions, "PROBES", patches.MOST_LISTS)
    found = []
    for sides in ((TRAIN, HOLDOUT), (HOLDOUT, TRAIN)):
        case = make_case(Path(), *sides, with_regions(4).take(np.arange(6)), settings=EASY)
        each = copied_regions.search(case, 6)
        cohorts = [sides[0] if trained else sides[1] for trained in each.is_train]
        names = [c.records[i].id for c, i in zip(cohorts, each.order, strict=True)]
        found.append([names[image] for image in each.synthetic.image])
    assert found[0] == found[1]


def test_a_protocol_says_how_many_images_are_looked_at(tmp_path, nothing_planted):
    few = EASY.model_copy(update={"region_images": 8})
    found = measured(tmp_path, FRESH, settings=few)
    assert found["region_p_value"].n == found["region_rate"].n == 8
    assert "8 of 24 images, drawn at random" in found["region_p_value"].method
    assert not measured(tmp_path, FRESH, settings=few.model_copy(update={"region_images": 0}))


def test_a_patient_on_both_sides_is_refused(tmp_path):
    case = make_case(tmp_path, TRAIN, TRAIN, FRESH)
    with pytest.raises(DataError, match="24 patients are in training and in held-out"):
        list(copied_regions.measure(case))


def test_the_private_table_names_the_copied_regions_first(studies):
    folder, _ = studies["regions"]
    rows = list(csv.DictReader((folder / "regions.csv").read_text().splitlines()))
    assert len(rows) == len(FRESH)
    pairs = {(row["synthetic"], row["nearest"]) for row in rows[:6]}
    assert pairs <= {(FRESH.records[i].id, TRAIN.records[i].id) for i in range(12)}
    assert {row["flagged"] for row in rows} == {"0", "1"}


def test_the_picture_has_a_row_an_image_and_goes_to_the_private_page(studies):
    folder, _ = studies["regions"]
    with Image.open(folder / "regions.png") as picture:
        assert picture.size == (6 * 130 - 2, 16 + 12 * 130)
    run = SimpleNamespace(folder=folder.parent)
    private = folder.parent / "evidence" / "private"
    private.mkdir(parents=True)
    (private / "regions.png").write_bytes((folder / "regions.png").read_bytes())
    (panel,) = private_pictures(run)
    assert panel.png == (folder / "regions.png").read_bytes()


def test_a_box_is_cut_out_where_it_was_found():
    image = np.zeros((1, 1, 64, 64), np.float32)
    image[0, 0, 40:50, 20:30] = 1
    stay = np.array([[[1.0, 0, 0], [0, 1.0, 0]]])
    middle = np.array([[24.5, 44.5]]) - 31.5
    box = region_pictures.cut(image, stay, middle)[0, 0]
    assert box.shape == (128, 128)
    assert box.mean() == pytest.approx(0.25, abs=0.01)  # 10 px of 20
    assert box[64, 64] == 1
    drawn = region_pictures.framed(image, middle)
    assert drawn.shape == (1, 3, 128, 128)
    assert drawn[0, :, 2 * 35, 2 * 25].tolist() == pytest.approx(region_pictures.FRAME.tolist())


def made_search(*, synthetic=None, holdout=None, threshold=0.05, recalls=None):
    """A search's results made of numbers: every image is nearest to a patient trained on."""

    def found(scores):
        scores = np.linspace(0.5, 1, 80) if scores is None else scores
        nobody = np.zeros(len(scores), int)
        return regions.Regions(scores, nobody, nobody, scores, None, None)

    return copied_regions.Search(
        None,
        np.arange(2),
        np.array([True, False]),
        np.array([True, False]),
        np.arange(80 if synthetic is None else len(synthetic)),
        found(synthetic),
        found(holdout),
        recalls or {"half": (100, 100)},
        threshold,
        0.01,
    )
