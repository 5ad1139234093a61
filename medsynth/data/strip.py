"""PNG, JPEG and JPEG 2000 files without metadata; their pixels stay as they are packed.

Kept is what a picture needs to look the same: how it is coded, its colours (an ICC profile loses
its words) and which way up it is. EXIF, XMP, IPTC, comments, thumbnails, further pictures and
whatever stands behind the end go. Source: ITU-T T.81 annex B, T.800 annex A, W3C PNG.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from .badimage import BadImage
from .icc import without_words

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = {
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"sBIT",
    b"cICP",
}
SOI, EOI, SOS = b"\xff\xd8", 0xD9, 0xDA
APP0, EXIF_XMP, ICC, ADOBE, COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
ICC_NAME, ICC_PART = b"ICC_PROFILE\0", 65_000
SOC, SOT, COM_2000 = b"\xff\x4f", 0x90, 0x64
ORIENTATION = 274


def strip_png(data: bytes) -> bytes:
    """Return a PNG file without its text, time, EXIF and unknown chunks. Raises BadImage."""
    if not data.startswith(PNG_SIGNATURE):
        raise _damaged()
    return PNG_SIGNATURE + b"".join(_png_chunks(data))


def strip_jpeg(data: bytes, *, colours: bool = True) -> bytes:
    """Return a JPEG or JPEG-LS file without comments and application data. Raises BadImage.

    `colours` keeps the ICC profile's numbers and the orientation.
    """
    if not data.startswith(SOI):
        raise _damaged()
    head, profile, turn = bytearray(), {}, 1
    body = bytearray()
    for marker, segment in _jpeg_segments(data):
        content = segment[4:]
        if marker == EXIF_XMP and content.startswith(b"Exif\0\0"):
            turn = _orientation(content[6:])
        elif marker == ICC and content.startswith(ICC_NAME):
            profile[content[12:13]] = content[14:]
        elif marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= 14:
            head += _segment(APP0, content[:12] + b"\0\0")  # without its thumbnail
        elif marker == ADOBE and content.startswith(b"Adobe") and len(content) >= 12:
            head += _segment(ADOBE, content[:12])
        elif not (APP0 <= marker <= 0xEF or marker == COMMENT):
            body += segment
    if colours:
        head += _exif_segment(turn) + _icc_segments(b"".join(profile[n] for n in sorted(profile)))
    return SOI + bytes(head) + bytes(body)


def strip_jpeg2000(data: bytes) -> bytes:
    """Return a JPEG 2000 codestream without the comments of its main header. Raises BadImage."""
    if not data.startswith(SOC):
        raise _damaged()
    clean, at = bytearray(SOC), 2
    while data[at : at + 1] == b"\xff" and data[at + 1] != SOT:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != COM_2000:
            clean += data[at:end]
        at = end
    if data[at : at + 2] != bytes((0xFF, SOT)):
        raise _damaged()
    return bytes(clean) + data[at:]


# PNG --------------------------------------------------------------------------------------------


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at, turn = len(PNG_SIGNATURE), b""
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + size
        content = data[at + 8 : end - 4]
        if end > len(data):
            break
        if kind in PNG_KEPT:
            yield turn + _chunk(kind, content) if kind == b"IEND" else data[at:end]
        elif kind == b"iCCP":
            yield _png_profile(content)
        elif kind == b"eXIf" and _orientation(content) > 1:
            turn = _chunk(b"eXIf", _exif(_orientation(content)))
        if kind == b"IEND":
            return
        at = end
    raise _damaged()


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _png_profile(content: bytes) -> bytes:
    try:
        profile = without_words(zlib.decompress(content[content.index(b"\0") + 2 :]))
    except (ValueError, zlib.error):
        profile = None
    return _chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile)) if profile else b""


# JPEG -------------------------------------------------------------------------------------------


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, its bytes) up to the first end of image; SOS comes with what is coded."""
    at = 2
    while at + 2 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # a filler
            at += 1
            continue
        if marker == EOI:
            yield marker, bytes((0xFF, EOI))
            return
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + size
        if size < 2 or end > len(data):
            break
        if marker == SOS:
            end = _end_of_scan(data, end)
        yield marker, data[at:end]
        at = end
    raise _damaged()


def _end_of_scan(data: bytes, at: int) -> int:
    """Return where coded data end: at a marker that is neither stuffed nor a restart."""
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        following = data[at + 1]
        if following > 0x7F and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return at
        at += 1 if following == 0xFF else 2
    raise _damaged()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _icc_segments(profile: bytes) -> bytes:
    clean = without_words(profile)
    if clean is None:
        return b""
    parts = [clean[at : at + ICC_PART] for at in range(0, len(clean), ICC_PART)]
    numbered = (
        ICC_NAME + bytes((number, len(parts))) + part for number, part in enumerate(parts, start=1)
    )
    return b"".join(_segment(ICC, content) for content in numbered)


# Which way up -----------------------------------------------------------------------------------


def _orientation(exif: bytes) -> int:
    """Return EXIF's orientation, 1 to 8; 1 where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        at = struct.unpack_from(f"{order}I", exif, 4)[0]
        (count,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except (struct.error, TypeError):
        return 1
    return 1


def _exif(turn: int) -> bytes:
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, ORIENTATION, 3, 1, turn, 0, 0)


def _exif_segment(turn: int) -> bytes:
    return _segment(EXIF_XMP, b"Exif\0\0" + _exif(turn)) if turn > 1 else b""


def _damaged() -> BadImage:
    return BadImage("truncated or damaged", "its parts don't fit together")
