from __future__ import annotations

from dataclasses import replace

import numpy as np
from known_truth import SETTINGS, cohort, make_case

from medsynth.cohort import Cohort
from medsynth.validation import Case, same_patient, search
from medsynth.validation.attack import Attack, gather
from medsynth.validation.statistics import conformal_threshold


def linked(side: Cohort) -> Cohort:
    """Say of each two images that they show one picture."""
    return replace(side, records=tuple(replace(r, link=i // 2) for i, r in enumerate(side.records)))


def attacked(case: Case) -> Attack:
    """Only what is needed: the real images, and a threshold from held-out ones."""
    pool = gather(case)
    seen = search.look(case.holdout, case.lens, case.domain.symmetries)
    found = search.search(seen, pool.gallery, {"train": pool.is_train}, candidates=4)["train"]
    return Attack(pool, {}, found, {}, *conformal_threshold(found.registered.score, 0.05))


def test_a_nearly_identical_second_image_passes_and_the_other_eye_does_not(tmp_path):
    train, holdout = cohort(range(16), images=2), cohort(range(100, 130))
    pixels = np.array(train.pixels)
    pixels[:16:2] = np.clip(pixels[1:16:2].astype(int) + 1, 0, 255)
    train = replace(train, pixels=pixels)
    settings = SETTINGS.model_copy(update={"planted": 16, "candidates": 4})
    synthetic = cohort(range(200, 203), origin="synthetic")
    case = make_case(tmp_path, train, holdout, synthetic, settings=settings)
    found = same_patient.measure(case, attacked(case))
    assert found.n == 16
    assert 8 / 16 <= found.value <= 10 / 16
    assert found.low < found.value < found.high


def test_the_picture_itself_and_its_second_files_are_no_other_image(tmp_path):
    train, holdout = cohort(range(12), images=2), cohort(range(100, 112))
    case = make_case(tmp_path, train, holdout, cohort(range(200, 203), origin="synthetic"))
    pictures = np.arange(24)
    assert len(same_patient.choose(case, pictures)) == 10  # as many as are planted
    assert len(same_patient.choose(case, pictures // 2)) == 0
    case = replace(case, train=linked(train), settings=SETTINGS)
    found = same_patient.measure(case, attacked(case))
    assert found.n == 0
    assert not found.is_number
    assert "no training patient" in found.method


def test_one_image_each_of_different_patients_is_chosen(tmp_path):
    case = make_case(
        tmp_path, cohort(range(8), images=3), cohort(range(100, 104)), cohort(range(1))
    )
    chosen = same_patient.choose(case, np.arange(24))
    assert sorted(case.train.patients[chosen]) == list(range(8))
