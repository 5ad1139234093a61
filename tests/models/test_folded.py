"""Masks as latents: there and back, at unit variance, with nothing learned."""

import numpy as np
import pytest
import torch

from medsynth.models.folded import Folded


@pytest.fixture
def shares():
    """Two classes of unequal size, (10, 2, 16, 16) uint8."""
    random = np.random.default_rng(0)
    return (random.random((10, 2, 16, 16)) < [[[[0.1]], [[0.4]]]]).astype(np.uint8) * 255


@pytest.mark.parametrize("fold_px", [1, 2, 4])
def test_what_is_folded_comes_back_and_has_unit_variance(shares, fold_px):
    folded = Folded.of(shares, fold_px=fold_px)
    masks = torch.from_numpy(shares).float() * 2 / 255 - 1
    z = folded.encode(masks)
    assert z.shape == (10, 2 * fold_px**2, 16 // fold_px, 16 // fold_px)
    assert abs(z.mean()) < 1e-5
    assert z.var() == pytest.approx(1.0, abs=1e-3)
    assert torch.allclose(folded.decode(z), masks, atol=1e-5)
    again = Folded(**folded.config)
    assert torch.equal(again.encode(masks), z)


def test_a_class_that_is_nowhere_is_no_division_by_zero():
    folded = Folded.of(np.zeros((4, 1, 8, 8), np.uint8), fold_px=2)
    assert torch.isfinite(folded.encode(-torch.ones(4, 1, 8, 8))).all()
