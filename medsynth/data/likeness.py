"""How alike two images are: a small description of each, whose products are correlations.

What is left of a small grey image when the blur is taken away, and what is mirror-symmetric: both
are shared by images of different people (the ring around a retina alone made any two of them
correlate at 0.98). What stands out (a marker, the edge of a collimator) is held down to a few
times the usual detail, so that two images are not alike for a frame that all of them have.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SIDE = 32  # images are compared at this size
BLUR = 2.0  # standard deviation in those pixels of what is taken away
STANDS_OUT = 5.0  # detail beyond so many times the median one is held down
FINE = 0.7  # standard deviation of the blur beyond which detail is called fine
TEXTURE = 0.4 / 255  # half of a picture's small pixels have at least this much fine detail
BLOCK_BYTES = 2**26


def describe(pixels: np.ndarray) -> np.ndarray:
    """Return (N, SIDE * SIDE) float16 rows of unit length and mean 0: the detail of each image.

    `pixels` are (N, H, W, C) integers, squares. The product of two rows is their correlation, -1
    for an image and its negative. A row is all zeros where the image is featureless: where half of
    it has less fine detail than 0.4 of a grey level of 255. Glass and blank exposures have up to
    0.3, real chests, retinas and tissue 0.56 or more.
    """
    size = max(1, BLOCK_BYTES // max(1, 4 * pixels[:1].size))
    rows = [_detail(_small(pixels[i : i + size])) for i in range(0, len(pixels), size)]
    return np.concatenate(rows) if rows else np.zeros((0, SIDE * SIDE), np.float16)


def symmetries(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (N, S, S, ...) images under the eight symmetries of the square, as they are first."""
    for turned in (images, images.swapaxes(1, 2)):
        for flipped in (turned, turned[:, ::-1]):
            yield flipped
            yield flipped[:, :, ::-1]


def _small(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.mean(axis=-1, dtype=np.float32) / np.iinfo(pixels.dtype).max
    reduce = _area_weights(grey.shape[1])
    return reduce @ grey @ reduce.T


def _area_weights(side: int) -> np.ndarray:
    """Return (SIDE, side) weights that average areas: row by row."""
    edges = np.linspace(0, side, SIDE + 1)
    left, right = edges[:-1, None], edges[1:, None]
    pixel = np.arange(side)[None]
    overlap = np.clip(np.minimum(right, pixel + 1) - np.maximum(left, pixel), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _detail(small: np.ndarray) -> np.ndarray:
    high = small - _blurred(small, BLUR)
    usual = np.median(np.abs(high), axis=(1, 2), keepdims=True)
    high = np.tanh(high / (STANDS_OUT * usual + 1e-9))
    mirrored = high + high[:, ::-1] + high[:, :, ::-1] + high[:, ::-1, ::-1]
    rows = (high - mirrored / 4).reshape(len(high), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    kept = _has_texture(small)[:, None] & (norm > 1e-3)
    return np.where(kept, rows / np.maximum(norm, 1e-3), 0).astype(np.float16)


def _has_texture(small: np.ndarray) -> np.ndarray:
    fine = np.abs(small - _blurred(small, FINE))
    return np.median(fine, axis=(1, 2)) >= TEXTURE


def _blurred(small: np.ndarray, deviation: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(small, (0, deviation, deviation), mode="reflect")
