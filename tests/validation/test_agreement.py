"""A classifier asked twice: identity agrees, what destroys the sign does not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from medsynth.cohort import Cohort, Record
from medsynth.training.classifier import fit_classifier
from medsynth.validation import agreement

TEACH = partial(fit_classifier, symmetry="identity", device="cpu")


def striped(patients: int = 40) -> Cohort:
    """Half of the patients have fine stripes: an easy label, gone in any blur."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 130, (2 * patients, 32, 32, 1))
    sick = np.arange(2 * patients) // 2 % 2 == 1
    pixels[sick, :, ::2] += 40
    pixels[sick, :, 1::2] -= 40
    labels = np.where(sick, "sick", "well")
    records = tuple(
        Record(f"r{i}", "real", f"P{i // 2}", {"finding": str(label), "site": "one"})
        for i, label in enumerate(labels)
    )
    return Cohort("chest_xray", records, pixels.astype(np.uint8))


COHORT = striped()


@pytest.fixture(scope="module")
def judge() -> agreement.Judge:
    return agreement.train_judge(COHORT, "finding", teach=TEACH, seed=1, seen=960)


def asked(judge: agreement.Judge, images: np.ndarray) -> dict[str, np.ndarray]:
    return judge.compare(judge.says(images, np.arange(len(images))))


def test_only_labels_with_several_values_of_enough_patients_are_learned():
    assert agreement.attributes(COHORT) == ["finding"]
    assert agreement.attributes(COHORT.take(range(20))) == []


def test_an_easy_label_is_learned_and_the_original_agrees_with_itself(judge):
    found = asked(judge, COHORT.floats())
    assert found["agreement"].mean() == 1
    assert found["accuracy"].mean() > 0.95
    assert (found["accuracy_lost"] == 0).all()
    assert judge.right == found["accuracy"].mean()
    assert judge.commonest == 0.5
    assert judge.has_learned


def test_without_the_sign_the_accuracy_falls_to_chance(judge):
    images = COHORT.floats()
    smooth = images.reshape(80, 1, 32, 16, 2).mean(-1).repeat(2, -1)
    found = asked(judge, np.ascontiguousarray(smooth))
    assert 0.3 < found["accuracy"].mean() < 0.7
    assert found["accuracy_lost"].mean() > 0.3
    assert found["agreement"].mean() < 0.7


def test_no_network_judges_a_patient_that_it_saw(judge):
    patients = COHORT.patients
    for one in range(agreement.FOLDS):
        assert not set(patients[judge.fold == one]) & set(patients[judge.fold != one])
    assert set(judge.fold) == {0, 1, 2}


def test_a_label_of_chance_can_not_be_learned():
    rng = np.random.default_rng(1)
    coin = rng.permutation(np.repeat(["a", "b"], 20)).repeat(2)
    pixels = rng.integers(90, 130, COHORT.pixels.shape).astype(np.uint8)
    records = tuple(
        Record(r.id, "real", r.patient, {"coin": str(c)})
        for r, c in zip(COHORT.records, coin, strict=True)
    )
    judge = agreement.train_judge(
        Cohort("chest_xray", records, pixels), "coin", teach=TEACH, seed=1, seen=640
    )
    found = asked(judge, (pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32))
    assert 0.25 < found["accuracy"].mean() < 0.75
    assert not judge.has_learned


def test_images_of_unknown_value_are_not_asked():
    records = tuple(
        Record(r.id, "real", r.patient, dict(r.labels) if i % 5 else {})
        for i, r in enumerate(COHORT.records)
    )
    cohort = Cohort("chest_xray", records, COHORT.pixels)
    judge = agreement.train_judge(cohort, "finding", teach=TEACH, seed=1, seen=64)
    found = asked(judge, cohort.floats())
    assert np.isnan(found["agreement"][::5]).all()
    assert not np.isnan(np.delete(found["agreement"], np.arange(0, 80, 5))).any()
