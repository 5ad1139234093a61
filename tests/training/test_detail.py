"""Losses that keep fine detail, against scipy, closed forms and both ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from medsynth.models.lens import Lens
from medsynth.training.detail import (
    FeatureLoss,
    ReconstructionLoss,
    energy_loss,
    frequency_loss,
    gradient_loss,
)

TERMS = {"gradient": gradient_loss, "frequency": frequency_loss, "energy": energy_loss}


def textures(count: int = 3, size: int = 32, channels: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.4 * torch.randn(count, channels, size, size, generator=generator)


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.from_numpy(ndimage.gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


@pytest.mark.parametrize("name", TERMS)
def test_nothing_is_lost_by_the_same_image_and_the_more_the_softer(name):
    real = textures()
    values = [TERMS[name](blurred(real, sigma), real).item() for sigma in (0.4, 0.6, 0.9)]
    assert TERMS[name](real, real).item() == 0.0
    assert 0 < values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("made", [textures(), torch.zeros(3, 2, 32, 32)], ids=["same", "flat"])
def test_gradients_are_numbers_at_both_ends(name, made):
    made = made.clone().requires_grad_()
    TERMS[name](made, textures()).backward()
    assert made.grad.isfinite().all()


def test_gradient_loss_is_that_of_scipy_s_sobel():
    made, real = textures(2), textures(2).flip(3)
    error = (made - real).double().numpy()
    slopes = [
        ndimage.sobel(plane, axis)[1:-1, 1:-1] / 8
        for plane in error.reshape(-1, 32, 32)
        for axis in (0, 1)
    ]
    expected = np.abs(slopes).mean()
    assert gradient_loss(made, real).item() == pytest.approx(expected, rel=1e-5)


def test_frequency_loss_of_two_waves_is_the_closed_form():
    """By Parseval a wave of amplitude a is a^2 / 2; the weaker weighs as much as it is weaker."""
    places = torch.arange(32) * 2 * math.pi / 32
    wave = 0.5 * torch.cos(3 * places)[None, :] + 0.2 * torch.cos(5 * places)[:, None]
    real = torch.zeros(1, 1, 32, 32)
    expected = 0.5**2 / 2 + (0.2 / 0.5) * 0.2**2 / 2
    assert frequency_loss(real + wave, real).item() == pytest.approx(expected, rel=1e-4)


def test_frequency_weights_belong_to_one_image_and_learn_nothing():
    made, real = textures().requires_grad_(), textures().flip(2)
    alone = torch.stack([frequency_loss(made[i : i + 1], real[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(frequency_loss(made, real), alone.mean())
    found = torch.autograd.grad(frequency_loss(made, real), made)[0]
    spectrum = np.fft.fft2((made - real).detach().double().numpy(), norm="ortho")
    weight = np.abs(spectrum) / np.abs(spectrum).max((2, 3), keepdims=True)
    expected = 2 * np.fft.ifft2(weight * spectrum, norm="ortho").real / made.numel()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


def test_energy_loss_knows_the_strength_of_detail_and_not_its_phase():
    real = textures(4, 64)
    weaker = energy_loss(math.sqrt(0.5) * real, real).item()
    assert weaker == pytest.approx(math.log(2) ** 2, rel=0.02)
    moved = energy_loss(real.roll((16, 16), (2, 3)), real).item()
    assert moved < 0.4 * weaker
    assert F.mse_loss(real.roll((16, 16), (2, 3)), real) > F.mse_loss(0 * real, real)


def test_similarity_is_a_mean_over_sizes_as_far_as_they_hold_the_window():
    made, real = textures(2, 28).tanh(), textures(2, 28).flip(3).tanh()
    one, two, many = (ReconstructionLoss(1.0, ssim_scales=n) for n in (1, 2, 9))
    small = one.similarity(F.avg_pool2d(made, 2), F.avg_pool2d(real, 2))
    tiny = one.similarity(F.avg_pool2d(made, 4), F.avg_pool2d(real, 4))
    whole = one.similarity(made, real)
    torch.testing.assert_close(two.similarity(made, real), (whole + small) / 2)
    torch.testing.assert_close(many.similarity(made, real), (whole + small + tiny) / 3)
    torch.testing.assert_close(ReconstructionLoss(1.0)(made, real), one(made, real))


def test_each_weight_adds_its_term_and_none_adds_nothing():
    made, real = blurred(textures(), 0.5), textures()
    bare = ReconstructionLoss(0.0)(made, real)
    torch.testing.assert_close(bare, F.mse_loss(made, real))
    for name, term in TERMS.items():
        whole = ReconstructionLoss(0.0, **{f"{name}_weight": 0.5})(made, real)
        torch.testing.assert_close(whole - bare, 0.5 * term(made, real), rtol=1e-4, atol=1e-7)


def test_features_are_alike_in_the_same_image_and_apart_in_what_is_softer():
    torch.manual_seed(0)
    loss, real = FeatureLoss(Lens(channels=2, width=8, features=8)), textures()
    values = [loss(blurred(real, sigma), real).item() for sigma in (0.4, 0.6, 0.9)]
    assert loss(real, real).item() == 0.0
    assert 0 < values[0] < values[1] < values[2] <= 4
    made = blurred(real, 0.6).requires_grad_()
    loss(made, real).backward()
    assert made.grad.abs().sum() > 0
    assert not any(weight.requires_grad for weight in loss.parameters())
