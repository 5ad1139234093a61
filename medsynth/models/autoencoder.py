"""The Medfusion autoencoder as a diffusers AutoencoderKL.

At `fold_px` 1 it is the published network and its folder opens in plain diffusers. A fold puts
squares of pixels into channels first, which makes it many times cheaper; a principal start adds
the best linear code of those squares, so that training begins where a linear code ends.
diffusers' class has a middle block and one more residual block a level than Medfusion's, so that
the same widths make 41 million parameters where theirs make 13.
Source: Müller-Franzes et al., Sci Rep 13:12098 (2023).
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from .. import protocol
from ..errors import DataError
from ..runtime import read_json, write_json
from .tiles import decode_in_tiles, within_memory


class Principal(nn.Module):
    """The linear code of an image's squares: their leading principal components, whitened.

    Built from `components` (k, d) with orthonormal rows, `mean` (d,) and `scale` (k,), the
    standard deviation along each component; d = channels * `square_px`^2.
    """

    def __init__(
        self,
        components: torch.Tensor,
        mean: torch.Tensor,
        scale: torch.Tensor,
        *,
        square_px: int,
    ):
        super().__init__()
        self.square_px = square_px
        self.register_buffer("components", components)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    @classmethod
    def fit(cls, images: torch.Tensor, count: int, *, square_px: int) -> Principal:
        """Fit `count` components to the squares of images (N, C, H, W)."""
        folded = F.pixel_unshuffle(images, square_px)
        squares = folded.permute(0, 2, 3, 1).reshape(-1, folded.shape[1]).double()
        mean = squares.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov((squares - mean).T))
        rows = vectors.flip(1).T[:count]
        sums = rows.sum(1, keepdim=True)
        rows = rows * torch.where(sums == 0, 1.0, sums.sign())
        scale = values.flip(0)[:count].clamp(min=1e-8).sqrt()
        return cls(rows.float().contiguous(), mean.float(), scale.float(), square_px=square_px)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, k, h, w) of unit variance a channel."""
        centred = F.pixel_unshuffle(images, self.square_px) - self.mean[:, None, None]
        return F.conv2d(centred, (self.components / self.scale[:, None])[:, :, None, None])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """(N, k, h, w) -> (N, C, H, W)."""
        rows = (self.components * self.scale[:, None]).T[:, :, None, None]
        return F.pixel_shuffle(F.conv2d(z, rows) + self.mean[:, None, None], self.square_px)


class Autoencoder(nn.Module):
    """Images (N, C, H, W) in [-1, 1] <-> latents (N, c, h, w) of zero mean and unit variance.

    The latents' mean and deviation a channel, measured over the training images, are part of
    the model (`latents_mean` and `latents_std` in diffusers' config.json).
    """

    def __init__(
        self,
        net: AutoencoderKL,
        *,
        fold_px: int = 1,
        principal: Principal | None = None,
        half_head: nn.Module | None = None,
    ):
        super().__init__()
        self.net, self.fold_px = net, fold_px
        self.principal, self.half_head = principal, half_head
        channels = net.config.latent_channels
        self.register_buffer("latents_mean", _column(net.config.latents_mean, channels, 0.0))
        self.register_buffer("latents_std", _column(net.config.latents_std, channels, 1.0))

    @classmethod
    def build(cls, settings: protocol.Autoencoder, *, channels: int) -> Autoencoder:
        """Build an untrained autoencoder for images of 1 or 3 channels."""
        folded = channels * settings.fold_px**2
        levels = len(settings.widths)
        net = AutoencoderKL(
            in_channels=folded,
            out_channels=folded,
            block_out_channels=settings.widths,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=settings.layers,
            latent_channels=settings.latent_channels,
            norm_num_groups=settings.groups,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )
        made = cls(net, fold_px=settings.fold_px)
        if settings.deep_supervision:
            made.add_half_head()
        return made

    def add_half_head(self) -> None:
        """Add a second output at half size, where there are two levels or more and it has none."""
        widths, folded = self.net.config.block_out_channels, self.net.config.out_channels
        if self.half_head is None and len(widths) > 1:
            # At half size the decoder carries the third level's channels, or the deepest level's.
            self.half_head = nn.Conv2d(widths[min(2, len(widths) - 1)], folded, 3, padding=1)

    def start_from(self, images: torch.Tensor) -> None:
        """Start from the principal components of images (N, C, H, W); the network adds nothing."""
        mean_rows = self.net.config.latent_channels
        self.principal = Principal.fit(images, mean_rows, square_px=self.downscale)
        with torch.no_grad():
            last = self.net.quant_conv
            last.weight[:mean_rows].zero_()
            last.bias[:mean_rows].zero_()
            last.weight[mean_rows:].zero_()
            last.bias[mean_rows:].fill_(-8.0)  # a posterior of deviation 0.02
            self.net.decoder.conv_out.weight.zero_()
            self.net.decoder.conv_out.bias.zero_()

    @property
    def downscale(self) -> int:
        """How many times smaller a latent's side is than its image's."""
        return self.fold_px * 2 ** (len(self.net.config.block_out_channels) - 1)

    def fold(self, images: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(images, self.fold_px) if self.fold_px > 1 else images

    def unfold(self, folded: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(folded, self.fold_px) if self.fold_px > 1 else folded

    def moments(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log variance of the posterior over raw latents, each (N, c, h, w)."""
        encoded = self.net.encoder(self.fold(images))
        mean, log_variance = self.net.quant_conv(encoded).chunk(2, 1)
        if self.principal is not None:
            mean = mean + self.principal.encode(images)
        return mean, log_variance.clamp(-30.0, 20.0)

    def decode_raw(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Decode raw latents to images, and to images of half size where there is a second head."""
        blocks, h, half = self.net.decoder.up_blocks, self.enter(z), None
        for level, block in enumerate(blocks):
            if self.half_head is not None and level == len(blocks) - 2:
                half = self.unfold(self.half_head(h))  # what goes into the last doubling
            h = self._run(block, h)
        made = self.leave(h)
        if self.principal is not None:
            made = made + self.principal.decode(z)
        return made, half

    def enter(self, z: torch.Tensor) -> torch.Tensor:
        """Return what goes into the decoder's first level."""
        decoder = self.net.decoder
        return self._run(decoder.mid_block, decoder.conv_in(self.net.post_quant_conv(z)))

    def leave(self, h: torch.Tensor) -> torch.Tensor:
        """Return the image, but for its principal part, of what comes out of the last level."""
        decoder = self.net.decoder
        return self.unfold(decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(h))))

    def _run(self, block: nn.Module, h: torch.Tensor) -> torch.Tensor:
        if self.net.decoder.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(block, h, use_reentrant=False)
        return block(h)

    def forward(self, images: torch.Tensor, noise: torch.Tensor | None = None):
        """Return (images again, half-size images or None, mean, log variance); z is drawn with
        `noise` (N, c, h, w), None draws that too."""
        mean, log_variance = self.moments(images)
        noise = torch.randn_like(mean) if noise is None else noise
        z = mean + noise * (0.5 * log_variance).exp()
        return *self.decode_raw(z), mean, log_variance

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalised latents of images in [-1, 1]: the posterior's mean."""
        mean = within_memory(lambda some: self.moments(some)[0], images)
        return (mean - self.latents_mean) / self.latents_std

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Return images in [-1, 1], clipped, of normalised latents; fewer at a time, or in tiles,
        where memory is short."""
        raw = z * self.latents_std + self.latents_mean
        made = within_memory(
            lambda some: self.decode_raw(some)[0], raw, functools.partial(decode_in_tiles, self)
        )
        return made.clamp(-1.0, 1.0)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(images))

    def set_scale(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Store the raw latents' mean and deviation a channel, each (c,)."""
        self.latents_mean.copy_(mean.reshape(-1, 1, 1))
        self.latents_std.copy_(std.reshape(-1, 1, 1))
        self.net.register_to_config(
            latents_mean=[float(x) for x in mean], latents_std=[float(x) for x in std]
        )

    def save(self, folder: Path) -> None:
        """Write diffusers' own two files, and beside them what medsynth adds."""
        self.net.save_pretrained(folder)
        write_json(folder / "medsynth.json", {"fold_px": self.fold_px})
        parts = {"principal": self.principal, "half_head": self.half_head}
        extra = {
            f"{name}.{key}": value.detach().cpu().contiguous()
            for name, part in parts.items()
            if part is not None
            for key, value in part.state_dict().items()
        }
        if extra:
            save_file(extra, folder / "medsynth.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Autoencoder:
        """Read what `save` wrote. Raises DataError where the folder holds no autoencoder."""
        if not (folder / "medsynth.json").exists():
            raise DataError(f"{folder.name}/ holds no medsynth autoencoder")
        net = AutoencoderKL.from_pretrained(folder, local_files_only=True)
        path = folder / "medsynth.safetensors"
        extra = load_file(path) if path.exists() else {}
        fold_px = read_json(folder / "medsynth.json")["fold_px"]
        levels = len(net.config.block_out_channels)
        half = {
            key.removeprefix("half_head."): value
            for key, value in extra.items()
            if key.startswith("half_head.")
        }
        principal = None
        if "principal.components" in extra:
            tensors = (extra[f"principal.{key}"] for key in ("components", "mean", "scale"))
            principal = Principal(*tensors, square_px=fold_px * 2 ** (levels - 1))
        head = _head(half) if half else None
        return cls(net, fold_px=fold_px, principal=principal, half_head=head).eval()


def _head(state: dict[str, torch.Tensor]) -> nn.Conv2d:
    weight = state["weight"]
    head = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=1)
    head.load_state_dict(state)
    return head


def _column(values, channels: int, default: float) -> torch.Tensor:
    return torch.tensor(values or [default] * channels, dtype=torch.float32).reshape(-1, 1, 1)
