"""Colours of a DICOM image, true or by a palette, to sRGB in [0, 1].

An ICC profile is part of what a DICOM colour image says of its colours (PS3.3 C.11.15), so it is
applied, by its own default intent; without one the colours are taken for sRGB.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .badimage import BadImage
from .dicom_tables import LONGEST, is_big_endian, is_signed, read_table

CHANNELS = ("Red", "Green", "Blue")  # an alpha palette only serves blending with another image


def true_colours(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Bring stored RGB (H, W, 3) to (3, H, W) float32 in [0, 1]."""
    return _scaled(stored, 2 ** int(dataset.BitsStored) - 1, dataset)


def palette_colours(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Look stored numbers (H, W) up in the file's palette: (3, H, W) float32 in [0, 1]."""
    low, high = int(stored.min()), int(stored.max())
    if high - low >= LONGEST:
        raise BadImage("truncated or damaged", "palette numbers beyond any palette")
    numbers = np.arange(low, high + 1)
    segmented = "SegmentedRedPaletteColorLookupTableData" in dataset
    colours, white = (_expand if segmented else _look_up)(numbers, dataset)
    channels = _scaled(colours[None], white, dataset)  # (3, 1, numbers)
    index = np.subtract(stored, low, dtype=np.intp)
    return np.stack([channel.ravel().take(index, mode="clip") for channel in channels])


def _look_up(numbers: np.ndarray, dataset: Any) -> tuple[np.ndarray, int]:
    tables = [
        read_table(
            dataset[f"{channel}PaletteColorLookupTableData"].value,
            dataset[f"{channel}PaletteColorLookupTableDescriptor"].value,
            signed=is_signed(dataset),
            big_endian=is_big_endian(dataset),
        )
        for channel in CHANNELS
    ]
    colours = np.stack([table(numbers) for table in tables], axis=-1)
    return colours.astype(np.uint8 if tables[0].white == 255 else np.uint16), tables[0].white


def _expand(numbers: np.ndarray, dataset: Any) -> tuple[np.ndarray, int]:
    """Look numbers up in a palette of segments (PS3.3 C.7.9.2), which pydicom expands."""
    from pydicom.pixels import apply_color_lut

    length, first = dataset.RedPaletteColorLookupTableDescriptor[:2]
    last = first + (length or LONGEST) - 1
    colours = apply_color_lut(np.clip(numbers, first, last), dataset)[:, :3]
    return colours, np.iinfo(colours.dtype).max


def _scaled(colours: np.ndarray, white: int, dataset: Any) -> np.ndarray:
    if dataset.get("ICCProfile"):
        colours = _to_srgb(colours, dataset.ICCProfile)
    return np.moveaxis(colours, -1, 0).astype(np.float32) / np.float32(white)


def _to_srgb(colours: np.ndarray, profile: bytes) -> np.ndarray:
    from PIL.ImageCms import PyCMSError
    from pydicom.pixels.processing import apply_icc_profile, create_icc_transform

    if colours.dtype != np.uint8:
        raise BadImage("wrong channels", "an ICC profile on colours of more than 8 bits")
    try:
        transform = create_icc_transform(icc_profile=profile, color_space="sRGB")
    except (PyCMSError, OSError):
        raise BadImage("truncated or damaged", "its ICC profile can't be applied") from None
    return apply_icc_profile(np.ascontiguousarray(colours), transform=transform)
