"""PNG and JPEG, by Pillow's decoders.

Pillow's plugins are opened by hand: Image.open has a limit on pixels of its own, which is global
and only warns in part, and would take a file for any of fifty formats. Gamma and colour profiles
are not applied.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from .badimage import BadImage, check_size
from .options import ReadOptions
from .stored import Stored, central, reduction, stored

PNG_END, JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
ORIENTATION = 0x0112
GREY_16 = ("I;16", "I;16L", "I;16B")


def read_png(path: Path, options: ReadOptions) -> Stored:
    """Read a PNG of any depth, palette or interlace; see `readers.read_image`."""
    data = path.read_bytes()
    if PNG_END not in data[-4096:]:
        raise BadImage("truncated or damaged", "the PNG has no end")
    image = PngImageFile(io.BytesIO(data))
    check_size(image.height, image.width, options.max_pixels)
    if _rawmode(image).endswith(";16B") and image.mode not in GREY_16:
        return _deep_png(data)
    return from_pillow(image, options.least_px)


def read_jpeg(path: Path, options: ReadOptions) -> Stored:
    """Read a JPEG, already reduced by the decoder where options.least_px allows."""
    data = path.read_bytes()
    if JPEG_END not in data[-65536:]:  # some cameras write a few bytes after the end
        raise BadImage("truncated or damaged", "the JPEG has no end")
    image = _opened_jpeg(data)
    whole = (image.height, image.width)
    check_size(*whole, options.max_pixels)
    if options.least_px:  # the decoder halves, up to three times, at a fraction of the work
        image.draft(None, (options.least_px, options.least_px))
    return from_pillow(image, options.least_px, whole=whole)


def _opened_jpeg(data: bytes) -> JpegImageFile:
    try:
        return JpegImageFile(io.BytesIO(data))
    except SyntaxError as error:
        if "-bit layers" not in str(error):
            raise
        raise BadImage("codec missing", "JPEG of more than 8 bits: export it as PNG") from None


def from_pillow(
    image: Image.Image, least_px: int | None = None, *, whole: tuple[int, int] | None = None
) -> Stored:
    """Unpack an opened image; `whole` is its (height, width) in the file, where it differs.

    Raises BadImage where it is neither grey nor RGB, or has transparent parts.
    """
    image.load()
    height, width = whole or (image.height, image.width)
    turn = image.getexif().get(ORIENTATION, 1)  # a TIFF has been turned by now
    image = _plain(image)
    if image.mode not in ("L", "RGB", *GREY_16):
        raise BadImage("wrong channels", f"pixels of kind {image.mode}, expected grey or RGB")
    return stored(np.asarray(_smaller(image, least_px)), height, width).turned(turn)


def _smaller(image: Image.Image, least_px: int | None) -> Image.Image:
    """Average squares of pixels where Pillow can, in its own bytes and before they are copied."""
    factor = reduction(image.height, image.width, least_px)
    if factor == 1 or image.mode not in ("L", "RGB"):
        return image
    top, bottom = central(image.height, factor)
    left, right = central(image.width, factor)
    return image.reduce(factor, box=(left, top, right, bottom))


def _plain(image: Image.Image) -> Image.Image:
    """Turn palettes and single bits into colours, and drop an alpha channel that hides nothing."""
    if image.mode in GREY_16:
        _refuse_key(image, image)
        return image
    if image.mode in ("P", "PA", "RGBA", "LA") or "transparency" in image.info:
        return _without_alpha(image)
    return image.convert("L") if image.mode == "1" else image


def _without_alpha(image: Image.Image) -> Image.Image:
    """What lies under a hidden pixel is unknown, so one is too many."""
    grey = image.mode in ("1", "L", "LA")
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] < 255:
        raise BadImage("wrong channels", "parts of the image are transparent")
    return image.convert("L" if grey else "RGB")


# Sixteen bits a colour --------------------------------------------------------------------------
# Pillow keeps the high byte of each alone. Its unpacker can be told to keep the low one: unpacked
# twice, nothing is lost.


def both_bytes(high: Image.Image, low: Image.Image) -> np.ndarray:
    """Put two unpackings of one 16-bit image together, of its high and its low bytes."""
    return np.asarray(high).astype(np.uint16) << 8 | np.asarray(low)


def _deep_png(data: bytes) -> Stored:
    """Unpack a 16-bit PNG in RGB, RGBA or grey with alpha."""
    image = PngImageFile(io.BytesIO(data))
    kind = _rawmode(image)
    if kind.startswith("LA"):  # its four bytes a pixel are those of 8-bit RGBA
        quads = np.asarray(_unpacked_as("RGBA", data)).astype(np.uint16)
        pixels = quads[..., 0::2] << 8 | quads[..., 1::2]
    else:
        pixels = both_bytes(image, _unpacked_as(kind.replace(";16B", ";16L"), data))
    if kind.startswith("RGB;"):
        _refuse_key(image, pixels)
    elif pixels[..., -1].min() < 0xFFFF:
        raise BadImage("wrong channels", "parts of the image are transparent")
    colours = pixels[..., :1] if kind.startswith("LA") else pixels[..., :3]
    return stored(colours).turned(image.getexif().get(ORIENTATION, 1))


def _unpacked_as(kind: str, data: bytes) -> Image.Image:
    image = PngImageFile(io.BytesIO(data))
    image.tile = [image.tile[0]._replace(args=kind)]
    return image


def _rawmode(image: Image.Image) -> str:
    return image.tile[0].args if image.tile else ""


def _refuse_key(image: Image.Image, pixels: np.ndarray | Image.Image) -> None:
    """Refuse pixels of which some have the colour that means transparent."""
    key = image.info.get("transparency")
    if key is None:
        return
    same = np.asarray(pixels) == np.asarray(key)
    if (same.all(-1) if same.ndim == 3 else same).any():
        raise BadImage("wrong channels", "parts of the image are transparent")
