"""Small images whose every row, column and channel differs, and how the tests read them back."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth.data.badimage import REASONS, BadImage
from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image

LIMIT = 10_000_000
H, W = 40, 60  # unequal, so that a transposed image is seen


def ramp(dtype=np.uint8, channels=None):
    """An image whose every row, column and channel differs."""
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    y, x = np.mgrid[:H, :W]
    grey = (y / (H - 1) * 0.7 + x / (W - 1) * 0.3) * top
    if channels:
        grey = np.stack([grey * (1 - 0.3 * c) for c in range(channels)], axis=-1)
    return grey.astype(dtype)


def noise(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def save(folder, image, name="image.png", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(folder / name, **options)
    return folder / name


def read(path, **options):
    return read_image(path, ReadOptions(**{"max_pixels": LIMIT, **options}))


def reason(path, **options):
    """Why a file is refused; the reason is of the closed list and does not name the file."""
    with pytest.raises(BadImage) as caught:
        read(path, **options)
    assert caught.value.reason in REASONS
    assert path.name not in str(caught.value)
    return str(caught.value)


def means(image, factor):
    """The middle of a (C, H, W) image in means of squares, by hand."""
    height, width = (n // factor * factor for n in image.shape[1:])
    top, left = (n % factor // 2 for n in image.shape[1:])
    cut = image[:, top : top + height, left : left + width].astype(np.float64)
    return cut.reshape(len(cut), height // factor, factor, width // factor, factor).mean((2, 4))


# PNG by hand, from its standard -----------------------------------------------------------------

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
         (1, 0, 2, 1))  # fmt: skip


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path: Path, pixels: np.ndarray, interlaced=False, extra=b"") -> Path:
    """Write (H, W, C) uint16 as a 16-bit colour PNG, which Pillow can't."""
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [pixels]
    data = b"".join(_filtered(part, number) for number, part in enumerate(passes) if part.size)
    kind = {2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    size = pixels.shape[1], pixels.shape[0]
    header = struct.pack(">IIBBBBB", *size, 16, kind, 0, 0, int(interlaced))
    parts = (("IHDR", header), ("IDAT", zlib.compress(data)), ("IEND", b""))
    first, middle, last = (chunk(name.encode(), body) for name, body in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + first + extra + middle + last)
    return path


def _filtered(pixels, start):
    """Rows as PNG wants them, with the five filters of its standard in turn."""
    rows = pixels.astype(">u2").reshape(len(pixels), -1).view(np.uint8).astype(int)
    step, out = 2 * pixels.shape[2], b""
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), r[:-step]]) for r in (row, up))
        near = np.abs(np.stack([up - corner, left - corner, left + up - 2 * corner]))
        paeth = np.choose(near.argmin(0), [left, up, corner])
        kind = (y + start) % 5
        guess = (0 * row, left, up, (left + up) // 2, paeth)[kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return out
