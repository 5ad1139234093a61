"""The real images most like an image, and how much nearer the nearest patient is than the next.

Two ways of likeness: registered structure (see `registration`), found by a coarse look at every
real image, a closer one at the best of them and a full one at the candidates; and the cosine
between features of the lens. Nothing here knows which real image was trained on: real images come
in random order, so that a tie falls on either side alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ..cohort import Cohort
from ..domains import Symmetry
from .registration import (
    COARSE,
    FINE,
    MIDDLE,
    Grid,
    match,
    reduce,
    structure,
    templates,
    window_norms,
)

Images = np.ndarray | Cohort
Lens = Callable[[np.ndarray], np.ndarray]
BATCH = 128
PATIENTS = 4  # at least so many patients among the candidates
WIDER = 6  # the coarse look keeps so many times the candidates
NEVER = -2.0  # under every correlation
TOLERANCE = 1e-3  # distances below this are equal for all purposes


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
    """Real images to be searched, in random order; `patients` are (N,) numbers."""

    look: Look
    patients: torch.Tensor
    levels: Mapping[Grid, tuple[torch.Tensor, torch.Tensor]]
    symmetry: Symmetry


@dataclass(frozen=True)
class Nearest:
    """For each of Q images: the most similar real image, its patient, likeness and score.

    score = distance to the nearest patient / distance to the second nearest, in [0, 1]:
    0 = a copy, 1 = no nearer to one person than to the next. Likeness alone would accuse every
    smooth or shrunken generator; the ratio does not (PRIVACY.md).
    """

    image: np.ndarray
    patient: np.ndarray
    similarity: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Found:
    """The nearest in each space, a way of measuring likeness: "registered" (structure, see
    `registration`) is always there and is what flags an image, "lens" goes by features."""

    spaces: Mapping[str, Nearest]

    @property
    def registered(self) -> Nearest:
        return self.spaces["registered"]

    @property
    def lens(self) -> Nearest:
        return self.spaces["lens"]


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
    levels = {}
    for grid in (COARSE, MIDDLE, FINE):
        reduced = reduce(seen.structures, grid.side_px)
        levels[grid] = (reduced, window_norms(reduced, grid.window_px))
    numbers = torch.from_numpy(np.asarray(patients, np.int64)).to(seen.structures.device)
    return Gallery(seen, numbers, levels, symmetry)


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
    rows: dict[str, list[dict[str, tuple]]] = {name: [] for name in parts}
    for start in range(0, len(queries), BATCH):
        chosen = slice(start, start + BATCH)
        cosines = torch.einsum(
            "vqd,nd->vqn", queries.features[:, chosen], gallery.look.features[0]
        ).amax(0)
        posed = {
            grid: templates(queries.structures[chosen], grid, gallery.symmetry)
            for grid in gallery.levels
        }
        for i, cosine in enumerate(cosines):
            own = {grid: every[i] for grid, every in posed.items()}
            found = _search_one(own, cosine, gallery, parts, candidates)
            for name, row in found.items():
                rows[name].append(row)
            progress((start + i + 1) / len(queries))
    return {name: _collect(found) for name, found in rows.items()}


def _search_one(posed, cosine, gallery, parts, candidates) -> dict[str, dict[str, tuple]]:
    """Coarse, middle, fine for one query; -> {part: {space: row}}."""
    everyone = torch.arange(len(cosine), device=cosine.device)
    coarse = _matches(posed, gallery, COARSE, everyone)
    wide = {
        name: _union(
            [
                best(coarse, gallery.patients, part, WIDER * candidates),
                best(cosine, gallery.patients, part, candidates),
            ]
        )
        for name, part in parts.items()
    }
    middle = _matches(posed, gallery, MIDDLE, _union(wide.values()))
    short = {
        name: best(middle, gallery.patients, _only(wide[name], part), candidates)
        for name, part in parts.items()
    }
    fine = _matches(posed, gallery, FINE, _union(short.values()))
    return {
        name: {
            "registered": judge(fine, gallery.patients, _only(short[name], part)),
            "lens": judge(cosine, gallery.patients, part),
        }
        for name, part in parts.items()
    }


def _matches(posed, gallery: Gallery, grid: Grid, chosen: torch.Tensor) -> torch.Tensor:
    """Return (N,) likeness, NEVER for images that were not chosen."""
    reduced, norms = gallery.levels[grid]
    likeness = torch.full((len(reduced),), NEVER, device=reduced.device)
    likeness[chosen] = match(posed[grid], reduced[chosen], norms[chosen])
    return likeness


def _union(lists: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.unique(torch.cat(list(lists)))


def _only(chosen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(like)
    mask[chosen] = True
    return mask


def best(
    likeness: torch.Tensor, patients: torch.Tensor, part: torch.Tensor, count: int
) -> torch.Tensor:
    """Return the indices of the `count` most similar images of a part, and of the best image of
    each of its PATIENTS most similar patients, so that there is always a second patient."""
    inside = torch.where(part, likeness, NEVER)
    chosen = [inside.topk(min(count, int(part.sum()))).indices]
    rest = inside.clone()
    for _ in range(PATIENTS):
        top = int(rest.argmax())
        if rest[top] == NEVER:
            break
        chosen.append(torch.tensor([top], device=rest.device))
        rest[patients == patients[top]] = NEVER
    return torch.unique(torch.cat(chosen))


def judge(
    likeness: torch.Tensor, patients: torch.Tensor, part: torch.Tensor
) -> tuple[int, int, float, float]:
    """Return (image, patient, similarity, score) of the nearest image of a part."""
    inside = torch.where(part, likeness, NEVER)
    top = int(inside.argmax())
    others = torch.where(patients == patients[top], NEVER, inside)
    nearest, second = float(inside[top]), float(others.max())
    score = (1 - nearest + TOLERANCE) / (1 - second + TOLERANCE)
    return top, int(patients[top]), nearest, score


def _collect(rows: list[dict[str, tuple]]) -> Found:
    return Found({space: _nearest([row[space] for row in rows]) for space in rows[0]})


def _nearest(rows: list[tuple]) -> Nearest:
    image, patient, similarity, score = zip(*rows, strict=True)
    return Nearest(
        np.array(image, np.int64),
        np.array(patient, np.int64),
        np.array(similarity),
        np.array(score),
    )
