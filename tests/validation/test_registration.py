from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medsynth.validation import planted
from medsynth.validation.alignment import lattice, look_up
from medsynth.validation.registration import (
    FINE,
    Grid,
    locate,
    match,
    reduce,
    structure,
    symmetric,
    templates,
    window_norms,
)

ALL = "flips and rotations"


def faces(n: int, seed: int = 0) -> np.ndarray:
    """Smooth random images, (n, 1, 64, 64) in [-1, 1]: nobody resembles anybody."""
    noise = np.random.default_rng(seed).standard_normal((n, 1, 64, 64))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2.5, 2.5))
    return (smooth / np.abs(smooth).max((2, 3), keepdims=True)).astype(np.float32)


def likeness(query: np.ndarray, others: np.ndarray, symmetry=ALL, grid: Grid = FINE) -> np.ndarray:
    reduced = reduce(torch.from_numpy(structure(others)), grid.side_px)
    posed = templates(torch.from_numpy(structure(query)), grid, symmetry)
    norms = window_norms(reduced, grid.window_px)
    return np.stack([match(one, reduced, norms).numpy() for one in posed])


def test_match_is_the_largest_normalised_correlation_of_all_places():
    grid = Grid(16, 12, ((1.0, 0.0),))
    query, other = faces(1), faces(1, seed=9)
    reduced = reduce(torch.from_numpy(structure(other)), 16)[0, 0].numpy()
    template = templates(torch.from_numpy(structure(query)), grid, "identity")[0, 0].numpy()
    places = [reduced[r : r + 12, c : c + 12] for r in range(5) for c in range(5)]
    wanted = max(np.corrcoef(template.ravel(), place.ravel())[0, 1] for place in places)
    assert likeness(query, other, "identity", grid)[0, 0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("change", list(planted.CHANGES))
def test_every_planted_change_is_nearer_to_its_original_than_to_anyone_else(change):
    originals = faces(12)
    copies = planted.plant(originals, planted.CHANGES[change], 4)
    found = likeness(copies, originals)
    own = found.diagonal()
    assert own.min() > 0.7
    assert (own > (found - 9 * np.eye(12)).max(1) + 0.1).all()


def test_an_image_is_wholly_like_itself():
    assert likeness(faces(3), faces(3)).diagonal() == pytest.approx(np.ones(3), abs=1e-3)


def test_brightness_and_contrast_do_not_count():
    image = faces(1)
    assert likeness(image * 0.3 + 0.4, image)[0, 0] > 0.99


def test_a_mirrored_copy_is_missed_where_the_domain_has_no_mirroring():
    images = faces(1)
    assert likeness(images[..., ::-1].copy(), images, "identity")[0, 0] < 0.6


def test_emptiness_resembles_nothing():
    empty = np.zeros((1, 1, 64, 64), np.float32)
    assert np.abs(likeness(empty, faces(3))).max() < 0.1
    assert np.abs(likeness(faces(1), np.concatenate([empty, faces(2, 1)]))[0, 0]) < 0.1


@pytest.mark.parametrize(
    ("symmetry", "count"), [("identity", 1), ("flip", 2), ("rotations", 4), (ALL, 8)]
)
def test_symmetries_are_as_many_and_all_different(symmetry, count):
    ways = symmetric(torch.arange(9.0).reshape(1, 3, 3), symmetry)
    assert len(ways) == count
    assert len({tuple(way.flatten().tolist()) for way in ways}) == count


def test_sixteen_bit_colour_and_any_size_are_looked_at_alike():
    big = np.repeat(np.repeat(np.repeat(faces(1), 3, 1), 2, 2), 2, 3)
    assert likeness(big, faces(1))[0, 0] > 0.98


@pytest.mark.parametrize("symmetry", ["identity", "flip", "rotations", ALL])
def test_locate_says_which_way_and_where_the_image_lies(symmetry):
    originals = faces(2)
    ways = symmetric(torch.from_numpy(originals[:1, 0]), symmetry)
    shifted = np.roll(originals, (4, -2), (2, 3))  # original's pixel (y, x) lies at (y + 4, x - 2)
    others = reduce(torch.from_numpy(structure(np.concatenate([shifted[:1], originals[1:]]))), 32)
    norms = window_norms(others, FINE.window_px)
    for turned in ways:
        seen = torch.from_numpy(structure(turned[None].numpy()))
        posed = templates(seen, FINE, symmetry)[0]
        likeness, way, maps = locate(posed, others, norms, FINE)
        torch.testing.assert_close(likeness, match(posed, others, norms))
        back = symmetric(turned[0], symmetry)[way[0]]
        assert torch.equal(back, torch.from_numpy(originals[0, 0]))
        wanted = torch.tensor([[1.0, 0.0, -2.0], [0.0, 1.0, 4.0]])
        torch.testing.assert_close(maps[0], wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize("degrees", [-5, 5])
@pytest.mark.parametrize("mirrored", [False, True])
def test_locate_turns_the_right_way_round_whatever_the_mirroring(degrees, mirrored):
    original = faces(1)
    turned = ndimage.rotate(original, degrees, (2, 3), reshape=False, order=3, mode="reflect")
    turned = turned[..., ::-1].copy() if mirrored else turned
    others = reduce(torch.from_numpy(structure(original)), 32)
    posed = templates(torch.from_numpy(structure(turned)), FINE, ALL)[0]
    _, way, maps = locate(posed, others, window_norms(others, FINE.window_px), FINE)
    back = symmetric(torch.from_numpy(structure(turned)), ALL)[way[0]]
    places = lattice(64, back) @ maps[0, :, :2].T + maps[0, :, 2]
    laid = look_up(torch.from_numpy(structure(original))[:, None], places[None])[0][0, 0]
    assert np.corrcoef(laid[8:-8, 8:-8].ravel(), back[0, 8:-8, 8:-8].ravel())[0, 1] > 0.97
