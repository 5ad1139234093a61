"""Control maps of images: what a ControlNet is told, and what is looked for in what it draws.

Every kind turns one image into one map (H, W) float32 in [0, 1]; several kinds are stacked as
channels. Maps from files (`mask`) have one channel a class. Filters are scikit-image's; edges,
lines and corners have thresholds that do not depend on the image, so that one without edges has
an empty map, and vessels are as large a share of every field of view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import ndimage

BLACK = 0.08  # of white: what surrounds a field of view
VESSELS = 0.12  # share of the field of view that counts as vessels
KEYPOINTS = 16  # an image, at most
GREEN = 1
MASK = "mask"
EDGES_SPREAD = 0.1  # gradient (of white, a pixel) at which a soft edge is three quarters white

Image = np.ndarray
"""(C, H, W) float32 in [-1, 1]."""


def extract(images: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
    """Return the maps (N, K, H, W) float32 in [0, 1] of images (N, C, H, W) in [-1, 1].

    Raises KeyError on `mask`, which no filter finds.
    """
    found = [[EXTRACTORS[kind](image) for kind in kinds] for image in images]
    size = images.shape[-1]
    return np.asarray(found, np.float32).reshape(len(images), len(kinds), size, size)


def grey(image: Image) -> np.ndarray:
    """Return (H, W) in [0, 1]: the mean of the channels."""
    return (image.mean(0) + 1) / 2


def scale_of(image: Image) -> float:
    """Return how large a filter is, in pixels: 1 up to 128 px, then growing with the side."""
    return max(1.0, image.shape[-1] / 128)


def field_of_view(image: Image) -> np.ndarray:
    """Return (H, W) bool: not the black surround nor within a twentieth of a side of it."""
    reach = max(1, image.shape[-1] // 20)
    lit = ndimage.binary_fill_holes((image.max(0) + 1) / 2 > BLACK)
    return ndimage.binary_erosion(lit, iterations=reach, border_value=1)


def canny(image: Image) -> np.ndarray:
    """Return Canny's edges, one pixel wide. Source: Canny, IEEE PAMI 8 (1986)."""
    from skimage.feature import canny as find

    edges = find(grey(image), sigma=scale_of(image), low_threshold=0.1, high_threshold=0.2)
    return edges.astype(np.float32)


def hough(image: Image) -> np.ndarray:
    """Return the straight lines in Canny's edges, drawn one pixel wide (progressive Hough)."""
    from skimage.draw import line
    from skimage.transform import probabilistic_hough_line

    size = image.shape[-1]
    lines = probabilistic_hough_line(
        canny(image), threshold=size // 8, line_length=size // 8, line_gap=size // 32, rng=0
    )
    drawn = np.zeros((size, size), np.float32)
    for (x0, y0), (x1, y1) in lines:
        drawn[line(y0, x0, y1, x1)] = 1.0
    return drawn


def soft_edges(image: Image) -> np.ndarray:
    """Return the gradient's strength, from 0 to 1 where it is steep."""
    slope = ndimage.gaussian_gradient_magnitude(grey(image), scale_of(image))
    return np.tanh(slope / EDGES_SPREAD).astype(np.float32)


def vessels(image: Image) -> np.ndarray:
    """Return the strongest dark ridges of the green channel, 1 or 0, in the field of view.

    Source of the filter: Sato et al., Med. Image Anal. 2 (1998).
    """
    from skimage.filters import sato

    channel = image[min(GREEN, len(image) - 1)]
    widths = np.geomspace(1.0, max(2.0, image.shape[-1] / 100), 3)
    answer = sato(channel, sigmas=widths, black_ridges=True, mode="reflect")
    inside = field_of_view(image)
    if not inside.any():
        return np.zeros_like(channel)
    strong = inside & (answer > 0) & (answer >= np.quantile(answer[inside], 1 - VESSELS))
    return strong.astype(np.float32)


def keypoints(image: Image) -> np.ndarray:
    """Return a heat map of the strongest corners (Shi and Tomasi), each a Gaussian of height 1."""
    from skimage.feature import corner_peaks, corner_shi_tomasi

    answer = corner_shi_tomasi(grey(image), sigma=2 * scale_of(image))
    apart = max(2, image.shape[-1] // 16)
    at = corner_peaks(
        answer, min_distance=apart, threshold_abs=1e-4, threshold_rel=0.02, num_peaks=KEYPOINTS
    )
    return heat_map(at, image.shape[-1])


def heat_map(points: np.ndarray, size_px: int) -> np.ndarray:
    """Draw points (P, 2), row and column in pixels, as Gaussians of height 1: (H, W)."""
    rows = np.arange(size_px, dtype=np.float32)
    spread = max(1.0, size_px / 48)
    drawn = np.zeros((size_px, size_px), np.float32)
    for y, x in np.asarray(points, np.float32).reshape(-1, 2):
        near = (rows[:, None] - y) ** 2 + (rows[None] - x) ** 2
        drawn = np.maximum(drawn, np.exp(-near / (2 * spread**2)))
    return drawn


def points_of(heat: np.ndarray) -> np.ndarray:
    """Return the points (P, 2) of a heat map: its peaks of at least half its scale."""
    peak = (ndimage.maximum_filter(heat, size=3) == heat) & (heat >= 0.5)
    labels, count = ndimage.label(peak)
    return np.array(ndimage.center_of_mass(peak, labels, range(1, count + 1))).reshape(-1, 2)


EXTRACTORS: Mapping[str, Callable[[Image], np.ndarray]] = {
    "canny": canny,
    "hough": hough,
    "soft_edges": soft_edges,
    "vessels": vessels,
    "keypoints": keypoints,
}
"""Kinds of maps that a filter finds in an image; `mask` is read from files."""


# Masks with classes -------------------------------------------------------------------------------


def one_hot(classes: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return (N, K, H, W) float32, a channel for each of `values`, of masks (N, H, W)."""
    return np.stack([classes == value for value in values], 1).astype(np.float32)


def harden(shares: np.ndarray, values: Sequence[int], covers: float) -> np.ndarray:
    """Return masks (N, H, W) uint8 of the shares of pixels (N, K, H, W) that classes cover: the
    largest where all together cover at least `covers` of the pixel, 0 elsewhere."""
    strongest = np.array(values, np.uint8)[shares.argmax(1)]
    return np.where(shares.sum(1) >= covers, strongest, 0).astype(np.uint8)


def as_pictures(masks: np.ndarray, values: Sequence[int], channels: int) -> np.ndarray:
    """Return masks (N, H, W) as pictures (N, H, W, channels) uint8: black is background, the last
    class white, the others grey between."""
    levels = np.zeros(256, np.uint8)
    levels[list(values)] = np.rint(255 * (np.arange(len(values)) + 1) / len(values))
    return np.repeat(levels[masks][..., None], channels, axis=3)


def to_classes(maps: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Return masks (N, H, W) uint8 of maps (N, K, H, W): the strongest class, 0 for background.

    Background is what the classes leave over of 1; of equals the first wins, background last.
    """
    rest = 1 - maps.sum(1, keepdims=True)
    strongest = np.concatenate([maps, rest], 1).argmax(1)
    return np.array([*values, 0], np.uint8)[strongest]
