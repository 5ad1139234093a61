"""DICOM files to what a radiologist sees: (C, H, W) in [0, 1].

In this order: unpack -> modality LUT -> VOI LUT or window -> divide by the declared range ->
invert MONOCHROME1, once. pydicom has turned YBR into RGB when pixels come out, whatever the tag
still says, so colours are not converted again. Padding values, overlays and ICC profiles are not
applied.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .badimage import BLANK, BadImage, check_size, silence
from .options import ReadOptions

# All that is ever looked at besides what unpacking needs. A name, a date or an institution is not.
ALLOWED_TAGS = (
    "PatientID",
    "Modality",
    "Rows",
    "Columns",
    "BitsStored",
    "PhotometricInterpretation",
)

EXTENDED_JPEG = "1.2.840.10008.1.2.4.51"  # its 12-bit form has a decoder under the GPL only
NARROW = 1 / 16  # a radiograph that fills less of its declared range lacks its window


@dataclass(frozen=True)
class DicomFacts:
    """What the allow-list lets out of a header; `patient` is raw and must become a pseudonym."""

    patient: str | None
    modality: str
    height: int
    width: int
    bits: int
    grey: bool


def read_facts(path: Path) -> DicomFacts:
    """Read the allow-listed tags without touching pixels. Raises BadImage on a damaged header."""
    import pydicom

    with silence():
        try:
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=list(ALLOWED_TAGS)
            )
            return DicomFacts(
                patient=str(header.get("PatientID") or "").strip() or None,
                modality=str(header.get("Modality") or ""),
                height=int(header.get("Rows") or 0),
                width=int(header.get("Columns") or 0),
                bits=int(header.get("BitsStored") or 0),
                grey=str(header.get("PhotometricInterpretation") or "").startswith("MONO"),
            )
        except Exception as error:  # a damaged header may raise anything, and quote what it holds
            raise BadImage("truncated or damaged", f"header ({type(error).__name__})") from None


def read_dicom(path: Path, options: ReadOptions) -> np.ndarray:
    """Read a DICOM image as (C, H, W) in [0, 1]; see `readers.read_image`."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        _check(dataset, options.max_pixels)
        return _to_display(_pixels(dataset, options.frame), dataset)
    except BadImage:
        raise
    except Exception as error:  # as above; the error's own words may hold tag values
        raise BadImage("truncated or damaged", f"DICOM ({type(error).__name__})") from None


def _check(dataset: Any, max_pixels: int) -> None:
    if "PixelData" not in dataset:
        raise BadImage("not an image", "DICOM without pixels (a report, a directory or a plan)")
    check_size(int(dataset.Rows), int(dataset.Columns), max_pixels)
    if str(dataset.get("PresentationIntentType", "")).upper() == "FOR PROCESSING":
        raise BadImage("raw detector data", "FOR PROCESSING: export the FOR PRESENTATION image")
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
        raise BadImage("burned-in annotation", "the file says that text is burned into its pixels")


def _pixels(dataset: Any, frame: int | None) -> np.ndarray:
    """Unpack one frame as stored: (H, W) or (H, W, 3)."""
    from pydicom.pixels import pixel_array

    _check_codec(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise BadImage("multi-frame", f"{frames} frames: choose one by data.frame")
    if (frame or 0) >= frames:
        raise BadImage("multi-frame", f"frame {frame} of {frames} was asked for")
    return pixel_array(dataset, index=frame or 0)


def _check_codec(dataset: Any) -> None:
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax.is_deflated:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise BadImage("codec missing", f"nothing unpacks {syntax.name}") from None
    if not available:
        raise BadImage("codec missing", f"{syntax.name}: pip install 'medsynth[dicom]'")
    if syntax == EXTENDED_JPEG and int(dataset.BitsStored) > 8:
        raise BadImage("codec missing", f"{syntax.name} of 12 bits: export it in another syntax")


def _to_display(stored: np.ndarray, dataset: Any) -> np.ndarray:
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        return _palette(stored, dataset)
    if stored.ndim == 3:
        top = 2 ** int(dataset.BitsStored) - 1
        return np.moveaxis(stored, -1, 0).astype(np.float32) / top
    if not kind.startswith("MONOCHROME"):
        raise BadImage("wrong channels", "one channel that is neither grey nor a palette")
    return _grey(stored, dataset)


def _palette(stored: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    colours = apply_color_lut(stored, dataset)[..., :3]
    return np.moveaxis(colours, -1, 0).astype(np.float32) / np.iinfo(colours.dtype).max


def _grey(stored: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    values = apply_voi_lut(apply_modality_lut(stored, dataset), dataset)
    black, white = _declared_range(dataset)
    image = np.clip((values.astype(np.float64) - black) / (white - black), 0, 1)[None]
    if not _has_window(dataset) and BLANK < np.ptp(image) < NARROW:
        raise BadImage(
            "undeclared range", f"no window, and under {NARROW:.0%} of the range is used"
        )
    return (1 - image if _is_inverted(dataset) else image).astype(np.float32)


def _declared_range(dataset: Any) -> tuple[float, float]:
    """Return which values are black and white after the VOI step, as the header declares them."""
    if dataset.get("VOILUTSequence"):  # it wins over a window, as in pydicom
        return 0.0, 2.0 ** _lut_bits(dataset.VOILUTSequence[0]) - 1
    if dataset.get("ModalityLUTSequence"):
        return 0.0, 2.0 ** _lut_bits(dataset.ModalityLUTSequence[0]) - 1
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation) == 1
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    ends = np.array([low, low + 2.0**bits - 1])
    ends = ends * _number(dataset, "RescaleSlope", 1) + _number(dataset, "RescaleIntercept", 0)
    if not _has_window(dataset):  # a window maps low to the first end, else order counts
        ends.sort()
    return float(ends[0]), float(ends[1])


def _has_window(dataset: Any) -> bool:
    window = (dataset.get("WindowCenter"), dataset.get("WindowWidth"))
    return None not in window or bool(dataset.get("VOILUTSequence"))


def _number(dataset: Any, name: str, default: float) -> float:
    value = dataset.get(name)
    return default if value is None else float(value)


def _lut_bits(item: Any) -> int:
    return int(item.LUTDescriptor[2])


def _is_inverted(dataset: Any) -> bool:
    """True where stored white is shown black; MONOCHROME1 and INVERSE say the same thing, once."""
    inverse = str(dataset.get("PresentationLUTShape", "")).upper() == "INVERSE"
    return inverse or dataset.PhotometricInterpretation == "MONOCHROME1"
