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
from .denoiser import Denoiser

FILE = "vectors.safetensors"


class Concept(nn.Module):
    """Vectors (V, D) that stand for `token`, the first number after a denoiser's own tokens."""

    def __init__(self, vectors: torch.Tensor, token: int):
        super().__init__()
        self.vectors, self.token = nn.Parameter(vectors), token

    @classmethod
    def start(cls, denoiser: Denoiser, known: int, *, count: int, seed: int) -> Concept:
        """Start as the known token: the first vector is the token's own, the others lie near it,
        a tenth of its size off, so that they can learn different things."""
        table = denoiser.tokens.weight.detach()
        row = table[known].cpu()
        noise = torch.randn(count, len(row), generator=torch.Generator().manual_seed(seed))
        noise[0] = 0.0
        vectors = row + 0.1 * row.norm() / len(row) ** 0.5 * noise
        return cls(vectors.to(table.device), len(table))

    def forward(
        self, denoiser: Denoiser, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Predict as `denoiser` does for conditions (N, L) in which the token may stand, once at
        most in each; where it does not, the prediction is the denoiser's."""
        here = (condition == self.token)[..., None]  # (N, L, 1)
        known = denoiser.tokens(condition.masked_fill(here[..., 0], NULL))  # (N, L, D)
        label = torch.where(here, self.vectors.mean(0), known).mean(1)
        words, heard = torch.where(here, self.vectors[0], known), None
        if len(self.vectors) > 1:
            more = self.vectors[1:].expand(len(x), -1, -1)
            words = torch.cat([words, more], 1)  # (N, L + V - 1, D)
            own = here.any(1).expand(-1, more.shape[1])
            heard = torch.cat([torch.ones_like(condition, dtype=torch.bool), own], 1)
        return denoiser.unet(x, t, words, class_labels=label, encoder_attention_mask=heard).sample

    def save(self, folder: Path) -> None:
        """Write `vectors.safetensors`: a few kilobytes."""
        save_file({"vectors": self.vectors.detach().cpu().contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, denoiser: Denoiser) -> Concept:
        """Read what `save` wrote, for the denoiser that it was learned with.

        Raises DataError where its vectors are not as long as that one's.
        """
        vectors, table = load_file(folder / FILE)["vectors"], denoiser.tokens.weight
        if vectors.shape[1] != table.shape[1]:
            raise DataError(
                f"{folder.name}/ has vectors of length {vectors.shape[1]}, the denoiser's tokens "
                f"have {table.shape[1]}: the concept was learned with another denoiser"
            )
        return cls(vectors, len(table))


class Taught(nn.Module):
    """A denoiser that knows one concept; it is called, and drawn from, as the denoiser is."""

    def __init__(self, denoiser: Denoiser, concept: Concept):
        super().__init__()
        self.denoiser, self.concept = denoiser, concept

    @property
    def unet(self) -> nn.Module:
        """The denoiser's network."""
        return self.denoiser.unet

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.concept(self.denoiser, x, t, condition)
