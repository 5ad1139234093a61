from __future__ import annotations

import numpy as np
import pytest
from known_truth import cohort

from medsynth.validation import planted_regions
from medsynth.validation.planted_regions import SIDES, plant

BASES = np.zeros((20, 1, 64, 64), np.float32)
SOURCES = np.random.default_rng(0).uniform(0.3, 0.9, (20, 1, 64, 64)).astype(np.float32)


@pytest.mark.parametrize("size", list(SIDES))
def test_a_region_has_the_area_that_its_side_says_and_leaves_the_rest_alone(size):
    side = SIDES[size]
    for graft in plant(BASES, SOURCES, side, "flip", 3):
        changed = graft.image[0] != 0
        assert side**2 * 0.8 < changed.mean() < (side * 1.3) ** 2
        rows, columns = np.nonzero(changed)
        middle = [(x.min() + x.max()) / 2 / 63 for x in (columns, rows)]
        assert middle == pytest.approx(graft.middle, abs=0.06)
        assert graft.image.min() >= -1
        assert graft.image.max() <= 1


def test_the_middle_of_a_region_is_the_source_and_its_border_is_blended(monkeypatch):
    monkeypatch.setattr(planted_regions, "DEGREES", 0.0)
    monkeypatch.setattr(planted_regions, "SHIFT", 0.0)
    monkeypatch.setattr(planted_regions, "_brighten", lambda image, rng: image)
    (graft,) = plant(BASES[:1], SOURCES[:1], 0.5, "identity", 3)
    x, y = (round(share * 63) for share in graft.middle)
    near = (0, slice(y - 8, y + 8), slice(x - 8, x + 8))
    np.testing.assert_allclose(graft.image[near], SOURCES[0][near], atol=1e-5)
    edge = (0, slice(y - 4, y + 4), x - 16)
    ratio = graft.image[edge] / SOURCES[0][edge]
    assert (ratio > 0.2).all()
    assert (ratio < 0.8).all()


def test_regions_come_from_where_something_is_to_be_seen():
    eye = np.full((1, 1, 64, 64), -1, np.float32)
    eye[:, :, 20:44, 20:44] = SOURCES[:1, :, 20:44, 20:44]
    seen = [plant(BASES[:1], eye, 0.25, "identity", seed)[0].image for seed in range(20)]
    assert min((image > 0.1).sum() for image in seen) > 20


def test_every_way_of_a_symmetry_is_planted_and_no_other():
    source = np.zeros((1, 2, 2), np.float32)
    source[0, 0] = [0.1, 0.2]
    draws = [
        planted_regions._turn(source, symmetry, np.random.default_rng(seed)).tobytes()
        for symmetry in ("identity", "flip", "flips and rotations")
        for seed in range(60)
    ]
    assert [len(set(draws[60 * i : 60 * i + 60])) for i in range(3)] == [1, 2, 8]


def test_the_same_seed_plants_the_same_regions_and_order_does_not_matter():
    real = cohort(range(4)).floats(slice(None))
    first, again = (plant(real, real[::-1], 0.5, "flip", 1) for _ in range(2))
    assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
    short = plant(real[:2], real[::-1][:2], 0.5, "flip", 1)
    assert (short[1].image == first[1].image).all()
