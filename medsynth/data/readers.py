"""Files to arrays, told apart by their content and never by their name.

Whatever the format, an image comes out as (C, H, W) float32 in [0, 1], C = 1 or 3, rows down and
columns across, as a person sees it. What can't be had so is a BadImage with its reason. Pixels are
scaled by the range that the file declares, never by their own minimum and maximum, so that
exposure stays comparable from one image to the next.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .badimage import BLANK, BadImage, silence
from .dicom import begins_as_dicom, read_dicom
from .options import ReadOptions
from .stored import Stored, to_floats

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GZIP, ZIP, HDF5 = b"\x1f\x8b", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 352  # up to and with the magic word of a NIfTI header
OTHERS = {
    b"%PDF": "a PDF document",
    ZIP: "a zip archive or Office file",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    GZIP: "a gzip archive",
    b"<?xml": "XML",
    b"<html": "a web page",
    b"<!DO": "a web page",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer, the image itself was not fetched",
}
COLOURED_SHARE = 0.005
COLOUR_TOLERANCE = 6 / 255  # grey that went through a JPEG as RGB differs by this much at most


def read_image(path: Path, options: ReadOptions) -> np.ndarray:
    """Read an image file as (C, H, W) float32 in [0, 1], C = 1 (grey) or 3 (RGB).

    Raises BadImage, a DataError, with its reason.
    """
    return read_with_size(path, options)[0]


def read_with_size(path: Path, options: ReadOptions) -> tuple[np.ndarray, tuple[int, int]]:
    """Read an image as `read_image` does, and say the (height, width) that it has in its file.

    They differ where options.least_px lets it be reduced. Raises BadImage.
    """
    path = Path(path)
    decode = _decoder(_head(path), path)
    try:
        with silence():
            image = decode(path, options)
            if isinstance(image, np.ndarray):
                image = Stored(image, 1.0, *image.shape[1:])
            return _checked(to_floats(image, options)), (image.height, image.width)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("took too much memory") from None
    except Exception as error:  # a decoder meets a damaged file with any error at all
        raise BadImage(
            "truncated or damaged", f"it can't be unpacked ({type(error).__name__})"
        ) from None


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
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return begins_as_dicom(file.read(132))
    except OSError:
        return False


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise BadImage("missing file", type(error).__name__) from None
    if not head:
        raise BadImage("empty file")
    return head


def _decoder(head: bytes, path: Path) -> Callable[[Path, ReadOptions], Stored | np.ndarray]:
    """Choose by content. DICOM comes first, for its preamble may make a file a TIFF as well; what
    a format needs is imported where it is met."""
    if begins_as_dicom(head[:132]):
        return read_dicom
    if head.startswith((PNG, JPEG)):
        from .raster import read_jpeg, read_png

        return read_png if head.startswith(PNG) else read_jpeg
    if head.startswith(TIFF):
        from .tiff import read_tiff

        return read_tiff
    return _decoder_of_several(head, path) or _refuse(head)


def _decoder_of_several(head: bytes, path: Path) -> Callable[[Path, ReadOptions], Stored] | None:
    """Choose among the formats that hold many images, or slices of one."""
    from .arrays import is_npz, read_array
    from .nifti import is_nifti, read_nifti

    if head.startswith(HDF5) or (head.startswith(ZIP) and is_npz(path)):
        return read_array
    return read_nifti if is_nifti(head, path) else None


def _refuse(head: bytes) -> Callable:
    found = (what for magic, what in OTHERS.items() if head.startswith(magic))
    zeros = "nothing but zeros" if not head.strip(b"\0") else "unknown content"
    expected = "expected PNG, JPEG, TIFF, DICOM, NIfTI, .npz or .h5"
    raise BadImage("not an image", f"{next(found, zeros)}; {expected}")


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise BadImage("wrong channels", f"{image.shape[0]} channels, expected 1 or 3")
    low, high = image.min(), image.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise BadImage("NaN or infinite values")
    if high - low < BLANK:
        raise BadImage("blank image", "all pixels have the same value")
    return image
