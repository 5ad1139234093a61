"""Pictures for the private pages: rows of images with a heading over each column."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CELL_PX = 128
HEADING_PX = 16
GAP_PX = 2


def write_rows(path: Path, headings: Sequence[str], columns: Sequence[np.ndarray]) -> None:
    """Write a PNG with one column an array of images, (N, C, H, W) in [-1, 1], a row an image."""
    count = len(columns[0])
    width = len(columns) * (CELL_PX + GAP_PX) - GAP_PX
    page = Image.new("RGB", (width, HEADING_PX + count * (CELL_PX + GAP_PX)))
    pen = ImageDraw.Draw(page)
    for column, (heading, images) in enumerate(zip(headings, columns, strict=True)):
        left = column * (CELL_PX + GAP_PX)
        pen.text((left + 2, 2), heading, fill="white")
        for row, image in enumerate(images):
            page.paste(_cell(image), (left, HEADING_PX + row * (CELL_PX + GAP_PX)))
    page.save(path)


def _cell(image: np.ndarray) -> Image.Image:
    eight_bit = np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
    colour = np.broadcast_to(eight_bit, (*eight_bit.shape[:2], 3))
    way = Image.Resampling.NEAREST if len(image[0]) <= CELL_PX else Image.Resampling.BOX
    return Image.fromarray(np.ascontiguousarray(colour)).resize((CELL_PX, CELL_PX), way)
