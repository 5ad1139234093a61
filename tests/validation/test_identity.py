from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case
from PIL import Image
from scipy import stats

from medsynth.cohort import Cohort, Record
from medsynth.validation import Case, attack, identity, search
from medsynth.validation.statistics import clopper_pearson, conformal_threshold

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "chest_xray" / "nih64"
EXACT = SETTINGS.model_copy(update={"false_alarms": 0.02, "permutations": 199})


def measured(case: Case) -> dict:
    return {finding.name: finding for finding in identity.measure(case)}


def chests(patients: range, *, images: int = 1, origin: str = "real") -> Cohort:
    return cohort(patients, images=images, origin=origin, name="chest_xray")


def known(folder: Path, synthetic: Cohort, **changes) -> Case:
    """40 training patients and as many held-out ones, two images each."""
    train, holdout = chests(range(40), images=2), chests(range(100, 140), images=2)
    return make_case(folder, train, holdout, synthetic, settings=EXACT, **changes)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Synthetic images that are third images of training patients: nobody's copies."""
    third = chests(range(30), images=3, origin="synthetic").take(np.arange(2, 90, 3))
    return measured(known(tmp_path_factory.mktemp("private"), third))


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    fresh = chests(range(200, 230), origin="synthetic")
    return measured(known(tmp_path_factory.mktemp("private"), fresh))


def test_other_images_of_training_patients_are_recognised(others):
    assert others["identity.power"].low > 0.9
    assert others["identity.match_rate"].value > 0.5
    assert others["identity.match_rate"].low > others["identity.match_rate"].reference
    assert others["identity.p_value"].value == 1 / 200


def test_fresh_people_are_not(strangers):
    assert strangers["identity.match_rate"].low == 0
    assert strangers["identity.match_rate"].value < 0.1
    assert strangers["identity.p_value"].value > 0.01


def test_at_least_as_many_are_recognised_as_the_recall_promises(others):
    recall = others["identity.recall"]
    # Here everybody has two other images to be recognised by, there one.
    assert others["identity.match_rate"].value > recall.low
    assert recall.n == 40


def test_people_of_whom_there_is_one_image_are_no_evidence(tmp_path):
    case = make_case(tmp_path, cohort(range(20)), cohort(range(50, 70)), cohort(range(99, 109)))
    found = measured(case)
    assert len(found) == 4
    for finding in found.values():
        assert not finding.is_number
        assert "no evidence" in finding.method
    assert (found["identity.match_rate"].low, found["identity.match_rate"].high) == (0.0, 1.0)


def test_a_second_file_of_the_same_picture_is_no_other_image(tmp_path):
    def linked(side: Cohort) -> Cohort:
        return replace(
            side, records=tuple(replace(r, link=i // 2) for i, r in enumerate(side.records))
        )

    case = known(tmp_path, chests(range(200, 210), origin="synthetic"))
    found = measured(replace(case, train=linked(case.train), holdout=linked(case.holdout)))
    assert found["identity.power"].n == 0


def faceless(seed: int, patients: range, origin: str, *, alike: float) -> Cohort:
    """Two 16 px images a patient, alike by that share of their variance."""
    rows, records = [], []
    for patient in patients:
        face = np.random.default_rng([seed, patient, 0]).standard_normal((16, 16))
        for image in range(2):
            own = np.random.default_rng([seed, patient, 1 + image]).standard_normal((16, 16))
            rows.append(math.sqrt(alike) * face + math.sqrt(1 - alike) * own)
            who = "" if origin == "synthetic" else f"P{patient}"
            records.append(Record(f"{origin}-{patient}-{image}", origin, who))
    pixels = np.rint(np.clip(np.stack(rows) / 8 + 0.5, 0, 1) * 255).astype(np.uint8)
    return Cohort("chest_xray", tuple(records), pixels[..., None])


def made(folder: Path, seed: int, *, alike: float) -> Case:
    sides = [
        faceless(seed, patients, origin, alike=alike)
        for patients, origin in (
            (range(30), "real"), (range(30, 60), "real"), (range(60, 75), "synthetic"),
        )
    ]  # fmt: skip
    settings = EXACT.model_copy(update={"permutations": 99})
    return make_case(folder, *sides, settings=settings, seed=seed)


def test_an_attack_that_knows_nobody_says_so(tmp_path):
    found = measured(made(tmp_path, 1, alike=0.0))
    assert found["identity.power"].low < 0.5 < found["identity.power"].high
    assert math.isnan(found["identity.p_value"].value)
    assert "no evidence" in found["identity.p_value"].method
    assert found["identity.match_rate"].high > 0.5


def test_the_test_keeps_its_level_where_nobody_was_learnt_from(tmp_path):
    draws, level = 30, 0.1
    values = [
        measured(made(tmp_path, s, alike=0.6))["identity.p_value"].value for s in range(draws)
    ]
    low = sum(value <= level for value in values)
    assert not any(math.isnan(value) for value in values)
    assert stats.binomtest(low, draws, level, alternative="greater").pvalue > 0.005


def test_the_threshold_is_passed_by_fresh_people_as_often_as_it_says(tmp_path):
    passed = total = 0
    for seed in range(20):
        case = made(tmp_path, 500 + seed, alike=0.6)
        found = identity.attack(case, identity.gather(case))
        passed += int((found.scores <= found.threshold).sum())
        total += len(found.scores)
        rate = found.rate
    # Two images a person: half as many independent draws at least.
    assert abs(passed / total - rate) < 4 * math.sqrt(rate / (total / 2))


def radiographs() -> Cohort:
    with (REAL / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = np.stack([np.asarray(Image.open(REAL / row["path"]).convert("L")) for row in rows])
    records = tuple(Record(f"r{i}", "real", f"P{r['patient_id']}") for i, r in enumerate(rows))
    return Cohort("chest_xray", records, pixels[..., None])


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_other_radiographs_of_a_patient_hardly_pass_for_copies_but_are_recognised(tmp_path):
    every = radiographs()
    patients, counts = every.patients, np.bincount(every.patients)
    rng = np.random.default_rng(0)
    side = rng.permutation(patients.max() + 1)[patients] % 2 == 0
    others = np.zeros(len(every), bool)
    for patient in np.unique(patients[side & (counts[patients] > 1)]):
        others[rng.choice(np.flatnonzero(patients == patient))] = True
    chosen = every.take(np.flatnonzero(others))
    unnamed = tuple(Record(f"s{i}", "synthetic", "") for i in range(len(chosen)))
    case = make_case(
        tmp_path,
        every.take(np.flatnonzero(side & ~others)),
        every.take(np.flatnonzero(~side)),
        replace(chosen, records=unnamed),
        settings=EXACT,
    )
    found = measured(case)
    assert found["identity.power"].low > 0.75
    assert found["identity.recall"].value > 2 * found["identity.recall"].reference
    pool = attack.gather(case)
    scores = [
        search.search(
            search.look(images, case.lens, case.domain.symmetries),
            pool.gallery,
            {"train": pool.is_train},
            candidates=8,
        )["train"].registered.score
        for images in (case.holdout.take(np.arange(0, len(case.holdout), 4)), case.synthetic)
    ]
    threshold, _ = conformal_threshold(scores[0], 0.01)
    share = clopper_pearson(int((scores[1] <= threshold).sum()), len(scores[1]))
    assert share.value < 0.2  # of copies nine in ten pass
