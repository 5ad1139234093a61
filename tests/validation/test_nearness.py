from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_truth import cohort, make_case
from made_attack import found, numbered
from scipy import special, stats

from medsynth.cohort import Cohort, Record
from medsynth.validation.attack import Attack, Pool, gather
from medsynth.validation.nearness import kernel_area, log_density, measure
from medsynth.validation.search import look, search, unit

SPACES = ("registered", "lens")


def attack_of(case) -> Attack:
    """The search alone: no copies are planted."""
    pool = gather(case)
    seen = look(case.synthetic, case.lens, case.domain.symmetries)
    near = search(seen, gallery=pool.gallery, candidates=8, among=pool.parts)
    return Attack(pool, near, near["train"], {}, 0.0, 0.01)


def measured(case, spaces=SPACES):
    return {finding.name: finding for finding in measure(case, attack_of(case), spaces)}


@pytest.fixture(scope="module")
def real():
    return cohort(range(24)), cohort(range(100, 124))


def copies_of(cohort: Cohort) -> Cohort:
    """What a generator that learned everybody by heart hands out."""
    noise = np.random.default_rng(0).integers(-6, 7, cohort.pixels.shape)
    pixels = np.clip(cohort.pixels.astype(int) + noise, 0, 255).astype(np.uint8)
    records = tuple(Record(f"copy-{i}", "synthetic") for i in range(len(pixels)))
    return Cohort(cohort.domain, records, pixels)


@pytest.fixture(scope="module")
def copied(real, tmp_path_factory):
    folder = tmp_path_factory.mktemp("copied")
    return measured(make_case(folder, *real, copies_of(real[0])))


@pytest.mark.parametrize("attack", ["distance", "density"])
def test_both_attacks_find_everybody_who_was_copied(copied, attack):
    area = copied[f"membership.{attack}.auc"]
    assert area.low > 0.8
    assert area.low > area.reference
    assert copied["membership.p_value"].value <= 0.005


def test_copies_of_held_out_patients_are_no_membership(real, tmp_path):
    backward = measured(make_case(tmp_path, *real, copies_of(real[1])))
    assert all(backward[f"membership.{name}.auc"].high < 0.2 for name in ("distance", "density"))
    assert backward["membership.p_value"].value > 0.5


def test_synthetic_images_of_nobody_find_nobody(real, tmp_path):
    strangers = cohort(range(300, 340), origin="synthetic")
    found = measured(make_case(tmp_path, *real, strangers))
    for name in ("distance", "density"):
        area = found[f"membership.{name}.auc"]
        assert area.low < 0.5 < area.high
    assert found["membership.p_value"].value > 0.05


def test_a_space_that_is_not_believed_says_nothing(real, copied, tmp_path):
    case = make_case(tmp_path, *real, copies_of(real[0]))
    half = measured(case, ["registered"])
    assert not half["membership.density.auc"].is_number
    assert "left out" in half["membership.density.auc"].method
    assert half["membership.distance.auc"] == copied["membership.distance.auc"]
    assert half["membership.p_value"].is_number
    assert "by distance;" in half["membership.p_value"].method
    assert not measured(case, [])["membership.p_value"].is_number


def features(count: int, rng: np.random.Generator) -> np.ndarray:
    return unit(rng.standard_normal((count, 8)).astype(np.float32))


def test_the_density_is_the_kernel_estimate_written_out():
    rng = np.random.default_rng(0)
    of, among = features(7, rng), features(600, rng)
    apart = ((of[:, None] - among[None]) ** 2).sum(2)
    expected = special.logsumexp(-apart / (2 * 0.3), axis=1) - np.log(600)
    assert np.allclose(
        log_density(torch.from_numpy(of), torch.from_numpy(among), 0.3), expected, atol=1e-4
    )


def test_a_patient_s_own_images_are_left_out_of_the_reference():
    rng = np.random.default_rng(0)
    real = features(1100, rng)  # more than a block
    patients = np.arange(1100) // 2
    real[1::2] = real[::2]  # every image has a twin of the same patient
    own = torch.from_numpy(real)
    seen = log_density(own, own, 0.05, patients=patients)
    others = patients != patients[801]
    alone = log_density(own[801:802], own[torch.from_numpy(others)], 0.05)
    assert np.isclose(seen[801], alone[0], atol=1e-5)
    assert kernel_area(own, patients) > 100 * kernel_area(own, np.arange(1100))


def test_both_attacks_accuse_at_the_nominal_rate_where_nothing_was_learned(tmp_path):
    """Two hundred generators of random features, patients of one to four images."""
    rng = np.random.default_rng(2)
    case = make_case(tmp_path, numbered(2), numbered(2), numbered(30, origin="synthetic"))
    small = 0
    for trial in range(200):
        patients = np.repeat(np.arange(40), rng.integers(1, 5, 40))
        is_train = (rng.permutation(40) < 25)[patients]
        gallery = SimpleNamespace(
            look=SimpleNamespace(features=torch.from_numpy(features(len(patients), rng))[None])
        )
        made = features(30, rng)
        near = found(rng.integers(0, 40, 30), rng.random(30))
        pool = Pool(gallery, np.arange(len(patients)), is_train, patients)
        attack = Attack(pool, {"everyone": near}, near, {}, 0.0, 0.01)
        one = replace(case, lens=lambda images, made=made: made[: len(images)], seed=trial)
        values = {finding.name: finding.value for finding in measure(one, attack, SPACES)}
        small += values["membership.p_value"] <= 0.05
    assert stats.binomtest(small, 200, 0.05, alternative="greater").pvalue > 0.001
    assert small >= stats.binom.ppf(0.001, 200, 0.03)
