from __future__ import annotations

import numpy as np
import pytest

from medsynth.validation import planted


def image(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (channels, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(planted.CHANGES))
def test_a_change_keeps_shape_and_range(name, channels):
    original = image(channels)
    copy = planted.plant(original[None], planted.CHANGES[name], 1)[0]
    assert copy.shape == original.shape
    assert copy.dtype == np.float32
    assert np.abs(copy).max() <= 1


@pytest.mark.parametrize("name", [name for name in planted.CHANGES if name != "exact"])
def test_a_change_changes_something(name):
    original = image()
    assert (
        np.abs(planted.plant(original[None], planted.CHANGES[name], 1)[0] - original).max() > 0.05
    )


def test_an_exact_copy_is_exact_and_a_flip_is_its_own_inverse():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(planted.exact(image(), rng), image())
    np.testing.assert_array_equal(planted.flip(planted.flip(image(), rng), rng), image())


def test_a_copy_depends_on_its_seed_and_place_alone():
    images = np.stack([image(), image()])
    both = planted.plant(images, planted.noise, 5)
    np.testing.assert_array_equal(planted.plant(images[:1], planted.noise, 5)[0], both[0])
    assert (both[0] != both[1]).any()


@pytest.mark.parametrize(
    ("symmetry", "missing"),
    [
        ("identity", {"flip", "quarter_turn", "combined"}),
        ("flip", {"quarter_turn"}),
        ("rotations", {"flip", "combined"}),
        ("flips and rotations", set()),
    ],
)
def test_only_changes_that_the_domain_has_are_looked_for(symmetry, missing):
    assert set(planted.CHANGES) - set(planted.changes(symmetry)) == missing
