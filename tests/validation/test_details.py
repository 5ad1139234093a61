"""Planted details: identity sees all, nothing sees nothing, a blur goes blind where it must."""

from __future__ import annotations

import math

import numpy as np
import pytest
from known_truth import cohort
from scipy import ndimage

from medsynth.validation import details
from medsynth.validation.details import DETAILS, WIDTHS_TO_SIGMA, blind_below, crossing, plant_all
from medsynth.validation.resampling import Resampling

CHEST = np.repeat(cohort(range(12), name="chest_xray").floats(), 3, axis=2).repeat(3, axis=3)
NODULE = DETAILS["chest_xray"]


def planted(reconstruct, images=CHEST, detail=NODULE):
    return plant_all(images, reconstruct, detail, numbers=range(len(images)), seed=1)


def curve(values: np.ndarray):
    rows = Resampling(np.arange(len(values)), draws=100, rng=np.random.default_rng(0))
    return [rows.mean(column) for column in values.T]


def blur(sigma: float):
    return lambda x: ndimage.gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest", truncate=6)


def test_identity_keeps_all_of_every_size():
    kept = planted(lambda x: x).kept
    assert kept.shape == (12, 9)
    assert kept == pytest.approx(np.ones((12, 9)), abs=1e-5)
    assert blind_below(details.sizes(96), curve(kept)).value == 0


def test_an_autoencoder_that_always_gives_the_same_is_blind_to_all():
    found = planted(lambda x: 0 * x + CHEST[:1])
    assert found.kept == pytest.approx(np.zeros((12, 9)), abs=1e-6)
    assert blind_below(details.sizes(96), curve(found.kept)).value == math.inf


def test_identity_finds_all_and_an_invisible_detail_is_not_found():
    assert planted(lambda x: x).found.all()
    nothing = details.Detail("nothing", (1e-5,), bright=True)
    assert not planted(blur(1), detail=nothing).found.any()


def test_a_detail_that_drowns_in_what_is_made_up_is_not_found():
    """Grain that answers the filter as strongly as the detail does hides it."""
    grain = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, (1, 96, 96)), (0, 2, 2))
    grain = (grain / grain.std()).astype(np.float32)
    share = [planted(lambda x, s=s: x + s * grain).found[:, 4].mean() for s in (0.01, 0.1, 1.0)]
    assert share[0] > 0.9
    assert share[2] < 0.1
    assert share[0] >= share[1] >= share[2]


@pytest.mark.parametrize("sigma", [1.5, 3.0])
def test_a_blur_goes_blind_where_its_width_says(sigma):
    """Two Gaussians: kept is 2 s^2 / (2 s^2 + sigma^2), a half at s = sigma / sqrt(2)."""
    kept = planted(blur(sigma)).kept
    for column, size in zip(kept.T, details.sizes(96), strict=True):
        s = size / WIDTHS_TO_SIGMA
        if size > 1:  # below two pixels the pixels' own width counts
            wanted = 2 * s**2 / (2 * s**2 + sigma**2)
            assert column.mean() == pytest.approx(wanted, abs=0.06), size
    wanted = WIDTHS_TO_SIGMA * sigma / math.sqrt(2)
    assert blind_below(details.sizes(96), curve(kept)).value == pytest.approx(wanted, rel=0.1)


def test_halved_contrast_is_a_half_at_every_size():
    assert planted(lambda x: x / 2).kept == pytest.approx(np.full((12, 9), 0.5), abs=1e-5)


def test_more_blur_finds_less():
    assert planted(blur(0.5)).found.mean() > planted(blur(4)).found.mean()


def test_a_detail_has_the_size_that_is_said_and_stays_within_the_picture():
    shape = details.profile(64, 8, (32.0, 32.0))
    assert shape.max() == pytest.approx(1, abs=0.03)
    assert shape[32, 36] == pytest.approx(0.5, abs=0.03)
    sigma = 8 / WIDTHS_TO_SIGMA
    assert shape.sum() == pytest.approx(2 * math.pi * sigma**2, rel=1e-3)
    small = details.profile(64, 1, (32.3, 31.8))
    assert small.sum() == pytest.approx(2 * math.pi / WIDTHS_TO_SIGMA**2, rel=1e-6)


@pytest.mark.parametrize("detail", DETAILS.values(), ids=lambda detail: detail.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_planting_goes_towards_dark_or_bright_and_never_beyond(detail, channels):
    image = np.random.default_rng(0).uniform(-1, 1, (channels, 32, 32)).astype(np.float32)
    change = details.plant(image, detail, 6, (16.0, 16.0)) - image
    assert (change >= -1e-6).all() if detail.bright else (change <= 1e-6).all()
    assert np.abs(change + image).max() <= 1 + 1e-6
    assert np.abs(change[:, 15:18, 15:18]).max() > 0.1


def test_details_lie_in_the_field_of_view_and_the_same_for_everybody():
    y, x = np.mgrid[:64, :64] - 31.5
    disc = np.where(np.hypot(x, y) < 20, 0.2, -1.0).astype(np.float32)[None].repeat(3, 0)
    places = [details.place(disc, 4, seed=seed) for seed in range(40)]
    assert max(math.hypot(y - 31.5, x - 31.5) for y, x in places) < 19
    assert places == [details.place(disc, 4, seed=seed) for seed in range(40)]
    assert len(set(places)) == 40
    assert details.place(0 * disc - 1, 4, seed=1) is None


def test_an_image_without_a_place_gives_no_number():
    black = np.full((2, 1, 64, 64), -1, np.float32)
    found = planted(lambda x: x, black)
    assert np.isnan(found.kept).all()
    assert np.isnan(found.found).all()


def test_a_curve_crosses_a_half_where_it_says():
    assert crossing([1, 2, 4], [0.2, 0.4, 0.6]) == pytest.approx(2 * math.sqrt(2))
    assert crossing([1, 2, 4], [0.9, 0.4, 0.9]) > 2  # the largest crossing
    assert crossing([1, 2], [0.5, 0.6]) == 0
    assert crossing([1, 2], [0.9, 0.4]) == math.inf
