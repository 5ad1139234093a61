"""An image as its file stores it, and its way to floats: one pass from integers to what is used.

A photograph of 2,000 px is 12 MB of bytes and 48 MB of floats, of which a cohort keeps 200 KB. So
decoders hand over their own integers, and what is larger than needed is reduced while it becomes
floats.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .badimage import BadImage
from .options import ReadOptions

LYING = (5, 6, 7, 8)  # orientations in which rows are columns


@dataclass(frozen=True)
class Stored:
    """Pixels (C, H, W) of any type, 0 is black and `white` is white.

    `white` None means that the file declares no range. `height` and `width` are the whole
    image's: the pixels may have been reduced while they were unpacked.
    """

    pixels: np.ndarray
    white: float | None
    height: int
    width: int

    def turned(self, orientation: int) -> Stored:
        """Turn it as the orientation tag of EXIF and TIFF says, 1 to 8; others mean nothing."""
        pixels = oriented(self.pixels, orientation)
        if orientation in LYING:
            return replace(self, pixels=pixels, height=self.width, width=self.height)
        return replace(self, pixels=pixels)


def stored(pixels: np.ndarray, height: int = 0, width: int = 0, *, white: float = 0) -> Stored:
    """Take (H, W) or (H, W, C) pixels as they are.

    `height` and `width` are the whole image's where that was larger. `white` is for what does not
    fill its type; by default unsigned integers declare their own range, and others none.
    """
    pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if not white and pixels.dtype.kind in "bu":
        white = 1 if pixels.dtype == bool else np.iinfo(pixels.dtype).max
    return Stored(pixels, white or None, height or pixels.shape[1], width or pixels.shape[2])


def to_floats(image: Stored, options: ReadOptions) -> np.ndarray:
    """Return (C, H, W) float32 in [0, 1], reduced by whole squares as far as options.least_px asks.

    Raises BadImage where it holds no numbers, or no range is declared and none is given.
    """
    pixels, white = image.pixels, image.white
    if white is None:
        pixels, white = seen_through(pixels, options.window), 1
    factor = reduction(*pixels.shape[1:], options.least_px)
    if factor > 1:
        pixels = _averaged(pixels, factor)
    return np.divide(pixels, np.float32(white), dtype=np.float32, order="C")


def seen_through(values: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Bring values to [0, 1] by a window (black, white).

    Without one they must be there already. Raises BadImage where they aren't, or aren't finite.
    """
    if not np.isfinite(values).all():
        raise BadImage("NaN or infinite values")
    if window:
        black, white = window
        return np.clip((values.astype(np.float64) - black) / (white - black), 0, 1)
    if values.size and (values.min() < 0 or values.max() > 1):
        raise BadImage(
            "undeclared range",
            f"{values.dtype} values beyond 0 to 1: say what is black and white in data.window",
        )
    return values


def reduction(height: int, width: int, least_px: int | None) -> int:
    """Return by which whole number squares of pixels may be averaged, 1 for not at all.

    Twice `least_px` stay: means of squares keep less of an image than a JPEG decoder's halving.
    """
    return max(1, min(height, width) // (2 * least_px)) if least_px else 1


def central(size: int, factor: int) -> tuple[int, int]:
    """Return where the largest multiple of `factor` begins and ends in the middle of `size`."""
    start = size % factor // 2
    return start, start + size // factor * factor


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (..., H, W) pixels by an orientation tag; a view."""
    if orientation in LYING:
        pixels = pixels.swapaxes(-1, -2)
    up_down, left_right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return pixels[..., :: -1 if up_down else 1, :: -1 if left_right else 1]


def _averaged(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Average squares of `factor` pixels, plane by plane, as float32."""
    top, bottom = central(pixels.shape[1], factor)
    left, right = central(pixels.shape[2], factor)
    planes = [_sums(plane[top:bottom, left:right], factor) for plane in pixels]
    return np.stack(planes) * np.float32(1 / factor**2)


def _sums(plane: np.ndarray, factor: int) -> np.ndarray:
    rows = plane[0::factor].astype(np.float32)
    for i in range(1, factor):
        rows += plane[i::factor]
    sums = rows[:, 0::factor].copy()
    for i in range(1, factor):
        sums += rows[:, i::factor]
    return sums
