"""Pictures of many images side by side, as PNG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from .runtime import write_bytes


def grid_png(images: np.ndarray, *, columns: int, scale: int = 1, gap: int = 2) -> bytes:
    """Lay images (N, H, W, 1 or 3) uint8 out in rows of `columns`, enlarged `scale` times."""
    from PIL import Image

    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full(
        (rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8
    )
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        sheet[top : top + height, left : left + width] = image
    sheet = sheet.repeat(scale, 0).repeat(scale, 1)
    file = io.BytesIO()
    Image.fromarray(sheet[..., 0] if channels == 1 else sheet).save(file, "PNG")
    return file.getvalue()


def write_grid(path: Path, images: np.ndarray, *, columns: int, scale: int = 1) -> None:
    """Write images (N, C, H, W) float in [-1, 1] as a grid."""
    pixels = np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)
    write_bytes(path, grid_png(pixels.transpose(0, 2, 3, 1), columns=columns, scale=scale))
