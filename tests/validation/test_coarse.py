from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medsynth.validation import coarse
from medsynth.validation.registration import symmetric

ALL = "flips and rotations"


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def band(windows: torch.Tensor, radius: int) -> torch.Tensor:
    """Low-pass (..., w, w) windows by the orthonormal cosine matrix, without their mean."""
    w = windows.shape[-1]
    k, x = torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")
    matrix = torch.cos(torch.pi * k * (x + 0.5) / w) * (2 / w) ** 0.5
    matrix[0] /= 2**0.5
    waves = matrix @ windows @ matrix.T
    far = torch.hypot(k.float(), x.float())
    return matrix.T @ (waves * ((far > 0) & (far <= radius))) @ matrix


def brute(windows: torch.Tensor, images: torch.Tensor, symmetry: str, radius: int, stride: int):
    """Every place, every way, every window, one after the other."""
    w = windows.shape[-1]
    places = images[:, 0].unfold(1, w, stride).unfold(2, w, stride).flatten(1, 2)
    seen = F.normalize(band(places, radius).flatten(2), dim=2)
    asked = symmetric(windows, symmetry)
    asked = F.normalize(band(asked, radius).flatten(3), dim=3)
    return torch.einsum("gqpd,nsd->qpngs", asked, seen).amax((3, 4))


@pytest.mark.parametrize("symmetry", ["identity", "flip", "rotations", ALL])
@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_cosines_find_what_brute_force_finds(symmetry, stride):
    windows, images = random(3, 2, 8, 8), random(5, 1, 14, 14, seed=1)
    found = coarse.look(windows, images, symmetry, radius=4, floor=0.0, stride=stride)
    wanted = brute(windows, images, symmetry, 4, stride)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_all_waves_together_are_the_whole_correlation():
    windows, images = random(2, 1, 6, 6), random(4, 1, 9, 9, seed=1)
    found = coarse.look(windows, images, "identity", radius=8, floor=0.0)
    places = images[:, 0].unfold(1, 6, 1).unfold(2, 6, 1).flatten(1, 2).flatten(2)
    both = [F.normalize(x - x.mean(-1, keepdim=True), dim=-1) for x in (windows.flatten(2), places)]
    wanted = torch.einsum("qpd,nsd->qpns", *both).amax(3)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_blocks_change_nothing(monkeypatch):
    windows, images = random(3, 2, 8, 8), random(11, 1, 14, 14, seed=1)
    whole = coarse.look(windows, images, ALL, radius=4, floor=0.1)
    monkeypatch.setitem(coarse.TILE, "cpu", 1)
    one_by_one = coarse.look(windows, images, ALL, radius=4, floor=0.1)
    torch.testing.assert_close(whole, one_by_one, atol=1e-6, rtol=0)


def test_emptiness_resembles_nothing():
    images = torch.cat([torch.zeros(1, 1, 14, 14), random(3, 1, 14, 14)])
    floor = 0.05 * coarse.energy(images, 8, 4)
    nearly = images + 1e-4 * random(4, 1, 14, 14, seed=2)
    windows = nearly[:1, :, 3:11, 3:11]
    assert coarse.look(windows, nearly, ALL, radius=4, floor=floor)[0, 0, 0] < 0.01
    assert coarse.look(torch.zeros(1, 1, 8, 8), images, ALL, radius=4, floor=floor).abs().max() == 0


def test_energy_is_that_of_the_waves_that_count():
    images = random(4, 1, 14, 14)
    places = images[:, 0].unfold(1, 8, 1).unfold(2, 8, 1).flatten(1, 2)
    wanted = float(band(places, 4).square().sum((2, 3)).mean())
    assert coarse.energy(images, 8, 4) == pytest.approx(wanted, rel=1e-4)
