"""Images that show the same picture: exact copies, and copies that were saved or exposed anew.

Two copies on both sides of a split would make the held-out patient look trained on, so linked
images are kept together. Exact copies are found by hash under the eight symmetries of the square,
near ones by the correlation of what is left of a small grey image when two things are taken away
that the images of different people share: the blur, and what is mirror-symmetric (the ring around
a retina alone made any two of them correlate at 0.98; without it, at 0.77 at most).

At 64 px, chest radiographs and retinas of different people stayed below 0.87, different images of
one person below 0.92; saved as JPEG, exposed anew or with a little noise, chests and tissue stay
above 0.95.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

SIDE = 32  # images are compared at this size
BLUR = 2.0  # standard deviation in those pixels of what is taken away
BLOCK = 2048


def link_duplicates(pixels: np.ndarray, *, correlation: float) -> np.ndarray:
    """Return (N,) int64: the number of each image's group of duplicates, -1 where it has none.

    `pixels` are (N, H, W, C) integers, squares. Two images are linked where one is the other under
    a symmetry of the square, or where their high-pass correlation under one is `correlation` or
    more; links are transitive. Groups are numbered from 0 in order of their first image.
    """
    pairs = [*_exact_pairs(pixels), *_near_pairs(describe(pixels), correlation)]
    return _number(_union(len(pixels), pairs))


def describe(pixels: np.ndarray) -> np.ndarray:
    """Return (N, SIDE * SIDE) float32 rows of unit length and mean 0: the detail of each image.

    Their products are correlations. A row is all zeros where an image has no detail at all.
    """
    rows = [_detail(pixels[i : i + BLOCK]) for i in range(0, len(pixels), BLOCK)]
    return np.concatenate(rows) if rows else np.zeros((0, SIDE * SIDE), np.float32)


def _detail(pixels: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    grey = np.asarray(pixels, np.float32).mean(axis=-1) / np.iinfo(pixels.dtype).max
    reduce = _area_weights(grey.shape[1])
    small = reduce @ grey @ reduce.T
    high = small - gaussian_filter(small, (0, BLUR, BLUR), mode="reflect")
    mirrored = high + high[:, ::-1] + high[:, :, ::-1] + high[:, ::-1, ::-1]
    rows = (high - mirrored / 4).reshape(len(high), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(norm > 1e-3, rows / np.maximum(norm, 1e-3), 0).astype(np.float32)


def _area_weights(side: int) -> np.ndarray:
    """Return (SIDE, side) weights that average areas: row by row."""
    edges = np.linspace(0, side, SIDE + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)[None]
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def symmetries(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (N, S, S, ...) images under the eight symmetries of the square, as they are first."""
    for turned in (images, images.swapaxes(1, 2)):
        for flipped in (turned, turned[:, ::-1]):
            yield flipped
            yield flipped[:, :, ::-1]


def _exact_pairs(pixels: np.ndarray) -> Iterator[tuple[int, int]]:
    first: dict[bytes, int] = {}
    for i, image in enumerate(pixels):
        views = symmetries(np.asarray(image)[None])
        key = min(hashlib.sha256(np.ascontiguousarray(view)).digest() for view in views)
        if first.setdefault(key, i) != i:
            yield first[key], i


def _near_pairs(rows: np.ndarray, correlation: float) -> Iterator[tuple[int, int]]:
    images = rows.reshape(-1, SIDE, SIDE)
    for start in range(0, len(rows), BLOCK):
        block = images[start : start + BLOCK]
        # b against a turned is a against b turned back, so only later images are looked at
        for view in symmetries(block):
            likeness = np.ascontiguousarray(view).reshape(len(block), -1) @ rows[start:].T
            a, b = np.nonzero(likeness >= correlation)
            later = a < b
            yield from zip((a[later] + start).tolist(), (b[later] + start).tolist(), strict=True)


def _union(count: int, pairs: list[tuple[int, int]]) -> list[int]:
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(i) for i in range(count)]


def _number(roots: list[int]) -> np.ndarray:
    sizes = np.bincount(roots, minlength=len(roots)) if roots else np.zeros(0, int)
    groups = [root for root in dict.fromkeys(roots) if sizes[root] > 1]
    numbers = {root: number for number, root in enumerate(groups)}
    return np.array([numbers.get(root, -1) for root in roots], np.int64)
