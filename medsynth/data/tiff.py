"""TIFF and BigTIFF: one picture, with or without its smaller copies.

tifffile reads the structure and what is stored plainly or deflated, libtiff (through Pillow) the
other compressions. Of the tags only those that say what pixels are get looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .badimage import BadImage, check_size
from .options import ReadOptions
from .stored import Stored, stored

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile
    from tifffile import TiffPage

PLAIN = (1, 8, 32946)  # uncompressed and two numbers for deflate
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
ORIENTATION, CODEC_MISSING = 274, "imagecodecs"
MASK = 4  # in NewSubfileType
SAME_SHAPE = 0.02  # a smaller page whose sides' ratio differs less is a copy of the largest


def read_tiff(path: Path, options: ReadOptions) -> Stored:
    """Read a TIFF's picture; see `readers.read_image`.

    Pages that are marked as reduced, or are smaller and of the same shape, are no frames.
    """
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = _choose(_frames(list(tiff.pages)), options.frame)
        check_size(page.imagelength, page.imagewidth, options.max_pixels)
        if page.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR):
            raise BadImage("wrong channels", "neither grey, nor RGB, YCbCr or a palette")
        if page.compression in PLAIN and page.photometric != YCBCR:
            return _plain(page)
    return _by_pillow(page, path)


def _frames(pages: Sequence[TiffPage]) -> list[TiffPage]:
    full = [page for page in pages if not (page.is_reduced or page.subfiletype & MASK)]
    full = full or list(pages[:1])
    largest = max(full, key=_area)
    return [page for page in full if _area(page) == _area(largest) or not _alike(page, largest)]


def _area(page: TiffPage) -> int:
    return page.imagelength * page.imagewidth


def _alike(page: TiffPage, largest: TiffPage) -> bool:
    ratio = page.imagewidth * largest.imagelength / (largest.imagewidth * page.imagelength)
    return abs(ratio - 1) < SAME_SHAPE


def _choose(frames: list[TiffPage], frame: int | None) -> TiffPage:
    if frame is None and len(frames) > 1:
        raise BadImage("multi-frame", f"{len(frames)} pages: choose one by data.frame")
    if (frame or 0) >= len(frames):
        raise BadImage("multi-frame", f"frame {frame} of {len(frames)} was asked for")
    return frames[frame or 0]


# Plain pages ------------------------------------------------------------------------------------


def _plain(page: TiffPage) -> Stored:
    pixels = _unpacked(page)
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    white = 2.0**page.bitspersample - 1 if pixels.dtype.kind in "bu" else 0
    if page.photometric == PALETTE:  # of 16-bit colours, (3, entries)
        pixels, white = np.moveaxis(page.colormap, 0, -1)[pixels], 0
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4) and set(page.extrasamples) & {1, 2}:
        pixels = _without_alpha(pixels)
    if page.photometric == WHITE_IS_ZERO:
        pixels = _turned_over(pixels, white)
    tag = page.tags.get(ORIENTATION)
    return stored(pixels, white=white).turned(int(tag.value) if tag else 1)


def _unpacked(page: TiffPage) -> np.ndarray:
    try:
        return page.asarray()
    except (ValueError, ImportError) as error:
        if CODEC_MISSING not in str(error):
            raise
        raise BadImage("codec missing", f"TIFF of {page.bitspersample} bits, packed") from None


def _turned_over(pixels: np.ndarray, white: float) -> np.ndarray:
    if not white:
        raise BadImage("undeclared range", f"{pixels.dtype} values where white is zero")
    return ~pixels if pixels.dtype == bool else pixels.dtype.type(white) - pixels


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    if (pixels[..., -1] != opaque).any():
        raise BadImage("wrong channels", "parts of the image are transparent")
    return pixels[..., :-1] if pixels.shape[-1] == 4 else pixels[..., 0]


# Compressed pages -------------------------------------------------------------------------------


def _by_pillow(page: TiffPage, path: Path) -> Stored:
    from .raster import both_bytes, from_pillow

    with path.open("rb") as file, _no_other_limit():
        image = _opened(file, page.index)
        if not image.tile[0].args[0].startswith(("RGB;16", "I;12")):
            return from_pillow(image)
        if image.mode != "RGB":
            raise BadImage("codec missing", "TIFF of 12 bits, packed")
        low = _opened(file, page.index)
        return stored(both_bytes(image, _low_bytes(low)))


def _opened(file, index: int) -> TiffImageFile:
    from PIL.TiffImagePlugin import TiffImageFile

    file.seek(0)
    image = TiffImageFile(file)
    image.seek(index)
    return image


def _low_bytes(image: TiffImageFile) -> TiffImageFile:
    """Have libtiff's 16-bit colours, which come in the machine's byte order, cut the other way."""
    tile = image.tile[0]
    kind = "RGB;16B" if sys.byteorder == "little" else "RGB;16L"
    image.tile = [tile._replace(args=(kind, *tile.args[1:]))]
    return image


@contextmanager
def _no_other_limit() -> Iterator[None]:
    """Lift Pillow's own limit on pixels, which is global: ours has been checked."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
