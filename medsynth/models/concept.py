"""A concept: new words for a denoiser that stays as it is (textual inversion).

    the vocabulary   gets one more value of an attribute, finding=drusen, with a token of its own
    attention        hears V vectors where another value's token stands for one
    the embedding    gets their mean in that place

A concept stands in its attribute's place and is not appended: the denoiser adds the mean over
places to the time, so that one place more would take from every other attribute's share, and a
concept beside a value of its own attribute would say two things at once. In its place, one vector
is one more row of the token table, and all other attributes say what they always said.
Source: Gal et al., arXiv 2208.01618.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ..errors import DataError
from ..vocabulary import NULL
from .denoiser import predict
from .prompted import AnyDenoiser

FILE = "vectors.safetensors"


class Concept(nn.Module):
    """Vectors (V, D) that stand for `token`, the first number after a denoiser's own tokens."""

    def __init__(self, vectors: torch.Tensor, token: int):
        super().__init__()
        self.vectors, self.token = nn.Parameter(vectors), token

    @classmethod
    def start(cls, denoiser: AnyDenoiser, known: int, *, count: int, seed: int) -> Concept:
        """Start as the known token: the first vector is the token's own, the others lie near it,
        a tenth of its size off, so that they can learn different things."""
        row = denoiser.vector(known)
        device, row = row.device, row.cpu()
        noise = torch.randn(count, len(row), generator=torch.Generator().manual_seed(seed))
        noise[0] = 0.0
        vectors = row + 0.1 * row.norm() / len(row) ** 0.5 * noise
        return cls(vectors.to(device), denoiser.known)

    def forward(
        self, denoiser: AnyDenoiser, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Predict as `denoiser` does for conditions (N, L) in which the token may stand, once at
        most in each; where it does not, the prediction is the denoiser's."""
        return predict(denoiser.unet, x, t, denoiser.hear(condition, self))

    def save(self, folder: Path) -> None:
        """Write `vectors.safetensors`: a few kilobytes."""
        save_file({"vectors": self.vectors.detach().cpu().contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, denoiser: AnyDenoiser) -> Concept:
        """Read what `save` wrote, for the denoiser that it was learned with.

        Raises DataError where its vectors are not as long as that one's.
        """
        vectors, own = load_file(folder / FILE)["vectors"], len(denoiser.vector(NULL))
        if vectors.shape[1] != own:
            raise DataError(
                f"{folder.name}/ has vectors of length {vectors.shape[1]}, the denoiser's tokens "
                f"have {own}: the concept was learned with another denoiser"
            )
        return cls(vectors, denoiser.known)


class Taught(nn.Module):
    """A denoiser that knows one concept; it is called, and drawn from, as the denoiser is."""

    def __init__(self, denoiser: AnyDenoiser, concept: Concept):
        super().__init__()
        self.denoiser, self.concept = denoiser, concept

    @property
    def unet(self) -> nn.Module:
        """The denoiser's network."""
        return self.denoiser.unet

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.concept(self.denoiser, x, t, condition)
