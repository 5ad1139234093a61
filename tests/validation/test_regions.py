from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_truth import SIZE_PX, cohort
from PIL import Image
from scipy import ndimage

from medsynth.domains import Domain, domain
from medsynth.validation import regions
from medsynth.validation.planted_regions import plant
from medsynth.validation.registration import symmetric

ALL = "flips and rotations"
CHESTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "chest_xray" / "nih64" / "images"


def grains(n: int, seed: int = 0) -> np.ndarray:
    """Images of random grain, (n, 1, 64, 64) in [-1, 1]: no part of one is like another's."""
    noise = np.random.default_rng(seed).standard_normal((n, 1, 64, 64))
    fine = ndimage.gaussian_filter(noise, (0, 0, 1.2, 1.2))
    return (fine / np.abs(fine).max((2, 3), keepdims=True)).astype(np.float32)


def find(images: np.ndarray, real: np.ndarray, symmetry=ALL, patients=None, **options):
    patients = np.arange(len(real)) if patients is None else patients
    ground = regions.prepare(regions.textures(real, "cpu"), patients, symmetry, seed=1)
    return regions.find(regions.textures(images, "cpu"), ground, **options)


@pytest.fixture(scope="module")
def grafts():
    return plant(grains(12, seed=7), grains(12), 1 / 3, ALL, 5)


@pytest.fixture(scope="module")
def found(grafts):
    return find(np.stack([graft.image for graft in grafts]), grains(12))


def test_a_copied_region_leads_to_its_patient_and_a_stranger_to_nobody(found):
    strangers = find(grains(12, seed=9), grains(12))
    assert (found.patient == np.arange(12)).mean() >= 0.9
    right = found.patient == np.arange(12)
    assert found.score[right].max() < strangers.score.min()
    assert found.similarity[right].min() > 0.7


def test_it_says_where_the_region_lies(found, grafts):
    right = found.patient == np.arange(12)
    true = np.array([graft.middle for graft in grafts]) * 63 - 31.5
    assert np.abs(found.middles - true)[right].max() < 64 / 6


@pytest.mark.parametrize("way", range(8))
def test_maps_lead_from_the_image_to_the_same_place_in_the_real_one(way):
    real = grains(4)
    moved = np.roll(real, (3, -2), (2, 3))[:1, 0]
    image = symmetric(torch.from_numpy(moved), ALL)[way].numpy()
    found = find(image[None], real)
    assert found.patient[0] == 0
    assert found.score[0] < 0.1
    marks = np.zeros((2, 64, 64), np.float32)
    marks[0] = (np.arange(64) - 31.5)[None]
    marks[1] = (np.arange(64) - 31.5)[:, None]  # where each pixel of the real image lies
    turned = symmetric(torch.from_numpy(np.roll(marks, (3, -2), (1, 2))), ALL)[way].numpy()
    x, y = np.floor(found.middles[0] + 31.5).astype(int)
    led = found.maps[0][:, :2] @ (np.array([x, y]) - 31.5) + found.maps[0][:, 2]
    assert led == pytest.approx(turned[:, y, x], abs=0.5)


def test_a_mirrored_region_is_missed_where_the_domain_has_no_mirroring():
    image = grains(1)[..., ::-1].copy()
    assert find(image, grains(4), "flip").score[0] < 0.1
    assert find(image, grains(4), "identity").score[0] > 0.3


def test_other_images_of_the_same_patient_do_not_hide_a_copy():
    real = np.concatenate([grains(4), grains(4)])
    patients = np.arange(8) % 4
    assert find(grains(4), real, patients=patients).score.max() < 0.1
    assert find(grains(4), real, patients=np.arange(8)).score.min() > 0.8


def test_patients_and_images_that_are_left_out_are_not_found():
    own = find(grains(4), grains(4), own=np.arange(4))
    assert (own.patient != np.arange(4)).all()
    assert own.score.min() > 0.3
    only = find(grains(4), grains(4), among=np.array([True, True, False, True]))
    assert set(only.image) <= {0, 1, 3}
    assert only.image[:2].tolist() == [0, 1]


def test_with_a_single_patient_to_be_found_nobody_is_accused():
    found = find(grains(2), grains(1))
    assert np.isfinite(found.score).all()
    assert found.patient.tolist() == [0, 0]


def test_an_empty_image_accuses_nobody():
    empty = np.zeros((1, 1, 64, 64), np.float32)
    assert find(empty, grains(4)).score[0] > 0.8
    assert find(grains(1), np.concatenate([empty, grains(3, 5)])).image[0] != 0


def test_brightness_and_contrast_do_not_count():
    assert find(grains(3) * 0.3 + 0.4, grains(3)).score.max() < 0.1


def test_what_is_found_does_not_depend_on_how_many_are_asked_at_once(monkeypatch):
    images, real = cohort(range(6)).floats(slice(None)), cohort(range(20, 40)).floats(slice(None))
    together = find(images, real, "flip")
    monkeypatch.setattr(regions, "BATCH", 2)
    monkeypatch.setattr(regions, "PAIRS", 50)
    apart = find(images, real, "flip")
    assert (together.patient == apart.patient).all()
    np.testing.assert_allclose(together.score, apart.score, atol=1e-4)
    assert real.shape[-1] == SIZE_PX


@pytest.mark.parametrize(
    ("name", "wanted"), [("chest_xray", "flip"), ("fundus", "flip"), ("histology", ALL)]
)
def test_regions_are_turned_only_where_a_turned_image_is_a_plausible_one(name, wanted):
    assert regions.ways(domain(name)) == wanted


@pytest.mark.parametrize("symmetry", ["identity", "rotations"])
def test_regions_are_mirrored_only_where_copies_are(symmetry):
    own = Domain("x", "x", 1, symmetry, symmetry, (), "", list)
    assert regions.ways(own) == symmetry


@pytest.mark.skipif(not CHESTS.exists(), reason="needs the real chest radiographs")
def test_half_of_a_real_chest_is_found_in_another():
    files = sorted(CHESTS.iterdir())
    people = {path.name.split("_")[0]: path for path in files}  # one image of each
    chests = np.stack([np.asarray(Image.open(p).convert("L")) for p in list(people.values())[:90]])
    chests = (chests / np.float32(127.5) - 1)[:, None]
    real, others, fresh = chests[:40], chests[40:55], chests[55:]
    grafts = plant(others, real[:15], 0.5, "flip", 2)
    planted = find(np.stack([graft.image for graft in grafts]), real, "flip")
    innocent = find(fresh, real, "flip")
    right = planted.patient == np.arange(15)
    assert (right & (planted.score < innocent.score.min())).mean() >= 0.6
