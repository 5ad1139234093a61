from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from known_truth import stand_in_lens

from medsynth.domains import domain
from medsynth.validation import planted, search
from medsynth.validation.neighbours import Parts
from medsynth.validation.windows import MIDDLE, WHOLE, Shown, Whitening, views, window


def spread(count: int, *, seed: int = 0) -> torch.Tensor:
    """Features of length 1 that have much in common: a large mean, one strong direction."""
    rows = np.random.default_rng(seed).standard_normal((count, 6)) * [3, 1, 1, 0.3, 0.3, 0]
    return F.normalize(torch.from_numpy(rows + 9 * np.eye(6)[0]).float(), dim=1)


def test_whitened_features_have_no_mean_and_equal_variance():
    found = Whitening.of(spread(4000))
    rows = (spread(4000) - found.mean) @ found.weights
    np.testing.assert_allclose(rows.mean(0), 0, atol=1e-4)
    variance = rows.var(0)
    assert variance[:2].min() > 0.9
    assert variance.max() < 1
    np.testing.assert_allclose(found(spread(9)).norm(dim=1), 1, atol=1e-5)


def test_of_few_images_less_is_whitened():
    rows = torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 40))).float()
    rows[:, 0] *= 10
    sizes = [Whitening.of(some).weights.norm(dim=0) for some in (rows, rows[:60])]
    many, few = (float(size.max() / size.min()) for size in sizes)
    assert many > 8
    assert few < many / 1.5


def test_equal_images_are_no_error():
    rows = Whitening.of(torch.ones(3, 5) / 5**0.5)(torch.eye(5))
    assert torch.isfinite(rows).all()


@pytest.mark.parametrize(("symmetry", "count"), [("identity", 1), ("flip", 2), ("rotations", 4)])
def test_views_are_those_of_the_symmetry_and_the_first_is_the_image(symmetry, count):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 1, 4, 4)).astype(np.float32)
    found = views(images, symmetry)
    assert len({way.tobytes() for way in found}) == len(found) == count
    np.testing.assert_array_equal(found[0], images)


def test_a_window_shows_what_lies_there():
    x = np.linspace(-1, 1, 65)[:-1] + 1 / 64  # the middle of each pixel
    image = np.broadcast_to(x, (1, 1, 64, 64)).astype(np.float32)
    assert window(image, WHOLE) is image
    np.testing.assert_allclose(window(image, MIDDLE)[0, 0, 5], 0.9 * x, atol=1e-4)
    aside = window(image, (0.9, 0.07, -0.07, 0.0))[0, 0]
    np.testing.assert_allclose(aside[5], 0.9 * x + 0.07, atol=1e-4)
    down = window(image.swapaxes(2, 3), (0.9, 0.07, -0.07, 0.0))[0, 0]
    np.testing.assert_allclose(down[:, 5], 0.9 * x - 0.07, atol=1e-4)


def test_the_nearest_are_those_of_a_plain_search_in_both_spaces():
    rng = np.random.default_rng(0)

    def rows(*shape: int) -> torch.Tensor:
        return F.normalize(torch.from_numpy(rng.standard_normal(shape)).float(), dim=-1)

    real, windows, ways, middles = rows(20, 5), rows(3, 20, 5), rows(2, 4, 5), rows(2, 4, 5)
    patients, masks = torch.arange(20) // 2, {"some": torch.arange(20) % 4 < 2}
    shown = Shown.of(real, windows)
    found = shown.nearest(ways, middles, Parts(patients, masks), count=3)
    white = shown.whiten
    lens = torch.einsum("vqd,nd->vqn", white(ways), white(real)).amax(0)
    every = white(torch.cat([real[None], windows]))
    local = torch.einsum("vqd,wnd->vwqn", white(torch.cat([ways, middles])), every).amax((0, 1))
    for space, likeness in (("lens", lens), ("local", local)):
        inside = likeness.masked_fill(~masks["some"], -2)
        near = found[space]["some"]
        assert near.images[:, 0].tolist() == inside.argmax(1).tolist()
        who = patients[inside.argmax(1)]
        second = inside.masked_fill(patients[None] == who[:, None], -2).amax(1)
        torch.testing.assert_close(near.lead[:, 0], inside.amax(1))
        torch.testing.assert_close(near.lead[:, 1], second)


@pytest.mark.parametrize("change", ["crop", "shift", "rotation"])
def test_windows_find_copies_that_were_moved_and_that_whole_images_miss(change):
    rng = np.random.default_rng(0)
    rough = rng.standard_normal((60, 1, 12, 12)).astype(np.float32)
    smooth = F.interpolate(torch.from_numpy(rough), size=(64, 64), mode="bicubic")
    images = smooth.clamp(-1, 1).numpy()
    symmetry = domain("chest_xray").symmetries
    lens = stand_in_lens(1)
    seen = search.look(images, lens, symmetry, mirrored=False)
    gallery = search.build(seen, np.arange(60), symmetry)
    copies = planted.plant(images[:30], planted.CHANGES[change], 3)
    found = search.search(
        search.look(copies, lens, symmetry), gallery, {"all": np.ones(60, bool)}, candidates=4
    )["all"].spaces
    right = {space: float((found[space].patient == np.arange(30)).mean()) for space in found}
    score = {space: float(found[space].score.mean()) for space in found}
    assert right["local"] > right["lens"] - 0.05
    assert score["local"] < score["lens"]
    assert right["local"] > 0.9
