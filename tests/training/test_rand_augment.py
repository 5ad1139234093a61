from __future__ import annotations

import numpy as np
import pytest

from medsynth.cohort import to_pixels
from medsynth.training import rand_augment as module
from medsynth.training.rand_augment import KINDS, rand_augment

ONES_OWN = {"auto_contrast", "equalize"}  # changes without a strength


def images(channels: int = 1, count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.uniform(40, 200, (count, channels, 4, 4)).repeat(8, 2).repeat(8, 3)
    return (np.rint(smooth) / 127.5 - 1).astype(np.float32)


def only(monkeypatch, name: str) -> None:
    monkeypatch.setattr(module, "KINDS", {name: KINDS[name]})


@pytest.mark.parametrize("name", sorted(KINDS.keys() - ONES_OWN))
@pytest.mark.parametrize("channels", [1, 3])
def test_at_strength_0_nothing_changes(monkeypatch, name, channels):
    only(monkeypatch, name)
    given = images(channels)
    found = rand_augment(given, np.random.default_rng(1), strength=0.0)
    assert np.array_equal(to_pixels(found), to_pixels(given))


@pytest.mark.parametrize("name", sorted(KINDS.keys() - ONES_OWN - {"identity", "colour"}))
def test_with_strength_every_change_does_something_and_stays_in_range(monkeypatch, name):
    only(monkeypatch, name)
    given = images()
    found = rand_augment(given, np.random.default_rng(1), changes=1, strength=1.0)
    assert not np.allclose(found, given, atol=0.02)
    assert found.dtype == np.float32
    assert found.shape == given.shape
    assert -1 <= found.min() < found.max() <= 1


def test_a_shift_moves_by_the_share_that_it_says_and_lets_black_in(monkeypatch):
    only(monkeypatch, "shift_x")
    given = images()
    found = rand_augment(given, np.random.default_rng(1), changes=1, strength=0.25 / 0.45)
    for one, was in zip(found, given, strict=True):
        left = np.allclose(one[..., :-8], was[..., 8:], atol=0.01) and (one[..., -8:] == -1).all()
        right = np.allclose(one[..., 8:], was[..., :-8], atol=0.01) and (one[..., :8] == -1).all()
        assert left or right


def test_auto_contrast_stretches_to_black_and_white(monkeypatch):
    only(monkeypatch, "auto_contrast")
    given = images()
    found = rand_augment(given, np.random.default_rng(1), changes=1)
    low, high = (end(given, axis=(1, 2, 3), keepdims=True) for end in (np.min, np.max))
    assert np.allclose(found, 2 * (given - low) / (high - low) - 1, atol=0.02)


def test_draws_follow_from_the_generator_alone():
    given = images(3)
    first, again, other = (rand_augment(given, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
