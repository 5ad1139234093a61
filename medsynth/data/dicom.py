"""DICOM files to what a radiologist sees: (C, H, W) in [0, 1].

In this order: unpack -> padding -> modality LUT -> VOI LUT or window -> Presentation LUT, or turned
over once where MONOCHROME1 or INVERSE says so; palettes and YBR become RGB once, ICC profiles are
applied. Overlays are neither read nor burned in.

FOR PROCESSING images are raw detector data. Where the protocol takes them, they get data.window, or
their whole declared range, and their declared polarity. The logarithm and the enhancement that a
manufacturer puts between them and a radiologist are not imitated: they look flat, and must not be
mixed with FOR PRESENTATION images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .badimage import BadImage, check_size
from .options import ReadOptions

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
IS_WHOLE_SLIDE = [  # the storage class as it is written: tag, type or none, length and value
    tag + length + WHOLE_SLIDE.encode()
    for tag in (b"\2\0\2\0", b"\x08\0\x16\0")
    for length in (b"UI\x1e\0", b"\x1e\0\0\0")
]
HEAD_BYTES = 4096  # it stands among the first elements
NO_PICTURES = {  # storage classes whose pixels are no picture
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiation dose",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
}
VALUE_REPRESENTATIONS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OW PN SH SL SQ SS ST TM UI UL UN US UT".split()
)
LONGEST_FIRST = 1024  # bytes: what stands first in a file is a length, a character set, a class


def read_dicom(path: Path, options: ReadOptions) -> np.ndarray:
    """Read a DICOM image as (C, H, W) float32 in [0, 1]; see `readers.read_image`."""
    try:
        dataset = open_dicom(path)
        _check_kind(dataset)
        _check_permission(dataset, options)
        return display(dataset, _choose_frame(dataset, options.frame), options)
    except BadImage:
        raise
    except MemoryError:
        raise BadImage("took too much memory", "DICOM") from None
    except Exception as error:  # a damaged file may raise anything, and quote what it holds
        raise BadImage("truncated or damaged", f"DICOM ({type(error).__name__})") from None


def begins_as_dicom(head: bytes) -> bool:
    """Return True for the first 132 bytes of a DICOM file, also of one without its preamble."""
    return head[128:132] == b"DICM" or _begins_with_element(head)


def open_dicom(path: Path, *, pixels: bool = True) -> Any:
    """Parse a file that begins as DICOM, with or without preamble, into a pydicom dataset.

    A file that does not name its transfer syntax gets the uncompressed one that it is written in;
    BadImage where its pixels are compressed. Whatever pydicom raises on damaged files goes on.
    """
    import pydicom

    dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels)
    if dataset.file_meta.get("TransferSyntaxUID"):
        return dataset
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise BadImage("codec missing", "compressed pixels, and no transfer syntax says how")
    dataset.file_meta.TransferSyntaxUID = {
        (True, True): pydicom.uid.ImplicitVRLittleEndian,
        (False, True): pydicom.uid.ExplicitVRLittleEndian,
        (False, False): pydicom.uid.ExplicitVRBigEndian,
    }[dataset.original_encoding]
    return dataset


def is_whole_slide(path: Path) -> bool:
    """Return True for a DICOM file of a slide scanner: tiles of one picture, not frames.

    Its label and its overview are of the same storage class and count as such, too. Nothing is
    parsed, for every file of a folder is asked, and a damaged one may take for ever.
    """
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return begins_as_dicom(head[:132]) and any(kind in head for kind in IS_WHOLE_SLIDE)


def _begins_with_element(head: bytes) -> bool:
    """True where the first bytes are one of the first elements that a data set may have."""
    group, number, kind = head[:2], head[2:4], head[4:6]
    big = group in (b"\0\x02", b"\0\x08")
    if not big and group not in (b"\x02\0", b"\x08\0"):
        return False
    if int.from_bytes(number, "big" if big else "little") > 0x0018:
        return False
    if kind in VALUE_REPRESENTATIONS:
        return True
    length = int.from_bytes(head[4:8], "little")  # without kinds, the low byte is always first
    return not big and length <= LONGEST_FIRST and length % 2 == 0 and len(head) > 8


# What is refused --------------------------------------------------------------------------------


def _check_kind(dataset: Any) -> None:
    storage = _storage_class(dataset)
    if storage == WHOLE_SLIDE:
        raise BadImage("multi-frame", "a whole slide: image.tile_px cuts it into tiles")
    if storage in NO_PICTURES:
        raise BadImage("not an image", f"DICOM, {NO_PICTURES[storage]}")
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise BadImage("not an image", "DICOM with floats for pixels")
        if "Rows" in dataset:
            raise BadImage("truncated or damaged", "DICOM that declares pixels and has none")
        raise BadImage("not an image", "DICOM without pixels (a report, a directory or a plan)")
    if str(dataset.get("PixelPresentation", "")).upper() in ("COLOR", "MIXED"):
        raise BadImage("wrong channels", "grey of which a part is shown in colours")


def _storage_class(dataset: Any) -> str:
    return str(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")


def _check_permission(dataset: Any, options: ReadOptions) -> None:
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    check_size(rows, columns, options.max_pixels)
    raw = str(dataset.get("PresentationIntentType", "")).upper() == "FOR PROCESSING"
    if raw and not options.for_processing:
        raise BadImage(
            "raw detector data",
            "FOR PROCESSING: export the FOR PRESENTATION image, or set data.for_processing",
        )
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES" and not options.burned_in:
        raise BadImage("burned-in annotation", "the file says that text is burned into its pixels")


def _choose_frame(dataset: Any, frame: int | None) -> int:
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise BadImage("multi-frame", f"{frames} frames: choose one by data.frame")
    if (frame or 0) >= frames:
        raise BadImage("multi-frame", f"frame {frame} of {frames} was asked for")
    return frame or 0


# What is shown ----------------------------------------------------------------------------------


def display(dataset: Any, frame: int, options: ReadOptions) -> np.ndarray:
    """Return one frame as (C, H, W) float32 in [0, 1]; whatever damage raises goes on."""
    from .dicom_codecs import unpack
    from .dicom_colour import palette_colours, true_colours
    from .dicom_grey import to_brightness

    stored, kind = unpack(dataset, frame)
    if kind == "RGB" and stored.ndim == 3:
        return true_colours(stored, dataset)
    if kind == "PALETTE COLOR" and stored.ndim == 2:
        return palette_colours(stored, dataset)
    if kind in ("MONOCHROME1", "MONOCHROME2") and stored.ndim == 2:
        return to_brightness(stored, dataset, frame=frame, window=options.window)
    raise BadImage("wrong channels", "neither grey, nor RGB, YBR or a palette")
