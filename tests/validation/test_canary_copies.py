from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from known_truth import SIZE_PX, cohort, make_case

from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data import canaries
from medsynth.data.canaries import Canaries
from medsynth.validation import canary_copies, memorization, planted, quarantine

CHANGES = ("exact", "flip", "crop", "jpeg", "elastic", "combined")


@cache
def made(domain: str = "fundus") -> Canaries:
    return canaries.make(28, domain=domain, size_px=SIZE_PX, bits=8, seed=2)


def synthetic(images: np.ndarray, domain: str = "fundus") -> Cohort:
    records = tuple(Record(f"syn-{i}", "synthetic") for i in range(len(images)))
    return Cohort(domain, records, to_pixels(images))


def case_of(folder, synthetic: Cohort, *, domain: str = "fundus", people: int = 40, **changes):
    sides = (cohort(range(n, n + people), name=domain) for n in (0, 100))
    return make_case(folder, *sides, synthetic, **{"canaries": made(domain), **changes})


@pytest.mark.parametrize("domain", ["fundus", "chest_xray"])
def test_copies_of_planted_canaries_are_found_whatever_was_done_to_them(tmp_path, domain):
    own = made(domain).cohort.floats(np.flatnonzero(made(domain).included))
    every = planted.changes("flips and rotations")
    copies = np.concatenate([planted.plant(own, every[name], 3) for name in CHANGES])
    found = canary_copies.find(case_of(tmp_path, synthetic(copies, domain), domain=domain))
    shares = found.taken.reshape(len(CHANGES), -1).mean(1)
    assert (shares[:-2] == 1).all()
    assert shares.min() >= 0.8  # with so few held-out images the threshold is low


def test_innocent_images_are_left_but_for_the_rate_that_is_said(tmp_path):
    found = canary_copies.find(case_of(tmp_path, cohort(range(200, 280), origin="synthetic")))
    assert found.rate == pytest.approx(1 / 41)
    assert found.taken.mean() <= 3 * found.rate


def test_canaries_that_were_not_trained_on_can_not_have_been_copied(tmp_path):
    others = made().cohort.floats(np.flatnonzero(~made().included))
    assert not canary_copies.find(case_of(tmp_path, synthetic(others))).taken.any()


def test_copied_canaries_are_counted_and_never_remain(tmp_path):
    own = np.flatnonzero(made().included)[:4]
    images = np.concatenate(
        [cohort(range(200, 216), origin="synthetic").floats(), made().cohort.floats(own)]
    )
    case = case_of(tmp_path, synthetic(images), people=16)
    found = {finding.name: finding for finding in memorization.measure(case)}
    assert 4 <= found["canary.copied"].value <= 6
    assert found["canary.copied"].n == 20
    left = {record.id for record in quarantine.remaining(case.synthetic, tmp_path).records}
    assert not left & {f"syn-{i}" for i in range(16, 20)}
    assert len(left) >= 12


def test_without_canaries_nothing_is_looked_for_or_said(tmp_path):
    case = case_of(tmp_path, cohort(range(200, 204), origin="synthetic"), canaries=None)
    assert not canary_copies.find(case).taken.any()
    assert list(canary_copies.findings(case, canary_copies.find(case))) == []
