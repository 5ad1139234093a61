"""Short vectors for small windows of images, and an index that finds the most alike of millions.

A window's vector holds its principal components. All vectors are sorted into lists, each around a
middle, and a window is compared with the vectors of the lists whose middles are nearest. What
lies in another list is missed, which costs power and no trust: components and middles are learned
from all real images alike, and nothing says which of them was trained on.

Source: Sivic and Zisserman, ICCV 2003; Jegou, Douze and Schmid, IEEE TPAMI 33 (2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .nearest import NEVER

COMPONENTS = 32
LIST, MOST_LISTS = 512, 4096  # vectors a list, about; lists
ROUNDS, SAMPLE = 6, 40  # of learning the middles, and from so many vectors a list
BLOCK = 2**14


@dataclass(frozen=True)
class Index:
    """Vectors (M, K) of length 1, list by list: list l is `vectors[starts[l] : starts[l + 1]]`.

    `numbers` (M,) are the positions at which they were given, `middles` (L, K) the lists'.
    """

    vectors: torch.Tensor
    numbers: torch.Tensor
    starts: tuple[int, ...]
    middles: torch.Tensor


def windows(images: torch.Tensor, window_px: int, stride: int) -> torch.Tensor:
    """Return (N, P, window_px**2): all windows of (N, S, S) images, row by row, each of mean 0."""
    every = F.unfold(images[:, None], window_px, stride=stride).transpose(1, 2)
    return every - every.mean(-1, keepdim=True)


def components(flat: torch.Tensor) -> torch.Tensor:
    """Return (D, K): the principal components of windows (M, D), the strongest first."""
    _, vectors = torch.linalg.eigh(flat.T.double() @ flat.double())
    return vectors.flip(1)[:, :COMPONENTS].float().contiguous()


def describe(flat: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return windows (..., D) as vectors (..., K) of length 1; an empty one stays 0."""
    return F.normalize(flat @ basis, dim=-1, eps=1e-6)


def build(vectors: torch.Tensor, generator: torch.Generator) -> Index:
    """Sort (M, K) vectors of length 1 into lists, by k-means on a sample of them."""
    count = max(1, min(MOST_LISTS, len(vectors) // LIST))
    drawn = torch.randperm(len(vectors), generator=generator)[: SAMPLE * count]
    sample = vectors[drawn.to(vectors.device)].float()
    middles = sample[:count]
    for _ in range(ROUNDS):
        sums = torch.zeros_like(middles).index_add_(0, _nearest(sample, middles, 1)[:, 0], sample)
        middles = F.normalize(sums + 1e-3 * middles, dim=1)
    own = _nearest(vectors, middles, 1)[:, 0]
    order = own.argsort(stable=True)
    ends = torch.bincount(own, minlength=count).cumsum(0).tolist()
    return Index(vectors[order], order, (0, *ends), middles)


def look_up(
    index: Index,
    asked: torch.Tensor,
    *,
    probes: int,
    kept: int,
    refused: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeness and the numbers, (n, probes * kept) each, of the vectors most alike to
    (n, K) asked ones: `kept` of each of the `probes` nearest lists. NEVER = there is none.

    `refused(rows, numbers)`, (r,) and (m,) to (r, m) bool, says which may not be found by which;
    None refuses none.
    """
    probes = min(probes, len(index.middles))
    near = _nearest(asked, index.middles, probes)
    likeness = asked.new_full((len(asked), probes, kept), NEVER)
    numbers = torch.zeros(likeness.shape, dtype=torch.long, device=asked.device)
    order = near.flatten().argsort(stable=True)
    ends = torch.bincount(near.flatten(), minlength=len(index.middles)).cumsum(0).tolist()
    for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        here = slice(index.starts[number], index.starts[number + 1])
        if start == end or here.start == here.stop:
            continue
        rows, probe = order[start:end] // probes, order[start:end] % probes
        alike = asked[rows] @ index.vectors[here].float().T
        if refused is not None:
            alike.masked_fill_(refused(rows, index.numbers[here]), NEVER)
        top = alike.topk(min(kept, alike.shape[1]))
        likeness[rows, probe, : top.values.shape[1]] = top.values
        numbers[rows, probe, : top.values.shape[1]] = index.numbers[here][top.indices]
    return likeness.flatten(1), numbers.flatten(1)


def _nearest(vectors: torch.Tensor, middles: torch.Tensor, count: int) -> torch.Tensor:
    """Return (M, count): the nearest middles of each vector."""
    return torch.cat(
        [(few.float() @ middles.T).topk(count).indices for few in vectors.split(BLOCK)]
    )
