"""All that is measured of an autoencoder: both ends, its reference, and two held together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from known_truth import SETTINGS
from made_school import learn_quickly
from scipy import ndimage

from medsynth.cohort import Cohort, Record
from medsynth.data import phantoms
from medsynth.validation import agreement, keeping
from medsynth.validation.keeping import Subject, better, look, say_better, to_findings


def made(name: str = "fundus", patients: int = 8) -> Cohort:
    drawn = [phantoms.draw(name, p, i, 5, 64)[0] for p in range(patients) for i in range(2)]
    records = tuple(
        Record(f"r{i}", "real", f"P{i // 2}", {"side": "LR"[i % 2], "one": "same"})
        for i in range(2 * patients)
    )
    return Cohort(name, records, np.stack(drawn))


COHORT = made()
SUBJECT = Subject(COHORT, SETTINGS, seed=1)


def blur(sigma: float):
    return lambda x: ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest")


@pytest.fixture(scope="module")
def scores() -> dict:
    ways = {"same": lambda x: x, "half": keeping.halved, "blur": blur(2), "soft": blur(0.6)}
    return {name: look(SUBJECT, way, what=name) for name, way in ways.items()}


def by_name(findings) -> dict:
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings)  # no name comes twice
    return found


def test_identity_is_at_the_good_end_of_every_number(scores):
    found = by_name(to_findings(SUBJECT, scores["same"], scores["half"]))
    ends = {"reconstruction.mse": 0, "reconstruction.psnr": 100}
    for name, finding in found.items():
        end = ends.get(".".join(name.split(".")[:2]), 1)
        end = 0 if ".half_" in name else end
        assert finding.value == pytest.approx(end, abs=1e-4), name
        assert finding.n > 0


def test_a_blur_is_worse_than_half_the_size_and_that_worse_than_identity(scores):
    found = {n: by_name(to_findings(SUBJECT, s, scores["half"])) for n, s in scores.items()}
    for name, finding in found["blur"].items():
        if ".L" in name or ".R" in name or "found" in name or finding.direction == "neither":
            continue
        sign = 1 if finding.direction == "higher is better" else -1
        assert sign * finding.value < sign * finding.reference, name
        assert sign * finding.reference <= sign * found["same"][name].value, name
        assert finding.low <= finding.value <= finding.high


def test_the_size_where_a_blur_goes_blind_is_the_one_that_it_must_be(scores):
    found = by_name(to_findings(SUBJECT, scores["blur"], scores["half"]))
    size = found["detail.microaneurysm.half_kept"]
    assert size.value == pytest.approx(2.355 * 2 / math.sqrt(2), rel=0.1)
    assert size.low <= size.value <= size.high < math.inf
    assert [x for x, _ in size.curve] == [1, 2, 3, 4, 6, 8, 12, 16]


def test_groups_stand_beside_all_others_and_everybody_is_no_group(scores):
    found = by_name(to_findings(SUBJECT, scores["soft"], scores["half"]))
    left, right = (found[f"kept.edges.side.{side}"] for side in "LR")
    assert left.n == right.n == 8
    assert (left.value, left.reference) == pytest.approx((right.reference, right.value))
    assert not [name for name in found if "one" in name.split(".")]
    few = replace(SUBJECT, cohort=COHORT.take(range(8)))
    assert keeping.groups(few.cohort) == []


def test_the_better_of_two_is_named_and_the_order_turns_the_sign(scores):
    found = by_name(better(SUBJECT, scores["soft"], scores["blur"]))
    turned = by_name(better(SUBJECT, scores["blur"], scores["soft"]))
    primary = f"better.{keeping.PRIMARY}"
    assert found[primary].low > 0
    assert found["better.reconstruction.mse"].low > 0  # better, whichever way the number goes
    for name, finding in found.items():
        assert turned[name].value == pytest.approx(-finding.value, abs=1e-12), name
    assert say_better(found[primary], "soft", "blur").startswith(
        "Better in reconstruction.ms_ssim: soft"
    )
    assert ": soft, by" in say_better(turned[primary], "blur", "soft")


def test_of_two_that_are_the_same_none_is_better(scores):
    found = better(SUBJECT, scores["soft"], scores["soft"])
    assert all((f.value, f.low, f.high) == (0, 0, 0) for f in found)
    assert "can't be told" in say_better(found[0], "a", "b")


def test_the_better_is_seldom_named_by_chance(scores):
    rng, wrong = np.random.default_rng(0), 0
    easy = rng.normal(size=16)
    for _ in range(100):
        pair = [{"kept.edges": easy + rng.normal(size=16)} for _ in range(2)]
        (finding,) = better(SUBJECT, *pair)
        wrong += finding.low > 0 or finding.high < 0
    assert wrong <= 15


def test_images_are_drawn_one_of_each_patient_before_any_second():
    patients = np.array([0] * 10 + [1, 2, 3])
    chosen = keeping.spread(patients, 4, seed=1)
    assert sorted(patients[chosen]) == [0, 1, 2, 3]
    assert len(keeping.spread(patients, 99, seed=1)) == 13


def test_half_the_size_keeps_what_is_coarse():
    coarse = np.repeat(np.repeat(np.eye(4, dtype=np.float32), 16, 0), 16, 1)[None, None] * 2 - 1
    again = keeping.halved(coarse)
    assert np.abs(again - coarse)[0, 0, 5:11, 5:11].max() < 1e-5
    fine = np.tile(np.array([[1.0, -1.0], [-1.0, 1.0]], np.float32), (16, 16))[None, None]
    assert np.abs(keeping.halved(fine)).max() < 1e-5


def test_a_classifier_speaks_of_reconstructions_and_what_it_knows_is_said():
    judge = agreement.train_judge(COHORT, "side", teach=learn_quickly, seed=1, seen=64)
    subject = replace(SUBJECT, judges=(judge,), cohort=COHORT)
    scores = look(subject, lambda x: x, what="same")
    found = by_name(to_findings(subject, scores, scores))
    assert found["classifier.side.agreement"].value == 1
    assert found["classifier.side.agreement"].low < 1  # eight patients prove no more
    assert "of other patients" in found["classifier.side.accuracy"].method
    assert found["classifier.side.accuracy"].value == judge.right


def test_what_was_not_measured_is_said():
    said = " ".join(keeping.not_measured(SUBJECT))
    assert "LPIPS" in said
    assert "optic disc, fovea" in said
    assert "No classifier was asked" in said
    assert "vessels" not in said


def test_progress_ends_at_one():
    told = {}
    look(replace(SUBJECT, progress=told.__setitem__), lambda x: x, what="it")
    assert told == {"it: images": 1.0, "it: details": 1.0}
