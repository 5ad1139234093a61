"""Losses between an image and its reconstruction, beside the squared error, that need no weights.

    ssim         1 - structural similarity, where asked for as a mean over halved sizes
    gradient     absolute error of the slopes: an edge that was blurred costs, wherever it lies
    frequency    squared error of the spectrum, each frequency weighed by how wrong it is (focal
                 frequency loss): what is still blurred counts most
    energy       squared error of the logarithm of how much fine detail there is around each place:
                 texture of the right strength, in phase or not

    features     distance in the features of a lens, level by level, each of unit length (as LPIPS)

All take images (N, C, H, W) in [-1, 1]. The lens of the evidence is no loss here: it saw the
held-out patients, who must have no part in any network that is trained. One that saw the training
patients alone is (perceptual.py); but a lens is taught not to see blur.
Source: Jiang et al., arXiv 2012.12821 (focal frequency loss); Zhang et al., arXiv 1801.03924.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import SSIMLoss
from torch import nn

from ..models.lens import Lens, Residual

WINDOW_PX = 7  # of SSIM
PLACE_PX = 8  # the side of a place whose detail is compared
LEAST_ENERGY = 1e-4  # a hundredth of white, squared: less is as good as flat


class ReconstructionLoss(nn.Module):
    """Squared error + `ssim_weight` (1 - SSIM) + the others by their weights; all are means.

    SSIM is a mean over `ssim_scales` sizes, each half the last, fewer where an image is too small
    for its window; None takes one, and leaves the other terms out.
    """

    def __init__(
        self,
        ssim_weight: float,
        *,
        ssim_scales: int | None = None,
        gradient_weight: float | None = None,
        frequency_weight: float | None = None,
        energy_weight: float | None = None,
    ):
        super().__init__()
        self.scales = ssim_scales or 1
        self.ssim = SSIMLoss(spatial_dims=2, data_range=2.0, win_size=WINDOW_PX)
        terms = {
            self.similarity: ssim_weight,
            gradient_loss: gradient_weight,
            frequency_loss: frequency_weight,
            energy_loss: energy_weight,
        }
        self.terms = {term: weight for term, weight in terms.items() if weight}

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        total = F.mse_loss(made, real)
        for term, weight in self.terms.items():
            total = total + weight * term(made, real)
        return total

    def similarity(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Return 1 - SSIM, a mean over the sizes."""
        losses = [self.ssim(made, real)]
        while len(losses) < self.scales and min(made.shape[2:]) >= 2 * WINDOW_PX:
            made, real = F.avg_pool2d(made, 2), F.avg_pool2d(real, 2)
            losses.append(self.ssim(made, real))
        return sum(losses) / len(losses)


def gradient_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error of both slopes (Sobel), a pixel, inside the border."""
    error = made - real
    down, across = (error[:, :, 2:] - error[:, :, :-2]) / 2, (error[..., 2:] - error[..., :-2]) / 2
    down = (down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:]) / 4
    across = (across[:, :, :-2] + 2 * across[:, :, 1:-1] + across[:, :, 2:]) / 4
    return (down.abs().mean() + across.abs().mean()) / 2


def frequency_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the focal frequency loss (alpha 1, whole images): the spectrum's squared error, each
    frequency's weighed by its distance, the largest of an image and channel weighing 1."""
    gap = torch.fft.fft2(made - real, norm="ortho")
    squares = gap.real**2 + gap.imag**2
    distance = squares.detach().sqrt()
    weight = distance / distance.amax((2, 3), keepdim=True).clamp(min=1e-12)
    return (weight * squares).mean()


def energy_loss(made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of the log of the energy that a 3 x 3 blur takes away, around
    places PLACE_PX apart: 0 for the same detail in another phase, log(2)^2 for half as much."""
    return (_log_energy(made) - _log_energy(real)).square().mean()


class FeatureLoss(nn.Module):
    """The squared distance of a frozen lens's features of unit length, a mean over places and over
    its three levels: 0 for the same images, 4 for opposite features."""

    def __init__(self, lens: Lens):
        super().__init__()
        self.lens = lens.eval().requires_grad_(False)

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        distances = []
        for layer in self.lens.body:
            made, real = layer(made), layer(real)
            if isinstance(layer, Residual):
                gap = F.normalize(made, dim=1) - F.normalize(real, dim=1)
                distances.append(gap.square().sum(1).mean())
        return sum(distances) / len(distances)


def _log_energy(images: torch.Tensor) -> torch.Tensor:
    soft = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    side = min(PLACE_PX, *images.shape[2:])
    energy = F.avg_pool2d((images - soft) ** 2, side, stride=max(1, side // 2))
    return (energy + LEAST_ENERGY).log()
