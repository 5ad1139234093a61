"""Stored grey values of a DICOM image to brightness, from 0 (black) to 1 (white).

    modality LUT or slope -> VOI LUT or window -> Presentation LUT, or turned over once

The ends are those that the header declares, never the image's own smallest and largest value.
What happens to a value depends on nothing but the value, so it is worked out once for every value
that occurs and then looked up. Padding is black, whatever a window would make of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .badimage import BLANK, BadImage
from .dicom_tables import LONGEST, Table, is_big_endian, is_signed, read_table

NARROW = 1 / 16  # an image that fills less of its declared range lacks its window
Ends = tuple[float, float]


def to_brightness(
    stored: np.ndarray, dataset: Any, *, frame: int, window: Ends | None
) -> np.ndarray:
    """Bring one frame's stored values (H, W) to (1, H, W) float32 in [0, 1].

    A LUT of the file goes before its window, the first of several counts, and `window`, in values
    after the modality LUT, is for files that have neither; without one, all of the declared range
    is taken. Raises BadImage where hardly any of that range is used: it is not the real one.
    """
    low, high = int(stored.min()), int(stored.max())
    values = stored if high - low >= LONGEST else np.arange(low, high + 1)
    shown, windowed = _show(values.astype(np.float64), dataset, frame, window)
    padding = _padding(values, dataset)
    shown[padding] = 0
    if values is not stored:
        index = np.subtract(stored, low, dtype=np.intp)
        shown = shown.take(index, mode="clip")  # nothing is clipped, but nothing is checked either
        padding = padding.take(index) if padding.any() else None
    if not windowed:
        _refuse_narrow(shown if padding is None else shown[~padding])
    return shown[None]


def _refuse_narrow(shown: np.ndarray) -> None:
    if shown.size and BLANK < np.ptp(shown) < NARROW:
        detail = f"no window, and under {NARROW:.0%} of the range is used: data.window may give one"
        raise BadImage("undeclared range", detail)


def _show(
    values: np.ndarray, dataset: Any, frame: int, window: Ends | None
) -> tuple[np.ndarray, bool]:
    """Return the brightness of stored values, and whether a LUT or a window has made it."""
    values, ends = _modality(values, dataset, frame)
    shown, windowed = _voi(values, ends, dataset, frame, window)
    return _present(shown, dataset).astype(np.float32), windowed


def _modality(values: np.ndarray, dataset: Any, frame: int) -> tuple[np.ndarray, Ends]:
    """Apply the modality LUT, or slope and intercept; return values and the ends of their range."""
    bits, signed = int(dataset.BitsStored), is_signed(dataset)
    if dataset.get("ModalityLUTSequence"):
        table = _table(dataset.ModalityLUTSequence[0], dataset, signed)
        return table(values).astype(np.float64), (0.0, float(table.white))
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    item = _functional_group(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = _number(item, "RescaleSlope", 1), _number(item, "RescaleIntercept", 0)
    ends = sorted(end * slope + intercept for end in (low, low + 2.0**bits - 1))
    return values * slope + intercept, (ends[0], ends[1])


def _voi(
    values: np.ndarray, ends: Ends, dataset: Any, frame: int, window: Ends | None
) -> tuple[np.ndarray, bool]:
    luts = [item for item in dataset.get("VOILUTSequence") or () if item.get("LUTData") is not None]
    if luts:
        table = _table(luts[0], dataset, ends[0] < 0)
        return table(values) / table.white, True
    item = _functional_group(dataset, frame, "FrameVOILUTSequence")
    center, width = _first(item.get("WindowCenter")), _first(item.get("WindowWidth"))
    if center is not None and width is not None:
        name = str(item.get("VOILUTFunction") or "LINEAR").strip().upper()
        return _window(values, float(center), float(width), name), True
    black, white = window or ends
    return np.clip((values - black) / (white - black), 0, 1), window is not None


def _window(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Return values seen through a window, in [0, 1]. Source: PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    if width <= 0 or (function == "LINEAR" and width < 1):
        raise BadImage("truncated or damaged", "a window without a width")
    if function == "SIGMOID":
        return (1 + np.tanh(2 * (values - center) / width)) / 2  # = 1 / (1 + exp(-4 (x - c) / w))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise BadImage("undeclared range", "a VOI LUT function that DICOM does not define")
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _present(shown: np.ndarray, dataset: Any) -> np.ndarray:
    """Turn over what is stored upside down, once, though two tags may say so.

    A Presentation LUT ends in P-values, where 0 is black: nothing is turned over after one.
    """
    if dataset.get("PresentationLUTSequence"):
        table = _table(dataset.PresentationLUTSequence[0], dataset, False)
        return table(shown * (len(table.entries) - 1) + table.first) / table.white
    inverse = str(dataset.get("PresentationLUTShape") or "").strip().upper() == "INVERSE"
    return 1 - shown if inverse or dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def _padding(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Return which stored values only fill up the rectangle (PS3.3 C.7.5.1.1.2)."""
    value, limit = dataset.get("PixelPaddingValue"), dataset.get("PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(values.shape, bool)
    ends = [int(value), int(value if limit is None else limit)]
    if is_signed(dataset):  # some write a negative value as if it were unsigned
        turn = 2 ** int(dataset.BitsAllocated)
        ends = [end - turn if end >= turn // 2 else end for end in ends]
    return (values >= min(ends)) & (values <= max(ends))


# Reading tags -----------------------------------------------------------------------------------


def _functional_group(dataset: Any, frame: int, name: str) -> Any:
    """Return an item where enhanced objects keep it, of this frame or shared; else the dataset."""
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for group in (*frames[frame : frame + 1], *shared):
        if group.get(name):
            return group[name][0]
    return dataset


def _table(item: Any, dataset: Any, signed: bool) -> Table:
    big = is_big_endian(dataset)
    return read_table(item.LUTData, item.LUTDescriptor, signed=signed, big_endian=big)


def _number(item: Any, name: str, default: float) -> float:
    value = _first(item.get(name))
    return default if value is None else float(value)


def _first(value: Any) -> Any:
    """Return the first of several values; None where there is none."""
    if value is None or isinstance(value, str | float | int):
        return None if value == "" else value
    return next(iter(value), None)
