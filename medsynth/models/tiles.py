"""Where memory is short: fewer images at a time, and of a single one a tile at a time.

A tile takes its surroundings with it, as far as the convolutions look. What else joins an image's
places are the statistics of the group normalisations: they are gathered over all tiles, one
normalisation a pass, and then held fixed. So tiles come to what the whole comes to, without a seam,
at several times the time. Only the decoder's last levels, where images are large, go in tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

if TYPE_CHECKING:
    from .autoencoder import Autoencoder

LEVELS = 2  # so many of the decoder's last levels go in tiles
MOST = 64  # tiles along a side

Function = Callable[[torch.Tensor], torch.Tensor]


def within_memory(
    function: Function, rows: torch.Tensor, single: Function | None = None
) -> torch.Tensor:
    """Return function(rows), half of the rows at a time where memory is too short for all; of a
    single row what `single` returns, where there is one. Raises torch.OutOfMemoryError else."""
    try:
        return function(rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1 and single is None:
            raise
    if rows.device.type == "cuda":  # out of the except, where nothing holds on to the attempt
        torch.cuda.empty_cache()
    if len(rows) == 1:
        return single(rows)
    halves = rows.split(-(-len(rows) // 2))
    return torch.cat([within_memory(function, half, single) for half in halves])


def decode_in_tiles(autoencoder: Autoencoder, z: torch.Tensor) -> torch.Tensor:
    """Decode one raw latent (1, c, h, w) in 2 x 2 tiles, or as many more as memory asks for."""
    tiles = 2
    while True:
        try:
            return decode_tiled(autoencoder, z, tiles=tiles)
        except torch.OutOfMemoryError:
            if tiles >= MOST:
                raise
        if z.device.type == "cuda":
            torch.cuda.empty_cache()
        tiles *= 2


def decode_tiled(autoencoder: Autoencoder, z: torch.Tensor, *, tiles: int) -> torch.Tensor:
    """Decode raw latents (N, c, h, w) in tiles x tiles parts of about one size."""
    blocks = autoencoder.net.decoder.up_blocks
    h = autoencoder.enter(z)
    for block in blocks[:-LEVELS]:
        h = block(h)
    tail = [*blocks[-LEVELS:], autoencoder.net.decoder.conv_norm_out]
    if any(isinstance(module, Attention) for part in tail for module in part.modules()):
        raise ValueError("attention joins all places of an image: it can't be decoded in tiles")
    halo = 1 + sum(_looks_around(module) for part in tail for module in part.modules())

    def leave(h: torch.Tensor) -> torch.Tensor:
        for block in blocks[-LEVELS:]:
            h = block(h)
        return autoencoder.leave(h)

    cut = [*_tiles(h.shape[2:], tiles, halo)]
    made = _in_tiles(leave, h, cut, tail)
    if autoencoder.principal is not None:
        made = made + autoencoder.principal.decode(z)
    return made


def _looks_around(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)


@dataclass(frozen=True)
class _Span:
    """Along one side: places start .. stop are cut out, of which `core` after `before` count."""

    start: int
    stop: int
    before: int
    core: int

    def inner(self, size: int) -> slice:
        """Return the core of something of `size` places that was made from the span."""
        scale = size // (self.stop - self.start)
        return slice(self.before * scale, (self.before + self.core) * scale)


def _spans(size: int, tiles: int, halo: int) -> Iterator[_Span]:
    for i in range(tiles):
        first, last = i * size // tiles, (i + 1) * size // tiles
        if first < last:
            start = max(0, first - halo)
            yield _Span(start, min(size, last + halo), first - start, last - first)


def _tiles(shape: torch.Size, tiles: int, halo: int) -> Iterator[tuple[_Span, _Span]]:
    for down in _spans(shape[0], tiles, halo):
        for across in _spans(shape[1], tiles, halo):
            yield down, across


class _Incomplete(Exception):
    """Ends a tile's pass at a normalisation whose statistics are not known yet."""


@dataclass
class _Norms:
    """The statistics of normalisations over whole images: known ones, and one being gathered."""

    known: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]]
    tile: tuple[_Span, _Span] | None = None
    gathered: nn.Module | None = None
    sums: torch.Tensor | float = 0.0
    count: int = 0

    def __call__(self, module: nn.GroupNorm, inputs, output) -> torch.Tensor:
        """Stand in for a normalisation: its forward hook."""
        (x,) = inputs
        if module not in self.known:
            self._gather(module, x)
            raise _Incomplete
        mean, deviation = self.known[module]
        grouped = x.unflatten(1, (module.num_groups, -1))
        made = ((grouped - mean) / deviation).flatten(1, 2)
        return made * module.weight[:, None, None] + module.bias[:, None, None]

    def _gather(self, module: nn.GroupNorm, x: torch.Tensor) -> None:
        down, across = self.tile
        core = x[:, :, down.inner(x.shape[2]), across.inner(x.shape[3])].double()
        core = core.unflatten(1, (module.num_groups, -1)).flatten(2)
        self.sums = self.sums + torch.stack([core.sum(2), core.square().sum(2)])
        self.gathered, self.count = module, self.count + core.shape[2]

    def settle(self) -> None:
        """Turn what was gathered into a mean and a deviation."""
        mean, square = self.sums / self.count
        deviation = (square - mean**2 + self.gathered.eps).sqrt()
        self.known[self.gathered] = tuple(
            each.float()[:, :, None, None, None] for each in (mean, deviation)
        )
        self.gathered, self.sums, self.count = None, 0.0, 0


def _in_tiles(
    leave: Function, h: torch.Tensor, cut: list[tuple[_Span, _Span]], parts: list[nn.Module]
) -> torch.Tensor:
    """Return leave(h) tile by tile; `parts` hold the normalisations on the way."""
    norms = _Norms({})
    with _standing_in(norms, parts):
        while True:
            tiles = []
            for norms.tile in cut:
                down, across = norms.tile
                try:
                    made = leave(h[:, :, down.start : down.stop, across.start : across.stop])
                except _Incomplete:
                    continue
                tiles.append(made[:, :, down.inner(made.shape[2]), across.inner(made.shape[3])])
            if norms.gathered is None:
                return _join(tiles, cut)
            norms.settle()


@contextmanager
def _standing_in(norms: _Norms, parts: list[nn.Module]) -> Iterator[None]:
    found = [module for part in parts for module in part.modules()]
    hooks = [m.register_forward_hook(norms) for m in found if isinstance(m, nn.GroupNorm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _join(tiles: list[torch.Tensor], cut: list[tuple[_Span, _Span]]) -> torch.Tensor:
    across = len({span.start + span.before for _, span in cut})
    rows = [torch.cat(tiles[i : i + across], 3) for i in range(0, len(tiles), across)]
    return torch.cat(rows, 2)
