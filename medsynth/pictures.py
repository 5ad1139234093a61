"""Pictures of many images side by side, as PNG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .runtime import write_bytes

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

GAP_PX = 4


def grid_png(
    pixels: np.ndarray, *, columns: int, scale: int = 1, marks: PngInfo | None = None
) -> bytes:
    """Lay (N, H, W, 1 or 3) uint8 or uint16 images out in rows of `columns`, as one PNG.

    `scale` enlarges each pixel to a square of that side; the gaps are see-through, so that the
    page's own colour shows. `marks` are text chunks for the file.
    """
    from PIL import Image

    images = np.stack([_eight_bit_rgba(image) for image in pixels])
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + GAP_PX), columns * (width + GAP_PX), 4), np.uint8)
    for i, image in enumerate(images):
        y, x = (i // columns) * (height + GAP_PX), (i % columns) * (width + GAP_PX)
        sheet[y : y + height, x : x + width] = image
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet[:-GAP_PX, :-GAP_PX])).save(
        data, "PNG", pnginfo=marks
    )
    return data.getvalue()


def write_grid(path: Path, images: np.ndarray, *, columns: int, scale: int = 1) -> None:
    """Write images (N, C, H, W) float in [-1, 1] as a grid."""
    pixels = np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)
    write_bytes(path, grid_png(pixels.transpose(0, 2, 3, 1), columns=columns, scale=scale))


def _eight_bit_rgba(image: np.ndarray) -> np.ndarray:
    eight = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    colour = np.broadcast_to(eight, (*eight.shape[:2], 3))
    return np.dstack([colour, np.full(eight.shape[:2], 255, np.uint8)])
