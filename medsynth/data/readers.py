"""Files to arrays: PNG, JPEG, TIFF and DICOM, told apart by their content and never by their name.

Whatever the format, an image comes out as (C, H, W) float32 in [0, 1], C = 1 or 3, rows down and
columns across, as a person sees it. What can't be had so is a BadImage with its reason. Pixels are
scaled by the range that the file declares, never by their own minimum and maximum, so that
exposure stays comparable from one image to the next.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .badimage import BLANK, BadImage, check_size, silence
from .dicom import begins_as_dicom, read_dicom
from .options import ReadOptions

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
PNG_END = b"IEND\xaeB`\x82"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHERS = {
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or Office file",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"\x1f\x8b": "a gzip archive",
    b"<?xml": "XML",
    b"<html": "a web page",
    b"<!DO": "a web page",
    b"\x93NUMPY": "a NumPy array",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer, the image itself was not fetched",
}
COLOURED_SHARE = 0.005
COLOUR_TOLERANCE = 6 / 255  # grey that went through a JPEG as RGB differs by this much at most


def read_image(path: Path, options: ReadOptions) -> np.ndarray:
    """Read an image file as (C, H, W) float32 in [0, 1], C = 1 (grey) or 3 (RGB).

    Raises BadImage, a DataError, with its reason.
    """
    path = Path(path)
    decode = _decoder(_head(path))
    with silence():
        image = decode(path, options)
    return _checked(image)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return a (C, H, W) image with `channels` 1 or 3.

    RGB becomes grey only where its channels agree, which is how grey is often stored; grey never
    becomes RGB. Raises BadImage where the image is of the other kind.
    """
    if len(image) == channels:
        return image
    if channels == 3:
        raise BadImage("wrong channels", "grey image where colour is expected")
    # A share, so that a few stray pixels (a coloured marker of a pixel or two) don't decide.
    if np.mean(np.ptp(image, axis=0) > COLOUR_TOLERANCE) > COLOURED_SHARE:
        raise BadImage("wrong channels", "colour image where grey is expected")
    return image.mean(axis=0, keepdims=True, dtype=np.float32)


def is_dicom(path: Path) -> bool:
    """Return True if a file begins as DICOM files do, with or without their preamble."""
    with path.open("rb") as file:
        return begins_as_dicom(file.read(132))


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise BadImage("missing file", type(error).__name__) from None
    if not head:
        raise BadImage("empty file")
    return head


def _decoder(head: bytes) -> Callable[[Path, ReadOptions], np.ndarray]:
    if begins_as_dicom(head):  # first, for DICOM's preamble may make the file a TIFF as well
        return read_dicom
    if head.startswith((PNG, JPEG)):
        return _read_png if head.startswith(PNG) else _read_jpeg
    if head.startswith(TIFF):
        return _read_tiff
    found = (what for magic, what in OTHERS.items() if head.startswith(magic))
    zeros = "nothing but zeros" if not head.strip(b"\0") else "unknown content"
    raise BadImage("not an image", next(found, zeros) + "; expected PNG, JPEG, TIFF or DICOM")


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise BadImage("wrong channels", f"{image.shape[0]} channels, expected 1 or 3")
    if not np.isfinite(image).all():
        raise BadImage("NaN or infinite values")
    if np.ptp(image) < BLANK:
        raise BadImage("blank image", "all pixels have the same value")
    return np.ascontiguousarray(image, dtype=np.float32)


# PNG and JPEG -----------------------------------------------------------------------------------
# Pillow's plugins are opened by hand: Image.open has a limit on pixels of its own, which is global
# and only warns in part, and would take a file for any of fifty formats.


def _read_png(path: Path, options: ReadOptions) -> np.ndarray:
    from PIL.PngImagePlugin import PngImageFile

    data = path.read_bytes()
    if PNG_END not in data[-4096:]:
        raise BadImage("truncated or damaged", "the PNG has no end")
    return _decode_raster(PngImageFile, data, options.max_pixels)


def _read_jpeg(path: Path, options: ReadOptions) -> np.ndarray:
    from PIL.JpegImagePlugin import JpegImageFile

    data = path.read_bytes()
    if b"\xff\xd9" not in data[-65536:]:  # some cameras write a few bytes after the end
        raise BadImage("truncated or damaged", "the JPEG has no end")
    return _decode_raster(JpegImageFile, data, options.max_pixels)


def _decode_raster(plugin: Callable, data: bytes, max_pixels: int) -> np.ndarray:
    from PIL import ImageOps

    try:
        image = plugin(io.BytesIO(data))
        check_size(image.height, image.width, max_pixels)
        image.load()
        return _from_pillow(ImageOps.exif_transpose(image))
    except BadImage:
        raise
    except Exception as error:  # a decoder meets a damaged file with any error at all
        raise BadImage(
            "truncated or damaged", f"it can't be unpacked ({type(error).__name__})"
        ) from None


def _damaged(error: Exception) -> BadImage:
    return BadImage("truncated or damaged", f"it can't be unpacked ({type(error).__name__})")


def _from_pillow(image) -> np.ndarray:
    if image.mode in ("P", "PA", "RGBA", "LA") or "transparency" in image.info:
        image = _without_alpha(image)
    if image.mode == "1":
        image = image.convert("L")
    if image.mode not in ("L", "RGB", "I;16", "I;16L", "I;16B"):
        raise BadImage("wrong channels", f"pixels of kind {image.mode}, expected grey or RGB")
    return _scale(np.asarray(image))


def _without_alpha(image):
    """Drop an alpha channel that hides nothing; what lies under a hidden pixel is unknown."""
    grey = image.mode == "LA"
    image = image.convert("RGBA")
    if image.getchannel("A").getextrema()[0] < 255:
        raise BadImage("wrong channels", "parts of the image are transparent")
    return image.convert("L" if grey else "RGB")


def _scale(pixels: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, C) of any type, in its declared range -> (C, H, W) float32 in [0, 1]."""
    pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    if pixels.dtype == bool or pixels.dtype.kind == "u":
        white = 1 if pixels.dtype == bool else np.iinfo(pixels.dtype).max
        return (pixels / np.float32(white)).astype(np.float32)
    finite = pixels[np.isfinite(pixels)] if pixels.dtype.kind == "f" else pixels
    if finite.size and (finite.min() < 0 or finite.max() > 1):
        raise BadImage("undeclared range", f"{pixels.dtype} values beyond 0 to 1: where is white?")
    return pixels.astype(np.float32)


# TIFF -------------------------------------------------------------------------------------------


def _read_tiff(path: Path, options: ReadOptions) -> np.ndarray:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = _choose_page(tiff.pages, options.frame)
            return _tiff_page(page, path, options.max_pixels)
    except BadImage:
        raise
    except Exception as error:  # as above: a damaged file may raise anything
        raise BadImage(
            "truncated or damaged", f"it can't be unpacked ({type(error).__name__})"
        ) from None


def _choose_page(pages, frame: int | None):
    """Take the only page that is no thumbnail or reduced copy, or the one that was asked for."""
    full = [page for page in pages if not page.is_reduced]
    if frame is None and len(full) > 1:
        raise BadImage("multi-frame", f"{len(full)} pages: choose one by data.frame")
    if (frame or 0) >= len(full):
        raise BadImage("multi-frame", f"frame {frame} of {len(full)} was asked for")
    return full[frame or 0]


def _tiff_page(page, path: Path, max_pixels: int) -> np.ndarray:
    check_size(page.imagelength, page.imagewidth, max_pixels)
    if page.compression not in (1, 8, 32946):  # tifffile unpacks none and deflate by itself
        return _tiff_by_pillow(page.index, path)
    pixels = page.asarray()
    if page.planarconfig == 2 and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if page.photometric == 3:  # a palette of 16-bit colours, (3, entries)
        pixels = np.moveaxis(page.colormap, 0, -1)[pixels]
    if pixels.ndim == 3 and pixels.shape[-1] in (2, 4) and set(page.extrasamples) & {1, 2}:
        pixels = _without_tiff_alpha(pixels)
    image = _scale(pixels)
    return 1 - image if page.photometric == 0 else image  # 0: white is zero


def _without_tiff_alpha(pixels: np.ndarray) -> np.ndarray:
    opaque = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    if (pixels[..., -1] != opaque).any():
        raise BadImage("wrong channels", "parts of the image are transparent")
    return pixels[..., :-1] if pixels.shape[-1] == 4 else pixels[..., 0]


def _tiff_by_pillow(index: int, path: Path) -> np.ndarray:
    from PIL.TiffImagePlugin import TiffImageFile

    with path.open("rb") as file:
        image = TiffImageFile(file)
        image.seek(index)
        image.load()
        return _from_pillow(image)
