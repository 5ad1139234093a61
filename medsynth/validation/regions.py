"""The region of an image that is most one real patient's and no other's.

A copied lesion, vessel tree or group of nuclei in an otherwise new image is missed by whoever
compares whole images. So all windows of an image are looked up among all windows of all real ones;
the few that point to one patient most clearly are laid over what they were found in, shift, turn
and scale refined, for the most alike patients each; and what is fine there is compared. The
score is the smallest ratio, over windows and sizes, between the distance to the nearest and to the
second nearest patient, as for whole images. That many windows are looked at costs power, not
trust, as long as innocent images go the same way. Fixed arithmetic and principal components of all
real images: nothing knows who was trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from ..domains import Domain, Symmetry
from . import patches
from .alignment import lattice, look_up, slopes, soften, straighten
from .nearest import NEVER
from .registration import symmetric
from .search import Images, in_batches

BASE_PX = 64
FINEST, COARSEST, EVEN = 0.5, 2.5, 5.0  # px: what is compared, and how far around strength counts
WINDOW_PX, REAL_STEP, STEP = 14, 2, 4  # of the windows; how dense they lie in either image
PROBES, KEPT = 3, 4  # lists that are looked into, and vectors kept of each
WINDOWS, PATIENTS = 20, 4  # that are laid over each other, of each image and each window
LAID_PX, SEEN_PX = 16, 22  # what is laid over the other, and what is compared
SIZES = (2.5, 3.5, 5.0)  # px: standard deviations of the Gaussian windows that are compared
FAINT = 0.3  # windows with less than this of the median's strength are not looked at
FLOOR = 0.02  # of variances and of distances
PAIRS, BATCH = 512, 16  # pairs and images at a time
SAMPLE = 256  # images from which components are learned


@dataclass(frozen=True)
class Regions:
    """For each of Q images its most suspicious region: `score` in [0, 1] as in `Nearest`, the
    nearest real `image` and `patient`, and their `similarity` there.

    `middles` (Q, 2) are where it lies, x and y in pixels from the middle of BASE_PX, and `maps`
    (Q, 2, 3) lead from such a place in the image to the one in the real image.
    """

    score: np.ndarray
    image: np.ndarray
    patient: np.ndarray
    similarity: np.ndarray
    middles: np.ndarray
    maps: np.ndarray


@dataclass(frozen=True)
class Ground:
    """Real images made ready to be searched: `layers` (N, 3, S, S), textures and their slopes,
    patients (N,) numbers, and the index of all their windows, `places` windows an image."""

    layers: torch.Tensor
    patients: torch.Tensor
    symmetry: Symmetry
    basis: torch.Tensor
    index: patches.Index
    places: int


def ways(domain: Domain) -> Symmetry:
    """Return the ways in which a region is looked for: mirrored where copies are; turned by
    quarters only where a turned image is still a plausible one, as a generator would draw it."""
    turned, mirrored = "rotations" in domain.augmentations, "flip" in domain.symmetries
    if turned:
        return "flips and rotations" if mirrored else "rotations"
    return "flip" if mirrored else "identity"


def texture(images: np.ndarray) -> np.ndarray:
    """Return (N, BASE_PX, BASE_PX) float32: what is fine in (N, C, H, W) images in [-1, 1], as
    strong everywhere, else an edge of the body, which everybody has, would outweigh the rest."""
    grey = torch.from_numpy(np.ascontiguousarray(images.mean(1, keepdims=True), np.float32))
    mode = {"mode": "bilinear", "antialias": True, "align_corners": False}
    small = F.interpolate(grey, size=(BASE_PX, BASE_PX), **mode)
    fine = soften(small, FINEST) - soften(small, COARSEST)
    strength = soften(fine**2, EVEN)
    floor = 0.1 * strength.mean((2, 3), keepdim=True) + 1e-9
    return (fine / (strength + floor).sqrt())[:, 0].numpy()


def textures(images: Images, device: str) -> torch.Tensor:
    """Return the textures (N, S, S) of images, (N, C, H, W) in [-1, 1] or a cohort."""
    return torch.from_numpy(in_batches(texture, images)).to(device)


def prepare(seen: torch.Tensor, patients: np.ndarray, symmetry: Symmetry, *, seed: int) -> Ground:
    """Prepare the textures of real images, in random order; `patients` are (N,) numbers."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    some = torch.randperm(len(seen), generator=generator)[:SAMPLE].to(seen.device)
    basis = patches.components(patches.windows(seen[some], WINDOW_PX, REAL_STEP).flatten(0, 1))
    vectors = torch.cat(
        [
            patches.describe(patches.windows(few, WINDOW_PX, REAL_STEP), basis).half()
            for few in seen.split(BATCH)
        ]
    )
    index = patches.build(vectors.flatten(0, 1), generator)
    numbers = torch.from_numpy(np.asarray(patients, np.int64)).to(seen.device)
    layers = torch.cat([seen[:, None], *slopes(seen[:, None])], 1)
    return Ground(layers, numbers, symmetry, basis, index, vectors.shape[1])


def find(
    seen: torch.Tensor,
    ground: Ground,
    *,
    own: np.ndarray | None = None,
    among: np.ndarray | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Regions:
    """Find the most suspicious region of each image, given their textures (Q, S, S).

    `own` are (Q,) patients whose images are left out for each query, `among` (N,) bool the real
    images that are looked at; None leaves out none.
    """
    own = np.full(len(seen), -1) if own is None else np.asarray(own, np.int64)
    among = np.ones(len(ground.layers), bool) if among is None else among
    left_out, inside = (torch.from_numpy(x).to(seen.device) for x in (own, among))
    rows = []
    for start in range(0, len(seen), BATCH):
        here = slice(start, start + BATCH)
        rows += _find(seen[here], ground, left_out[here], inside)
        progress(min(start + BATCH, len(seen)) / len(seen))
    score, image, similarity, middles, maps = (np.array(x) for x in zip(*rows, strict=True))
    patient = ground.patients.cpu().numpy()[image]
    return Regions(score, image, patient, similarity, middles, maps)


@dataclass(frozen=True)
class _Pairs:
    """B pairs of a window and a place in a real image: which query, `image` and `way`, and both
    middles (B, 2)."""

    query: torch.Tensor
    image: torch.Tensor
    way: torch.Tensor
    middle: torch.Tensor
    other: torch.Tensor


def _find(seen, ground: Ground, own, inside) -> list[tuple]:
    """Return (score, image, similarity, middle, map) of each of a few images."""
    pairs, there = _propose(seen, ground, own, inside)  # there (Q, WINDOWS, PATIENTS)
    likeness, maps = [], []
    for some in torch.arange(len(pairs.query), device=own.device).split(PAIRS):
        few = _Pairs(*(getattr(pairs, name)[some] for name in _Pairs.__dataclass_fields__))
        alike, laid = _lay(seen, few, ground)
        likeness.append(alike)
        maps.append(laid)
    alike = torch.cat(likeness).clamp(0, 1).view(*there.shape, len(SIZES))
    alike = alike.where(there[..., None], torch.zeros_like(alike))
    top = alike.topk(2, dim=2)
    score = (1 - top.values[:, :, 0] + FLOOR) / (1 - top.values[:, :, 1] + FLOOR)
    score = score.where(there[:, :, :1], torch.ones_like(score))
    best = score.flatten(1).argmin(1)  # of windows and sizes
    window, size = best // len(SIZES), best % len(SIZES)
    query = torch.arange(len(there), device=own.device)
    nearest = top.indices[query, window, 0, size]
    chosen = (query * there.shape[1] + window) * there.shape[2] + nearest
    found = (
        score.flatten(1)[query, best],
        pairs.image[chosen],
        top.values[query, window, 0, size],
        pairs.middle[chosen],
        torch.cat(maps)[chosen],
    )
    return list(zip(*(x.tolist() for x in found), strict=True))


def _propose(seen, ground: Ground, own, inside) -> tuple[_Pairs, torch.Tensor]:
    """Return the pairs to be compared closely, and which of them there really are: the windows
    that point to one patient most clearly, and of each its most similar patients."""
    flat = patches.windows(seen, WINDOW_PX, STEP)
    count, steps = flat.shape[:2]
    turned = symmetric(flat.view(count, steps, WINDOW_PX, WINDOW_PX), ground.symmetry)
    asked = patches.describe(turned.flatten(3), ground.basis).permute(1, 2, 0, 3)
    each = steps * len(turned)

    def refused(rows, numbers):
        images = numbers // ground.places
        same = ground.patients[images][None] == own[rows // each][:, None]
        return same | ~inside[images][None]

    free = bool(inside.all()) and bool((own < 0).all())
    likeness, numbers = patches.look_up(
        ground.index,
        asked.flatten(0, 2),
        probes=PROBES,
        kept=KEPT,
        refused=None if free else refused,
    )
    likeness, numbers = (x.view(count, steps, -1) for x in (likeness, numbers))
    alike, hits = _by_patient(likeness, ground.patients[numbers // ground.places])
    clear = (1 - alike[..., 0]) / (1 - alike[..., 1]).clamp_min(FLOOR)
    strength = flat.norm(dim=2)
    clear[strength < FAINT * strength.median(1, keepdim=True).values] = torch.inf
    way, numbers = hits // (likeness.shape[2] // len(turned)), numbers.gather(2, hits)
    windows = clear.topk(min(WINDOWS, steps), largest=False).indices  # (Q, W)
    way, numbers, there = (_take(x, windows) for x in (way, numbers, alike > NEVER))
    query = torch.arange(count, device=own.device)[:, None, None].expand_as(way)
    middle = _middles(windows, STEP)[:, :, None].expand(-1, -1, way.shape[2], -1)
    other = _middles(numbers % ground.places, REAL_STEP)
    flat = (x.flatten() for x in (query, numbers // ground.places, way))
    return _Pairs(*flat, *(x.flatten(0, 2) for x in (middle, other))), there


def _by_patient(likeness: torch.Tensor, patients: torch.Tensor):
    """Return the likeness (…, PATIENTS) of the most similar patients, and which hits they are."""
    values, hits = [], []
    for _ in range(PATIENTS):
        value, hit = likeness.max(-1, keepdim=True)
        values.append(value)
        hits.append(hit)
        likeness = likeness.masked_fill(patients == patients.gather(-1, hit), NEVER)
    return torch.cat(values, -1), torch.cat(hits, -1)


def _take(x: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Return (Q, W, K) of (Q, P, K): what belongs to some windows."""
    return x.gather(1, windows[..., None].expand(-1, -1, x.shape[2]))


def _middles(numbers: torch.Tensor, step: int) -> torch.Tensor:
    """Return (..., 2): x and y of the middles of windows from the middle of the image."""
    side = (BASE_PX - WINDOW_PX) // step + 1
    corners = torch.stack([numbers % side, numbers // side], -1) * step
    return corners.float() + (WINDOW_PX - BASE_PX) / 2


def _lay(seen, pairs: _Pairs, ground: Ground) -> tuple[torch.Tensor, torch.Tensor]:
    """Lay windows over their places in real images; -> likeness (B, sizes) and the maps (B, 2, 3)
    from places in the images to places in the real ones."""
    images, layers = seen[pairs.query][:, None], ground.layers[pairs.image]
    turns = _turns(ground.symmetry).to(images.device)[pairs.way]
    line = lattice(SEEN_PX, images)
    window, shown = look_up(images, line + pairs.middle[:, None, None])
    edge = (SEEN_PX - LAID_PX) // 2
    inner = window[..., edge:-edge, edge:-edge]
    start = torch.cat([turns, pairs.other[..., None]], 2)
    maps = straighten(inner, layers, start)
    places = line @ maps[:, None, :, :2].transpose(2, 3) + maps[:, None, None, :, 2]
    beside, there = look_up(layers[:, :1], places)
    likeness = _likeness(window, beside, shown * there, line)
    move = maps[:, :, 2:] - maps[:, :, :2] @ pairs.middle[..., None]
    return likeness, torch.cat([maps[:, :, :2], move], 2)


def _likeness(a, b, shown, line) -> torch.Tensor:
    """Return (B, sizes): correlations under Gaussian windows; 0 where less than half is shown."""
    found = []
    for size in SIZES:
        bell = torch.exp(-line.square().sum(-1) / (2 * size**2))
        weight = (bell / bell.sum() * shown).flatten(1)
        total = weight.sum(1, keepdim=True)
        x, y = (z.flatten(1) for z in (a, b))
        x, y = (z - (z * weight).sum(1, keepdim=True) / total.clamp_min(1e-6) for z in (x, y))
        xx, yy = ((z * z * weight).sum(1).clamp_min(FLOOR) for z in (x, y))
        alike = (x * y * weight).sum(1) / (xx * yy).sqrt()
        found.append(alike * (total[:, 0] > 0.5))
    return torch.stack(found, 1)


def _turns(symmetry: Symmetry) -> torch.Tensor:
    """Return (G, 2, 2): what each way of `registration.symmetric` makes of a direction, from an
    image to the one whose like it was turned to be."""
    line = torch.arange(3.0) - 1
    y, x = (symmetric(axis, symmetry) for axis in torch.meshgrid(line, line, indexing="ij"))
    return torch.stack([torch.stack([z[:, 1, 2], z[:, 2, 1]], 1) for z in (x, y)], 2)
