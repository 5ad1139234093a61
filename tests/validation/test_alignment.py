from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from test_registration import faces

from medsynth.validation import planted
from medsynth.validation.alignment import align, lattice, look_up, soften
from medsynth.validation.registration import structure

STAY = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])


def seen(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(structure(images))


def moved(image: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    places = lattice(64, image) @ pose[:, None, :, :2].transpose(2, 3) + pose[:, None, None, :, 2]
    return look_up(image[:, None], places)[0][:, 0]


def pose(scale: float, degrees: float, x: float, y: float) -> torch.Tensor:
    c, s = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return torch.tensor([[[c, -s, x], [s, c, y]]])


def test_an_image_lies_on_itself_where_it_is():
    image = seen(faces(2))
    found = align(image, image, STAY.expand(2, -1, -1))
    assert found.likeness.min() > 0.999
    assert (found.places - lattice(64, image)).abs().max() < 0.1


@pytest.mark.parametrize("true", [(0.95, 2.0, 1.5, -1.0), (1.04, -2.0, 0.0, 2.0)])
def test_a_pose_is_found_from_a_rough_one(true):
    other = seen(faces(1))
    image = moved(other, pose(*true))
    found = align(image, other, STAY)
    wanted = lattice(64, image) @ pose(*true)[0, :, :2].T + pose(*true)[0, :, 2]
    shown = wanted.abs().amax(-1) < 28
    assert found.likeness > 0.98
    assert (found.places[0] - wanted)[shown].norm(dim=-1).mean() < 0.35


def test_a_bent_copy_is_straightened_and_a_stranger_stays_one():
    originals = faces(8)
    bent = seen(planted.plant(originals, planted.elastic, 4))
    others = seen(originals)
    poses = STAY.expand(8, -1, -1)
    before = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(bent, others, strict=True)]
    own = align(bent, others, poses).likeness
    strange = align(bent, others.roll(1, 0), poses).likeness
    assert own.min() > 0.9
    assert (own.numpy() > before).all()
    assert strange.max() < own.min() - 0.2


def test_pairs_do_not_meddle_with_each_other():
    first, second = seen(faces(4)), seen(faces(4, seed=5))
    poses = torch.cat([pose(1.0, 0.0, i, 0.0) for i in range(4)])
    together = align(first, second, poses)
    alone = align(first[2:3], second[2:3], poses[2:3])
    torch.testing.assert_close(together.likeness[2:3], alone.likeness, atol=1e-4, rtol=0)


def test_where_hardly_anything_is_shown_nothing_is_alike():
    image = seen(faces(1))
    assert align(image, image, pose(1.0, 0.0, 60.0, 0.0)).likeness < 0


def test_emptiness_is_like_nobody():
    image, empty = seen(faces(1)), torch.zeros(1, 64, 64)
    for pair in ((image, empty), (empty, image), (empty, empty)):
        assert align(*pair, STAY).likeness.abs() < 0.1


def test_soften_is_a_gaussian_away_from_the_border():
    x = torch.randn(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    wanted = ndimage.gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5), truncate=6)
    inside = (..., slice(8, -8), slice(8, -8))
    np.testing.assert_allclose(soften(x, 1.5).numpy()[inside], wanted[inside], atol=2e-3)
