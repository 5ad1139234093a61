"""The real images most like an image, and how much nearer the nearest patient is than the next.

Ways of likeness, each a space of its own: registered structure, found by a look at every place of
every real image, a closer one at the best of them, finer poses at the candidates, and at last the
few best laid over the image and bent; and the cosine between features of the lens. Nothing here
knows which real image was trained on: real images come in random order, so that a tie falls on
either side alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..cohort import Cohort
from ..domains import Symmetry
from . import coarse
from .alignment import align
from .nearest import NEVER, Found, Row, best, collect, judge, only, union
from .registration import (
    FINE,
    ROUGH,
    locate,
    match,
    reduce,
    structure,
    symmetric,
    templates,
    window_norms,
)

Images = np.ndarray | Cohort
Lens = Callable[[np.ndarray], np.ndarray]
BATCH = 128
RADIUS = 10  # waves across a window that the first look sees
WIDER = 6  # the first look keeps so many times the candidates
ALIGNED = 8  # so many of the candidates are laid over the image and bent
PAIRS = 256  # at a time


@dataclass(frozen=True)
class Look:
    """Images as the search sees them: structures (N, 64, 64), lens features (V, N, D) of length 1,
    V ways of mirroring."""

    structures: torch.Tensor
    features: torch.Tensor

    def __len__(self) -> int:
        return len(self.structures)


@dataclass(frozen=True)
class Gallery:
    """Real images to be searched, in random order; `patients` are (N,) numbers, `reduced` the
    structures (N, 1, S, S) at the size of the first looks, `norms` and `floor` what their windows
    are measured by."""

    look: Look
    patients: torch.Tensor
    reduced: torch.Tensor
    norms: torch.Tensor
    floor: float
    symmetry: Symmetry


def look(
    images: Images, lens: Lens, symmetry: Symmetry, *, device: str = "cpu", mirrored: bool = True
) -> Look:
    """Look at images: (N, C, H, W) in [-1, 1], or a cohort, which is read a batch at a time.

    `mirrored` adds the mirror images for the lens, where the domain has mirrored copies.
    """
    structures = in_batches(structure, images)
    ways = [in_batches(lens, images)]
    if mirrored and "flip" in symmetry:
        ways.append(in_batches(lambda batch: lens(mirror(batch)), images))
    features = np.stack([unit(way) for way in ways])
    return Look(torch.from_numpy(structures).to(device), torch.from_numpy(features).to(device))


def mirror(images: np.ndarray) -> np.ndarray:
    """Mirror (N, C, H, W) images left and right."""
    return np.ascontiguousarray(images[..., ::-1])


def unit(features: np.ndarray) -> np.ndarray:
    """Return (N, D) features at length 1."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def in_batches(function: Callable[[np.ndarray], np.ndarray], images: Images) -> np.ndarray:
    """Return a function of many images, (N, ...) float32, computed a batch at a time."""
    batches = [slice(start, start + BATCH) for start in range(0, len(images), BATCH)]
    read = images.floats if isinstance(images, Cohort) else images.__getitem__
    return np.concatenate([np.asarray(function(read(batch)), np.float32) for batch in batches])


def join(first: Look, second: Look, order: np.ndarray) -> Look:
    """Put two sets of images together, in a new order."""
    chosen = torch.from_numpy(order).to(first.structures.device)
    return Look(
        torch.cat([first.structures, second.structures])[chosen],
        torch.cat([first.features, second.features], 1)[:, chosen],
    )


def build(seen: Look, patients: np.ndarray, symmetry: Symmetry) -> Gallery:
    """Prepare real images for the search; they should come in random order."""
    reduced = reduce(seen.structures, ROUGH.side_px)
    norms = window_norms(reduced, ROUGH.window_px)
    floor = 0.05 * coarse.energy(reduced, ROUGH.window_px, RADIUS) + 1e-6
    numbers = torch.from_numpy(np.asarray(patients, np.int64)).to(seen.structures.device)
    return Gallery(seen, numbers, reduced, norms, floor, symmetry)


def search(
    queries: Look,
    gallery: Gallery,
    among: Mapping[str, np.ndarray],
    *,
    candidates: int,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Found]:
    """Find for each query the nearest among parts of the gallery, {name: (N,) bool}.

    Each part is searched as if the rest were not there; only the arithmetic is shared.
    """
    device = gallery.patients.device
    parts = {name: torch.from_numpy(mask).to(device) for name, mask in among.items()}
    rows: dict[str, list[dict[str, Row]]] = {name: [] for name in parts}
    for start in range(0, len(queries), BATCH):
        chosen = slice(start, start + BATCH)
        few = Look(queries.structures[chosen], queries.features[:, chosen])
        for row in _search_batch(few, gallery, parts, candidates):
            for name in parts:
                rows[name].append(row[name])
        progress(min(start + BATCH, len(queries)) / len(queries))
    return {name: collect(found) for name, found in rows.items()}


@dataclass
class _Candidates:
    """What is left of one query's search: images chosen for each part, and how they lie."""

    parts: dict[str, torch.Tensor]
    images: torch.Tensor
    rigid: torch.Tensor
    ways: torch.Tensor
    poses: torch.Tensor


def _search_batch(few: Look, gallery: Gallery, parts, candidates: int):
    """Yield {part: {space: row}} of each query."""
    cosines = torch.einsum("vqd,nd->vqn", few.features, gallery.look.features[0]).amax(0)
    first = first_look(few.structures, gallery)
    rough = templates(few.structures, ROUGH, gallery.symmetry)
    fine = templates(few.structures, FINE, gallery.symmetry)
    chosen = [
        _choose(seen, cosine, (coarser, finer), gallery, parts, candidates)
        for seen, cosine, coarser, finer in zip(first, cosines, rough, fine, strict=True)
    ]
    bent = _align(few.structures, chosen, gallery)
    for cosine, each, likeness in zip(cosines, chosen, bent, strict=True):
        laid, rigid = (_spread(x, each.images, gallery) for x in (likeness, each.rigid))
        yield {
            name: {
                "registered": judge(
                    laid, gallery.patients, only(each.parts[name], part), similarity=rigid
                ),
                "lens": judge(cosine, gallery.patients, part),
            }
            for name, part in parts.items()
        }


def first_look(structures: torch.Tensor, gallery: Gallery) -> torch.Tensor:
    """Return (Q, N) likeness of the coarser structure of images to every real one."""
    windows = templates(structures, ROUGH, "identity")
    found = coarse.look(
        windows, gallery.reduced, gallery.symmetry, radius=RADIUS, floor=gallery.floor
    )
    return found.amax(1)


def _choose(seen, cosine, posed, gallery: Gallery, parts, candidates: int) -> _Candidates:
    """Choose the images that one query is compared with closely, for each part by itself."""
    patients = gallery.patients
    rough, fine = posed

    def narrow(likeness, chosen, count):
        return {
            name: best(likeness, patients, only(chosen[name], part) & part, count)
            for name, part in parts.items()
        }

    everyone = {name: torch.arange(len(cosine), device=cosine.device) for name in parts}
    wide, alike = narrow(seen, everyone, WIDER * candidates), narrow(cosine, everyone, candidates)
    wide = {name: union([wide[name], alike[name]]) for name in parts}
    images = union(wide.values())
    likeness = match(rough, gallery.reduced[images], gallery.norms[images])
    short = narrow(_spread(likeness, images, gallery), wide, candidates)
    images = union(short.values())
    likeness, ways, poses = locate(fine, gallery.reduced[images], gallery.norms[images], FINE)
    last = narrow(_spread(likeness, images, gallery), short, ALIGNED)
    kept = torch.isin(images, union(last.values()))
    return _Candidates(last, images[kept], likeness[kept], ways[kept], poses[kept])


def _align(structures: torch.Tensor, chosen: list[_Candidates], gallery: Gallery):
    """Return each query's likeness to its chosen images once they are laid over it."""
    turned = symmetric(structures, gallery.symmetry)
    pairs = [(i, j) for i, each in enumerate(chosen) for j in range(len(each.images))]
    likeness = []
    for start in range(0, len(pairs), PAIRS):
        some = pairs[start : start + PAIRS]
        images = torch.stack([turned[chosen[i].ways[j], i] for i, j in some])
        others = gallery.look.structures[torch.stack([chosen[i].images[j] for i, j in some])]
        poses = torch.stack([chosen[i].poses[j] for i, j in some])
        likeness.append(align(images, others, poses).likeness)
    return torch.cat(likeness).split([len(each.images) for each in chosen])


def _spread(likeness: torch.Tensor, images: torch.Tensor, gallery: Gallery) -> torch.Tensor:
    """Return (N,) likeness, NEVER for images that were not looked at."""
    spread = torch.full((len(gallery.patients),), NEVER, device=likeness.device)
    spread[images] = likeness
    return spread
