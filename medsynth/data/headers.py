"""What an image file says of itself before a pixel is unpacked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .badimage import silence
from .readers import PNG, TIFF, is_dicom


@dataclass(frozen=True)
class Header:
    """What one file's header says: format, size in pixels, bits a channel, grey or colour."""

    format: str
    height: int
    width: int
    bits: int
    grey: bool
    modality: str = ""
    patient: str = ""


def peek(path: Path) -> Header | None:
    """Read one file's header, told apart by content; None where it can't be read."""
    if not path.is_file():  # a pipe would be waited for
        return None
    with silence():
        try:
            return _peek_dicom(path) or _peek_tiff(path) or _peek_raster(path)
        except Exception:  # a damaged file may raise anything; it is counted as unreadable
            return None


def _peek_dicom(path: Path) -> Header | None:
    from .dicom_facts import read_facts

    if not is_dicom(path):
        return None
    facts = read_facts(path)
    size = (facts.height, facts.width, facts.bits, facts.grey)
    return Header("DICOM", *size, facts.modality, facts.patient or "")


def _peek_tiff(path: Path) -> Header | None:
    import tifffile

    with path.open("rb") as file:
        if not file.read(4).startswith(TIFF):
            return None
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        grey = page.samplesperpixel < 3 and page.photometric != 3
        return Header("TIFF", page.imagelength, page.imagewidth, int(page.bitspersample), grey)


def _peek_raster(path: Path) -> Header:
    from PIL.JpegImagePlugin import JpegImageFile
    from PIL.PngImagePlugin import PngImageFile

    with path.open("rb") as file:
        png = file.read(8) == PNG
        file.seek(0)
        image = (PngImageFile if png else JpegImageFile)(file)
        bits = 16 if image.mode.startswith("I") else 8
        grey = image.mode not in ("RGB", "RGBA", "P", "CMYK")
        return Header("PNG" if png else "JPEG", image.height, image.width, bits, grey)
