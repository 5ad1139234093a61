"""Nearest neighbours, exactly, in the memory of one block, however many images there are.

Likeness is looked at a block of queries against a block of the gallery at a time. Of each block
only what reaches a query's bar is kept: the likeness that the last of its leaders has so far. The
bar rises quickly, so that nearly all of a block is passed over in one sweep, and the search costs
little more than the products. Equal likeness goes to whoever stands first in the gallery, which
should be in random order, so that a tie favours nobody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch

from .nearest import NEVER

QUERIES, GALLERY = 1024, 2048  # in one block, about what a processor's cache holds
EMPTY = -(2**63)
LAST = 2**31 - 1

Images = slice | torch.Tensor
"""Which of the gallery."""


@dataclass(frozen=True)
class Neighbours:
    """What stands nearest to each of Q queries, the best first.

    `images` (Q, K) and their `likeness` (Q, K); `leaders` (Q, P) are the best image of each of the
    P most similar patients and `lead` (Q, P) their likeness, so that lead[:, 1] is the likeness to
    the second-nearest patient. Where there are no more: image -1 at likeness NEVER.
    """

    images: torch.Tensor
    likeness: torch.Tensor
    leaders: torch.Tensor
    lead: torch.Tensor


def nearest(
    queries: torch.Tensor, gallery: torch.Tensor, parts: Parts, *, count: int, people: int = 2
) -> dict[str, Neighbours]:
    """Find the `count` images, and the `people` patients, whose features have the largest products
    with those of queries.

    `queries` are (Q, D), or (V, Q, D) of V ways of mirroring, the best of which counts; `gallery`
    is (N, D), of `parts`; float32.
    """
    ways = queries if queries.ndim == 3 else queries[None]
    room = gallery.new_empty(len(ways), min(QUERIES, ways.shape[1]) * GALLERY)
    blocks = [
        look_up(
            lambda images, few=few: _products(few, gallery[images], room),
            few.shape[1],
            parts,
            count=count,
            people=people,
            block=GALLERY,
        )
        for few in ways.split(QUERIES, 1)
    ]
    return {name: _join([block[name] for block in blocks]) for name in blocks[0]}


def _products(ways: torch.Tensor, images: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Return the largest products (Q, B) of any way, written to `room` (V, at least Q * B)."""
    shape = ways.shape[1], len(images)
    found = [row[: math.prod(shape)].view(shape) for row in room]
    for way, products in zip(ways, found, strict=True):
        torch.mm(way, images.T, out=products)
    for products in found[1:]:
        torch.maximum(found[0], products, out=found[0])
    return found[0]


def _join(blocks: list[Neighbours]) -> Neighbours:
    names = [field.name for field in fields(Neighbours)]
    return Neighbours(*(torch.cat([getattr(b, name) for b in blocks]) for name in names))


class Parts:
    """The patients (N,) of a gallery, and its parts {name: (N,) bool}, which may overlap.

    Each part is searched as if the rest were not there; it has at least one image. The gallery is
    taken apart into cells, images that are of the same parts, so that each is looked at once.
    """

    def __init__(self, patients: torch.Tensor, among: Mapping[str, torch.Tensor]):
        self.patients, self.among, self.names = patients, among, tuple(among)
        codes = sum(mask.long() << place for place, mask in enumerate(among.values()))
        self.kinds = [kind for kind in torch.unique(codes).tolist() if kind]
        self.cells = [(codes == kind).nonzero()[:, 0] for kind in self.kinds]

    def repeated(self, times: int) -> Parts:
        """Return the parts of a gallery that has so many rows of each image, in turn."""
        masks = {name: mask.repeat_interleave(times) for name, mask in self.among.items()}
        return Parts(self.patients.repeat_interleave(times), masks)

    def of(self, name: str) -> list[int]:
        """Return the numbers of the cells of a part."""
        place = self.names.index(name)
        return [number for number, kind in enumerate(self.kinds) if kind >> place & 1]


def look_up(
    likeness: Callable[[Images], torch.Tensor],
    queries: int,
    parts: Parts,
    *,
    count: int,
    people: int,
    block: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Neighbours]:
    """Find the nearest of some queries by any likeness (Q, B) to a block of images.

    No block is larger than `block`. `progress` is told the share of the gallery looked at.
    """
    found, seen, total = [], 0, sum(len(cell) for cell in parts.cells)
    for cell in parts.cells:
        leaders = _Leaders(queries, parts.patients, cell, count, people)
        for images in cell.split(block):
            leaders.add(likeness(_as_slice(images)), images)
            seen += len(images)
            progress(seen / total)
        found.append(leaders.settle() if leaders.waiting else leaders)
    return {name: _found([found[i] for i in parts.of(name)], count, people) for name in parts.names}


def _as_slice(images: torch.Tensor) -> Images:
    """Return images that lie side by side as a slice, which costs no copy."""
    first, last = int(images[0]), int(images[-1])
    return slice(first, last + 1) if last - first + 1 == len(images) else images


class _Leaders:
    """The leaders so far in one cell: keys (Q, count) of images, (Q, people) of patients' best.

    What reached the bar waits in `found` until as many images were looked at as ever before.
    """

    def __init__(
        self, queries: int, patients: torch.Tensor, cell: torch.Tensor, count: int, people: int
    ):
        self.patients, self.found, self.seen, self.waiting = patients, [], 0, 0
        count = max(count, 4 * people)  # images of that many patients, most times
        self.top = torch.full((queries, count), EMPTY, device=cell.device)
        self.lead = torch.full((queries, people), EMPTY, device=cell.device)
        self.bar = torch.full((queries,), -torch.inf, device=cell.device)
        self.count = min(count, len(cell))
        self.people = min(people, len(torch.unique(patients[cell])))

    def add(self, likeness: torch.Tensor, images: torch.Tensor) -> None:
        """Take the likeness (Q, B) to some images (B,) into account."""
        if not self.seen and likeness.shape[1] >= self.count:
            self.bar = likeness.topk(self.count).values[:, -1]
        rows, columns, values = _reaching(likeness, self.bar)
        self.found.append(_spread(rows, _encode(values, images[columns]), len(likeness)))
        self.waiting += len(images)
        if self.waiting > self.seen:
            self.settle(lambda few: _encode(likeness[few], images))

    def settle(self, every: Callable[[torch.Tensor], torch.Tensor] | None = None) -> _Leaders:
        """Let the best of what waits lead. `every` gives all keys of some queries while nothing
        was settled yet, since the first bar knows nothing of patients."""
        keys = torch.cat(self.found, 1)
        self.top = torch.cat([self.top, keys], 1).topk(self.top.shape[1]).values
        self.bar = _likeness(self.top[:, self.count - 1])
        if self.people:
            lead = best_of_each(self.top, self.patients, self.lead.shape[1])
            few = (lead[:, self.people - 1] == EMPTY).nonzero()[:, 0]
            more = keys[few] if self.seen else every(few)
            more = torch.cat([self.lead[few], more], 1)
            lead[few] = best_of_each(more, self.patients, self.lead.shape[1])
            self.bar[few] = torch.minimum(self.bar[few], _likeness(lead[few, self.people - 1]))
            self.lead = lead
        self.found, self.seen, self.waiting = [], self.seen + self.waiting, 0
        return self


def best_of_each(keys: torch.Tensor, patients: torch.Tensor, people: int) -> torch.Tensor:
    """Return the best key of each of the patients that have the best ones, (Q, people)."""
    who, best = patients[_image(keys).clamp_min(0)], [keys[:, :0]]
    for _ in range(people):
        value, at = keys.max(1, keepdim=True)
        best.append(value)
        keys = keys.masked_fill(who == who.gather(1, at), EMPTY)
    return torch.cat(best, 1)


def _found(cells: list[_Leaders], count: int, people: int) -> Neighbours:
    top = torch.cat([cell.top for cell in cells], 1).topk(count).values
    lead = torch.cat([cell.lead for cell in cells], 1)
    lead = best_of_each(lead, cells[0].patients, people)
    shown = [torch.where(keys == EMPTY, NEVER, _likeness(keys)) for keys in (top, lead)]
    return Neighbours(_image(top), shown[0], _image(lead), shown[1])


def _reaching(likeness: torch.Tensor, bar: torch.Tensor):
    """Return the rows, in order, the columns and the values of (Q, B) that reach a bar (Q,)."""
    if likeness.device.type == "cpu":  # numpy is several times faster at it
        flat = np.flatnonzero(likeness.numpy() >= bar.numpy()[:, None])
        hits = torch.from_numpy(flat)
    else:
        hits = (likeness >= bar[:, None]).flatten().nonzero()[:, 0]
    rows = hits // likeness.shape[1]
    return rows, hits - rows * likeness.shape[1], likeness.take(hits)


def _spread(rows: torch.Tensor, keys: torch.Tensor, queries: int) -> torch.Tensor:
    """Return the keys of each row, (queries, most of any row), EMPTY where a row has fewer."""
    counts = torch.bincount(rows, minlength=queries)
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    spread = torch.full((queries, int(counts.max())), EMPTY, device=keys.device)
    spread[rows, place] = keys
    return spread


# Keys -------------------------------------------------------------------------------------------
# One int64 that is larger where the likeness is, and at equal likeness where the image comes first.


def _encode(likeness: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    bits = (likeness + 0.0).view(torch.int32)  # -0.0 becomes 0.0
    return (_in_order(bits).long() << 32) | (LAST - images)


def _in_order(bits: torch.Tensor) -> torch.Tensor:
    """Turn the bits of floats into integers of the same order, and back."""
    return bits ^ ((bits >> 31) & LAST)


def _likeness(keys: torch.Tensor) -> torch.Tensor:
    likeness = _in_order((keys >> 32).int()).view(torch.float32)
    return likeness.masked_fill(keys == EMPTY, -torch.inf)


def _image(keys: torch.Tensor) -> torch.Tensor:
    return torch.where(keys == EMPTY, -1, LAST - (keys & 0xFFFFFFFF))
