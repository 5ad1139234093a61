"""Which program unpacks which DICOM transfer syntax, in a fixed order.

pydicom takes whatever is installed first; here the order is written down, the first plugin that is
there unpacks, and no other is tried after it has failed: a lenient one might hand out half a file.
So the pixels do not depend on what else is installed.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .badimage import BadImage

EXTENDED = "1.2.840.10008.1.2.4.51"
CODECS = {  # transfer syntax: name for people, plugins
    "1.2.840.10008.1.2.4.50": ("JPEG baseline", ("pillow", "gdcm", "pylibjpeg")),
    EXTENDED: ("JPEG extended, 8 bits", ("pillow", "gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.57": ("JPEG lossless", ("gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.70": ("JPEG lossless, SV1", ("gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.80": ("JPEG-LS lossless", ("pyjpegls", "gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.81": ("JPEG-LS", ("pyjpegls", "gdcm", "pylibjpeg")),
    "1.2.840.10008.1.2.4.90": ("JPEG 2000 lossless", ("pylibjpeg", "gdcm", "pillow")),
    "1.2.840.10008.1.2.4.91": ("JPEG 2000", ("pylibjpeg", "gdcm", "pillow")),
    "1.2.840.10008.1.2.4.201": ("HTJ2K lossless", ("pylibjpeg",)),
    "1.2.840.10008.1.2.4.202": ("HTJ2K lossless, RPCL", ("pylibjpeg",)),
    "1.2.840.10008.1.2.4.203": ("HTJ2K", ("pylibjpeg",)),
    "1.2.840.10008.1.2.5": ("RLE", ("pylibjpeg", "pydicom")),
}
TWELVE_BITS = ("pylibjpeg",)  # with pylibjpeg-libjpeg, which is under the GPL: no extra brings it
NO_TWELVE_BITS = "of 12 bits: only decoders under the GPL unpack it, export it in another syntax"
FRAME_HEADERS = {*range(0xFFC0, 0xFFD0), 0xFFF7} - {0xFFC4, 0xFFC8, 0xFFCC}  # SOF, and JPEG-LS's
EXTRA = "pip install 'medsynth[dicom]'"


def unpack(dataset: Any, frame: int) -> tuple[np.ndarray, str]:
    """Unpack one frame of a dataset as stored, (H, W) or (H, W, 3), and say what its values are.

    pydicom has turned YBR into RGB by then and the word says so, whatever the tag still says.
    Raises BadImage where a codec is missing; whatever a decoder raises on damaged pixels goes on.
    """
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = choose_plugin(syntax, int(dataset.BitsStored))
    if plugin:
        _check_size(dataset, frame)
    elif int(dataset.get("HighBit") or 0) >= int(dataset.BitsStored):  # allowed until 2001 or so
        raise BadImage("undeclared range", "stored bits that don't begin at the lowest one")
    try:
        decoder = get_decoder(syntax)
        pixels, said = decoder.as_array(dataset, index=frame, decoding_plugin=plugin)
    except BaseException as error:  # a panic in Rust, as of pylibjpeg-rle, is no Exception
        if isinstance(error, RuntimeError) or type(error).__name__ == "PanicException":
            raise _failed(syntax, plugin) from None  # pydicom's words for: this plugin could not
        raise
    return pixels, str(said["photometric_interpretation"])


def choose_plugin(syntax: Any, bits: int = 8) -> str:
    """Return the plugin that unpacks a transfer syntax, "" where nothing is compressed.

    Raises BadImage, "codec missing", with the syntax's name and what brings the codec.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID_dictionary

    if syntax in CODECS:
        available = get_decoder(syntax).available_plugins
        twelve = syntax == EXTENDED and bits > 8
        for plugin in TWELVE_BITS if twelve else CODECS[syntax][1]:
            if plugin in available:
                return plugin
        advice = f" {NO_TWELVE_BITS}" if twelve else f": {EXTRA}"
        raise BadImage("codec missing", f"{syntax.name}{advice}")
    if syntax not in UID_dictionary:
        raise BadImage("codec missing", "a transfer syntax that DICOM does not define")
    if syntax.is_encapsulated:
        raise BadImage("codec missing", f"nothing here unpacks {syntax.name}")
    return ""


def find_codecs() -> dict[str, str]:
    """Say for every transfer syntax which plugin unpacks it here, or what would bring one."""
    from pydicom.uid import UID

    found = {"uncompressed": "pydicom", "deflated": "pydicom"}
    for syntax, (name, _) in CODECS.items():
        found[name] = _plugin_or_advice(UID(syntax), 8)
    found["JPEG extended, 12 bits"] = _plugin_or_advice(UID(EXTENDED), 12)
    return found


def _plugin_or_advice(syntax: Any, bits: int) -> str:
    try:
        return choose_plugin(syntax, bits)
    except BadImage:
        return "missing: only under the GPL" if bits > 8 else f"missing: {EXTRA} brings it"


def _failed(syntax: Any, plugin: str) -> BadImage:
    """A second-best plugin's failure may be its own; the first choice's is the file's."""
    if plugin in (CODECS[syntax][1][0], *TWELVE_BITS):
        return BadImage("truncated or damaged", "its pixels can't be unpacked")
    return BadImage("codec missing", f"{syntax.name}, which {plugin} can't unpack here: {EXTRA}")


# Bombs ------------------------------------------------------------------------------------------


def _check_size(dataset: Any, frame: int) -> None:
    """Refuse a frame whose packed data declares another size than the header does.

    A decoder believes the packed data, so that a small header could bring a machine down.
    """
    from pydicom.encaps import get_frame

    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    packed = get_frame(
        dataset.PixelData,
        frame,
        extended_offsets=None if None in tables else tables,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
    )
    size = _packed_size(packed)
    if size and size != (int(dataset.Rows), int(dataset.Columns)):
        raise BadImage("truncated or damaged", "the packed pixels are of another size")


def _packed_size(packed: bytes) -> tuple[int, int] | None:
    """Return (height, width) as JPEG, JPEG-LS and JPEG 2000 declare them; None if they don't."""
    at = packed.find(b"\xff\x4f\xff\x51", 0, 1024)
    if at >= 0:  # JPEG 2000, ISO 15444-1 A.5.1
        width, height, left, top = struct.unpack_from(">4I", packed, at + 8)
        return height - top, width - left
    at = 2
    while packed[:2] == b"\xff\xd8" and at + 9 <= len(packed):  # JPEG, ISO 10918-1 B.2.2
        marker, length = struct.unpack_from(">HH", packed, at)
        if marker in FRAME_HEADERS:
            height, width = struct.unpack_from(">HH", packed, at + 5)
            return (height, width) if height else None
        at += 1 if marker == 0xFFFF else 2 + length
    return None
