"""How well a denoiser predicts the noise that was put on an image: what its weights give away.

A network is better at images that it has seen. Every image gets the same noise at the same times,
so that two images differ in nothing but themselves.
Source: Carlini et al., arXiv 2301.13188, section 5.2; Matsumoto et al., arXiv 2302.03262.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .. import protocol
from ..cohort import Cohort
from ..models.autoencoder import Autoencoder
from ..models.denoiser import encode_conditions
from ..models.diffusion import Schedule
from ..models.prompted import AnyDenoiser
from ..vocabulary import Vocabulary
from .search import in_batches

Labels = Mapping[str, str]
BATCH = 128


@dataclass(frozen=True)
class Model:
    """What somebody who has the weights can do.

    `encode` turns images (N, C, H, W) in [-1, 1] into latents (N, c, h, w) float32; `predict`
    says for noised latents (N, c, h, w), one time and each image's labels what noise
    (N, c, h, w) is on them; `abar` is (T,), the share of the signal's variance left at each time.
    """

    encode: Callable[[np.ndarray], np.ndarray]
    predict: Callable[[np.ndarray, int, Sequence[Labels]], np.ndarray]
    abar: np.ndarray

    def predict_all(self, x_t: np.ndarray, time: int, labels: Sequence[Labels]) -> np.ndarray:
        """Return `predict` of any number of latents, computed a batch at a time."""
        parts = [slice(start, start + BATCH) for start in range(0, len(x_t), BATCH)]
        return np.concatenate([self.predict(x_t[part], time, labels[part]) for part in parts])


def open_model(
    denoiser: AnyDenoiser,
    autoencoder: Autoencoder,
    vocabulary: Vocabulary,
    diffusion: protocol.Diffusion,
    *,
    device: str,
) -> Model:
    """Return what the trained networks, on a device, can be asked.

    Labels that the vocabulary does not have are left to the null token.
    """
    schedule = Schedule.of(diffusion)
    known = set(vocabulary.tokens)

    def encode(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return autoencoder.encode(torch.from_numpy(images).to(device)).float().cpu().numpy()

    def predict(x_t: np.ndarray, time: int, labels: Sequence[Labels]) -> np.ndarray:
        rows = [{pair[0]: pair[1] for pair in row.items() if pair in known} for row in labels]
        condition = encode_conditions(vocabulary, rows).to(device)
        with torch.inference_mode():
            x, t = torch.from_numpy(x_t).to(device), torch.full((len(x_t),), time, device=device)
            made = denoiser(x, t, condition).float()
            return schedule.split(made, x, t, diffusion.objective)[1].cpu().numpy()

    return Model(encode, predict, schedule.abar)


def losses(
    model: Model,
    images: np.ndarray | Cohort,
    labels: Sequence[Labels],
    *,
    times: Sequence[int],
    seed: int,
) -> np.ndarray:
    """Return (N, T): each image's mean squared error of the predicted noise at each of T times.

    `images` are (N, C, H, W) in [-1, 1], or a cohort, which is read a batch at a time; `labels`
    are theirs. All images have the noise that follows from `seed` and the time's place; 0 means
    that the noise was known to the last digit, 1 is what a guess of no noise has.
    """
    return latent_losses(model, in_batches(model.encode, images), labels, times=times, seed=seed)


def latent_losses(
    model: Model, latents: np.ndarray, labels: Sequence[Labels], *, times: Sequence[int], seed: int
) -> np.ndarray:
    """Return the `losses` (N, T) of images whose latents (N, c, h, w) are known."""
    rng = np.random.default_rng(seed)
    columns = []
    for time in times:
        eps = rng.standard_normal(latents.shape[1:], np.float32)
        error = predict_noise(model, latents, time, eps, labels) - eps
        columns.append((error**2).reshape(len(latents), -1).mean(1))
    return np.stack(columns, 1)


def predict_noise(
    model: Model, z: np.ndarray, time: int, eps: np.ndarray, labels: Sequence[Labels]
) -> np.ndarray:
    """Return what the model takes for the noise (N, c, h, w) when latents z bear `eps` at a time.

    `eps` is one noise (c, h, w) for all, or each one's own.
    """
    signal, noise = np.sqrt([model.abar[time], 1 - model.abar[time]]).astype(np.float32)
    return model.predict_all(signal * z + noise * eps, time, labels)
