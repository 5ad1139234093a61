"""The denoiser: a diffusers UNet2DConditionModel over the vocabulary's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from .. import protocol
from ..vocabulary import NULL, Vocabulary
from .diffusion import Schedule

if TYPE_CHECKING:
    from .concept import Concept

HEAD_CHANNELS = 32


@dataclass(frozen=True, eq=False)
class Heard:
    """What a network hears of N conditions: words (N, S, D) to attend to, what joins the time
    (N, D), and which words count (N, S) bool; None is nothing joins, and all count."""

    words: torch.Tensor
    label: torch.Tensor | None = None
    counts: torch.Tensor | None = None


def predict(
    unet: UNet2DConditionModel,
    x: torch.Tensor,
    t: torch.Tensor,
    heard: Heard,
    *,
    down: tuple[torch.Tensor, ...] | None = None,
    middle: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return what a network predicts for x (N, C, h, w) at times t (N,) under what it hears;
    `down` and `middle` are what a control adds to its skips and to its middle."""
    return unet(
        x,
        t,
        heard.words,
        class_labels=heard.label,
        encoder_attention_mask=heard.counts,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample


class Denoiser(nn.Module):
    """Predicts v or eps for (x_t, t, condition).

    A condition's tokens are attended to where the network has attention, and their mean joins
    the time embedding, so that a network without attention is conditioned too. With `told`,
    (AMOUNTS) -> (D), a linear layer, so does how an image was changed (see training/told.py).
    """

    def __init__(
        self, unet: UNet2DConditionModel, tokens: nn.Embedding, told: nn.Linear | None = None
    ):
        super().__init__()
        self.unet, self.tokens, self.told = unet, tokens, told

    @classmethod
    def build(
        cls, settings: protocol.Diffusion, *, latent_channels: int, latent_px: int, tokens: int
    ) -> Denoiser:
        """Build an untrained denoiser for latents (latent_channels, latent_px, latent_px)."""
        length = settings.widths[-1]
        down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in settings.attention]
        up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in settings.attention[::-1]]
        middle = "UNetMidBlock2DCrossAttn" if settings.middle_attention else "UNetMidBlock2D"
        unet = UNet2DConditionModel(
            sample_size=latent_px,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=settings.widths,
            down_block_types=tuple(down),
            up_block_types=tuple(up),
            mid_block_type=middle,
            layers_per_block=settings.layers,
            norm_num_groups=settings.groups,
            # diffusers reads this as the number of heads of each level
            attention_head_dim=tuple(max(1, width // HEAD_CHANNELS) for width in settings.widths),
            cross_attention_dim=length,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=length,
        )
        words = nn.Embedding(tokens, length)
        told = nn.Linear(protocol.AMOUNTS, length, bias=False) if settings.told else None
        return cls(unet, words, told)

    def forward(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: torch.Tensor,
        amounts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predict for x (N, C, h, w), times t (N,) and conditions (N, L) int64 tokens.

        `amounts` (N, AMOUNTS) say how the images were changed; None is not at all.
        """
        heard = self.hear(condition)
        if amounts is not None:
            heard = Heard(heard.words, heard.label + self.told(amounts))
        return predict(self.unet, x, t, heard)

    def hear(self, condition: torch.Tensor, concept: Concept | None = None) -> Heard:
        """Return what the network hears of conditions (N, L) int64, in which a concept's token may
        stand, once at most in each; where it does not, it changes nothing."""
        if concept is None:
            words = self.tokens(condition)  # (N, L, D)
            return Heard(words, words.mean(1))
        here = (condition == concept.token)[..., None]  # (N, L, 1)
        known = self.tokens(condition.masked_fill(here[..., 0], NULL))  # (N, L, D)
        label = torch.where(here, concept.vectors.mean(0), known).mean(1)
        words = torch.where(here, concept.vectors[0], known)
        if len(concept.vectors) == 1:
            return Heard(words, label)
        more = concept.vectors[1:].expand(len(condition), -1, -1)
        own = here.any(1).expand(-1, more.shape[1])
        counts = torch.cat([torch.ones_like(condition, dtype=torch.bool), own], 1)
        return Heard(torch.cat([words, more], 1), label, counts)  # words (N, L + V - 1, D)

    @property
    def known(self) -> int:
        """How many tokens it knows, the null token included: the number of a concept's token."""
        return len(self.tokens.weight)

    def vector(self, token: int) -> torch.Tensor:
        """Return (D,): what stands for a known token, and what a concept may start from."""
        return self.tokens.weight.detach()[token]

    def save(self, folder: Path) -> None:
        """Write diffusers' own two files, `tokens.safetensors` and perhaps `told.safetensors`."""
        self.unet.save_pretrained(folder)
        for name, layer in (("tokens", self.tokens), ("told", self.told)):
            if layer is not None:
                weight = layer.weight.detach().cpu().contiguous()
                save_file({"weight": weight}, folder / f"{name}.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Denoiser:
        """Read what `save` wrote."""
        table = load_file(folder / "tokens.safetensors")["weight"]
        unet = UNet2DConditionModel.from_pretrained(folder, local_files_only=True)
        told, path = None, folder / "told.safetensors"
        if path.exists():
            told = nn.Linear(protocol.AMOUNTS, table.shape[1], bias=False)
            told.load_state_dict(load_file(path))
        return cls(unet, nn.Embedding.from_pretrained(table, freeze=False), told).eval()


def drop_condition(
    condition: torch.Tensor, share: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Make all tokens of a share of the conditions (N, L) null, one coin a sample."""
    coins = torch.rand(len(condition), generator=generator, device=condition.device)
    return torch.where((coins < share)[:, None], NULL, condition)


def guided(
    denoiser: nn.Module,
    condition: torch.Tensor,
    guidance: float,
    *,
    times: torch.Tensor | None = None,
):
    """Return a denoise(x_t, t) with classifier-free guidance (arXiv 2207.12598).

    Weight 1 follows the condition with one pass, 0 ignores it with one pass, anything else takes
    null + guidance * (condition - null) with both in one batch. Where `times` (T,) bool are given,
    as `guided_times` gives them, the weight is 1 at all others (arXiv 2404.07724).
    """
    null = torch.full_like(condition, NULL)
    inside = None if times is None else times.to(condition.device)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if guidance in (0.0, 1.0):
            return denoiser(x, t, condition if guidance == 1.0 else null)
        here = torch.ones_like(t, dtype=torch.bool) if inside is None else inside[t]
        if inside is not None and not here.any():
            return denoiser(x, t, condition)
        both = denoiser(torch.cat([x, x]), torch.cat([t, t]), torch.cat([null, condition]))
        without, with_ = both.chunk(2)
        weight = torch.where(here, guidance, 1.0).reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return without + weight * (with_ - without)

    return denoise


def guided_times(schedule: Schedule, interval: tuple[float, float] | None) -> torch.Tensor | None:
    """Return (T,) bool: the times of noise levels above `interval`'s low and up to its high end.

    A noise level is noise over signal, sqrt((1 - abar) / abar): 0 clean, infinite in pure noise.
    None, for all times, where there is no interval.
    """
    if interval is None:
        return None
    low, high = interval
    signal, noise = torch.as_tensor(schedule.abar), torch.as_tensor(1 - schedule.abar)
    return (noise > low**2 * signal) & (noise <= high**2 * signal)


def encode_conditions(vocabulary: Vocabulary, labels) -> torch.Tensor:
    """Return the tokens (N, L) int64 of many label mappings."""
    return torch.tensor([vocabulary.encode(row) for row in labels], dtype=torch.int64)
