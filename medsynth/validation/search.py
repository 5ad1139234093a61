"""The real images most like an image, and how much nearer the nearest patient is than the next.

Ways of likeness, each a space of its own: registered structure, found by a look at every place of
every real image, a closer one at the best of them, finer poses at the candidates, and at last the
few best laid over the image and bent; the cosine between whitened features of the lens, of whole
images; and the best such cosine of their windows. Real images are gone through a block at a time,
so that memory grows with their number only by what describes them. Nothing here knows which real
image was trained on: real images come in random order, so that a tie falls on either side alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..cohort import Cohort
from ..domains import Symmetry
from . import coarse, neighbours
from .alignment import align
from .nearest import PATIENTS, Found, Nearest, Row, best, collect, judge, judge_each, union
from .neighbours import Neighbours, Parts
from .registration import (
    FINE,
    ROUGH,
    locate,
    match,
    reduce,
    structure,
    symmetric,
    templates,
    to_norms,
    window_energy,
)
from .windows import MIDDLE, PARTS, WHOLE, Shown, seen_by, views

Images = np.ndarray | Cohort
Lens = Callable[[np.ndarray], np.ndarray]
BATCH = 128
BLOCK = 1024  # real images at a time
RADIUS = 10  # waves across a window that the first look sees
WIDER = 6  # the first look keeps so many times the candidates
ALIGNED = 8  # so many of the candidates are laid over the image and bent
PAIRS = 256  # at a time
CLOSER = 9000  # a query's closer looks take about as long as the first one at so many images
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Look:
    """Images as the search sees them: structures (N, 64, 64) float16, whose rounding is far below
    what tells images apart, and lens features of length 1, float32, of images shown in V ways
    (V, N, D) and of W windows of them (W, N, D).
    """

    structures: torch.Tensor
    features: torch.Tensor
    windows: torch.Tensor

    def __len__(self) -> int:
        return len(self.structures)

    def few(self, chosen: slice) -> Look:
        """Return some of the images."""
        return Look(self.structures[chosen], self.features[:, chosen], self.windows[:, chosen])


@dataclass(frozen=True)
class Gallery:
    """Real images to be searched, in random order; `patients` are (N,) numbers, `norms` and `floor`
    what their windows are measured by. `shown` is what the lens sees of them."""

    look: Look
    patients: torch.Tensor
    norms: torch.Tensor
    floor: float
    symmetry: Symmetry
    shown: Shown


def look(
    images: Images,
    lens: Lens,
    symmetry: Symmetry,
    *,
    device: str = "cpu",
    mirrored: bool = True,
    progress: Progress = lambda share: None,
) -> Look:
    """Look at images: (N, C, H, W) in [-1, 1], or a cohort, which is read a batch at a time.

    `mirrored` is for images to be looked up: the lens is shown them in every way of the symmetry,
    and the middle of each. Without, it is shown real images as they are, and PARTS of them.
    """
    ways = range(len(views(np.zeros((1, 1, 1, 1)), symmetry)) if mirrored else 1)
    poses = (MIDDLE,) if mirrored else PARTS
    passes = [structure]
    passes += [functools.partial(seen_by, lens, symmetry, way, WHOLE) for way in ways]
    passes += [functools.partial(seen_by, lens, symmetry, way, p) for way in ways for p in poses]
    found = []
    for number, function in enumerate(passes):
        dtype = np.float32 if number else np.float16

        def told(share: float, number: int = number) -> None:
            progress((number + share) / len(passes))

        found.append(in_batches(function, images, dtype=dtype, progress=told))
    features = torch.from_numpy(np.stack([unit(way) for way in found[1:]])).to(device)
    structures = torch.from_numpy(found[0]).to(device)
    return Look(structures, features[: len(ways)], features[len(ways) :])


def unit(features: np.ndarray) -> np.ndarray:
    """Return (N, D) features at length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def in_batches(
    function: Callable[[np.ndarray], np.ndarray],
    images: Images,
    *,
    dtype: type = np.float32,
    progress: Progress = lambda share: None,
) -> np.ndarray:
    """Return a function of many images, (N, ...) of a dtype, computed a batch at a time."""
    read = images.floats if isinstance(images, Cohort) else images.__getitem__
    found = None
    for start in range(0, len(images), BATCH):
        batch = slice(start, start + BATCH)
        few = np.asarray(function(read(batch)))
        if found is None:
            found = np.empty((len(images), *few.shape[1:]), dtype)
        found[batch] = few
        progress(min(1.0, (start + BATCH) / len(images)))
    return found


def join(first: Look, second: Look, order: np.ndarray) -> Look:
    """Put two sets of images together, in a new order."""
    chosen = torch.from_numpy(order).to(first.structures.device)
    features, windows = (
        torch.stack([_mixed(*ways, chosen) for ways in zip(a, b, strict=True)])
        for a, b in ((first.features, second.features), (first.windows, second.windows))
    )
    return Look(_mixed(first.structures, second.structures, chosen), features, windows)


def _mixed(first: torch.Tensor, second: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Return rows of two tensors in a new order, without a copy of both in the old one."""
    mixed = first.new_empty(len(order), *first.shape[1:])
    for side, before in ((first, 0), (second, len(first))):
        own = (order >= before) & (order < before + len(side))
        for places in own.nonzero()[:, 0].split(BLOCK):
            mixed[places] = side[order[places] - before]
    return mixed


def build(seen: Look, patients: np.ndarray, symmetry: Symmetry) -> Gallery:
    """Prepare real images for the search; they should come in random order."""
    energies, heard = [], 0.0
    for few in seen.structures.split(BLOCK):
        small = reduce(few.float(), ROUGH.side_px)
        energies.append(window_energy(small, ROUGH.window_px))
        heard += coarse.energy(small, ROUGH.window_px, RADIUS) * len(few) / len(seen)
    floor = 0.05 * heard + 1e-6
    numbers = torch.from_numpy(np.asarray(patients, np.int64)).to(seen.structures.device)
    shown = Shown.of(seen.features[0], seen.windows)
    seen = replace(seen, windows=seen.windows[:0])  # what is whitened is enough
    return Gallery(seen, numbers, to_norms(torch.cat(energies)), floor, symmetry, shown)


def search(
    queries: Look,
    gallery: Gallery,
    among: Mapping[str, np.ndarray],
    *,
    candidates: int,
    progress: Progress = lambda share: None,
) -> dict[str, Found]:
    """Find for each query the nearest among parts of the gallery, {name: (N,) bool}.

    Each part is searched as if the rest were not there; only the arithmetic is shared.
    """
    device = gallery.patients.device
    masks = {name: torch.from_numpy(mask).to(device) for name, mask in among.items()}
    parts = Parts(gallery.patients, masks)
    rows: dict[str, list[dict[str, Row]]] = {name: [] for name in masks}
    for start in range(0, len(queries), BATCH):
        chosen = slice(start, start + BATCH)
        few = queries.few(chosen)

        def told(share: float, start: int = start, count: int = len(few)) -> None:
            progress((start + share * count) / len(queries))

        for row in _search_batch(few, gallery, parts, candidates, told):
            for name in rows:
                rows[name].append(row[name])
    return {name: collect(found) for name, found in rows.items()}


def finder(
    images: Images,
    patients: np.ndarray,
    lens: Lens,
    symmetry: Symmetry,
    *,
    candidates: int,
    device: str = "cpu",
) -> Callable[[Images], Nearest]:
    """Return what finds the nearest, registered, of images to each of others; they should come in
    random order, and `patients` (N,) are their numbers."""
    gallery = build(look(images, lens, symmetry, device=device, mirrored=False), patients, symmetry)
    everyone = {"all": np.ones(len(images), bool)}

    def nearest(others: Images) -> Nearest:
        seen = look(others, lens, symmetry, device=device)
        return search(seen, gallery, everyone, candidates=candidates)["all"].registered

    return nearest


@dataclass
class _Candidates:
    """What is left of one query's search: images chosen for each part, and how they lie."""

    parts: dict[str, torch.Tensor]
    images: torch.Tensor
    rigid: torch.Tensor
    ways: torch.Tensor
    poses: torch.Tensor


def _search_batch(few: Look, gallery: Gallery, parts: Parts, candidates: int, progress):
    """Yield {part: {space: row}} of each query."""
    structures, symmetry = few.structures.float(), gallery.symmetry
    first = len(parts.patients) / (len(parts.patients) + CLOSER)  # of all the work
    wide = first_look(
        structures, gallery, parts, WIDER * candidates, lambda share: progress(first * share)
    )
    by_lens = gallery.shown.nearest(few.features, few.windows, parts, count=candidates)
    rows = {
        space: {name: judge_each(found, gallery.patients) for name, found in near.items()}
        for space, near in by_lens.items()
    }
    posed = zip(*(templates(structures, grid, symmetry) for grid in (ROUGH, FINE)), strict=True)
    chosen = []
    for i, each in enumerate(posed):
        both = {name: _both(wide[name], by_lens["local"][name], i) for name in wide}
        chosen.append(_choose(each, both, gallery, candidates))
        progress(first + (1 - first) * (i + 1) / len(few) / 2)
    bent = _align(structures, chosen, gallery)
    progress(1.0)
    for i, (each, likeness) in enumerate(zip(chosen, bent, strict=True)):
        yield {
            name: {
                "registered": _judge(each, own, likeness, gallery),
                **{space: found[name][i] for space, found in rows.items()},
            }
            for name, own in each.parts.items()
        }


def first_look(
    structures: torch.Tensor,
    gallery: Gallery,
    parts: Parts,
    count: int,
    progress: Progress = lambda share: None,
) -> dict[str, Neighbours]:
    """Return the real images whose coarser structure is most like that of images (Q, 64, 64)."""
    windows = templates(structures, ROUGH, "identity")

    def likeness(images: neighbours.Images) -> torch.Tensor:
        small = reduce(gallery.look.structures[images].float(), ROUGH.side_px)
        found = coarse.look(windows, small, gallery.symmetry, radius=RADIUS, floor=gallery.floor)
        return found.amax(1)

    return neighbours.look_up(
        likeness,
        len(structures),
        parts,
        count=count,
        people=PATIENTS,
        block=BLOCK,
        progress=progress,
    )


def _both(wide: Neighbours, alike: Neighbours, query: int) -> torch.Tensor:
    """Return the images that either look chose for a query."""
    images = union(x[query] for each in (wide, alike) for x in (each.images, each.leaders))
    return images[images >= 0]


def _choose(posed, wide: Mapping[str, torch.Tensor], gallery: Gallery, candidates: int):
    """Choose the images that one query is compared with closely, for each part by itself."""
    rough, fine = posed
    images = union(wide.values())
    short = _narrow(match(rough, *_small(images, gallery)), images, wide, gallery, candidates)
    images = union(short.values())
    likeness, ways, poses = locate(fine, *_small(images, gallery), FINE)
    last = _narrow(likeness, images, short, gallery, ALIGNED)
    kept = torch.isin(images, union(last.values()))
    return _Candidates(last, images[kept], likeness[kept], ways[kept], poses[kept])


def _small(images: torch.Tensor, gallery: Gallery) -> tuple[torch.Tensor, torch.Tensor]:
    """Return some real images at the size of the first looks, and their windows' norms."""
    small = reduce(gallery.look.structures[images].float(), ROUGH.side_px)
    return small, gallery.norms[images]


def _narrow(likeness, images, chosen: Mapping[str, torch.Tensor], gallery: Gallery, count: int):
    """Return the best of the images that were chosen for each part; likeness (M,) of images (M,)"""
    patients = gallery.patients[images]
    return {
        name: images[best(likeness, patients, torch.isin(images, own), count)]
        for name, own in chosen.items()
    }


def _judge(each: _Candidates, own: torch.Tensor, likeness: torch.Tensor, gallery: Gallery) -> Row:
    """Return the nearest of the images of a part, by likeness once they are bent."""
    part = torch.isin(each.images, own)
    top, *rest = judge(likeness, gallery.patients[each.images], part, similarity=each.rigid)
    return int(each.images[top]), *rest


def _align(structures: torch.Tensor, chosen: list[_Candidates], gallery: Gallery):
    """Return each query's likeness to its chosen images once they are laid over it."""
    turned = symmetric(structures, gallery.symmetry)
    pairs = [(i, j) for i, each in enumerate(chosen) for j in range(len(each.images))]
    likeness = []
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        images = torch.stack([turned[chosen[i].ways[j], i] for i, j in some])
        others = torch.stack([chosen[i].images[j] for i, j in some])
        others = gallery.look.structures[others].float()
        poses = torch.stack([chosen[i].poses[j] for i, j in some])
        likeness.append(align(images, others, poses).likeness)
    return torch.cat(likeness).split([len(each.images) for each in chosen])
