"""Image files that name a patient wherever their formats let them, for tests to look for."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

NAME, NUMBER, PLACE = "Sklodowska", "MRN883201", "Hopital"
WORDS = (NAME, NUMBER, PLACE)
TEXT = f"{NAME}^Marie {NUMBER} {PLACE}"


def pixels(*, colour: bool = False, size_px: int = 64, seed: int = 0) -> np.ndarray:
    """Bytes of a smooth picture with something on it: (H, W) or (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (8, 8, 3) if colour else (8, 8), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size_px, size_px), Image.Resampling.BICUBIC))


def colour_profile() -> bytes:
    """An sRGB profile whose description is a person's name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for word in ("sRGB built-in", "No copyright, use freely"):
        old = word.encode("utf-16-be")
        at = profile.index(old)
        profile[at : at + len(old)] = f"{NAME:<{len(word)}}"[: len(word)].encode("utf-16-be")
    return bytes(profile)


def exif(turn: int = 1) -> bytes:
    """EXIF with a name as artist, comment and in the maker's own field."""
    data = Image.Exif()
    data[274], data[315], data[270] = turn, TEXT, TEXT
    data.get_ifd(0x8769).update({0x9286: TEXT.encode(), 0x927C: TEXT.encode()})
    return data.tobytes()


def xmp() -> bytes:
    """An XMP packet that says who created it."""
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><creator>{TEXT}</creator></x:xmpmeta>'.encode()


def write_png(path: Path, image: np.ndarray, *, turn: int = 1) -> None:
    """Write a PNG with names in text, EXIF, XMP, its profile, an unknown chunk and behind it."""
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", TEXT)
    info.add_text("Comment", TEXT, zip=True)
    info.add_itxt("XML:com.adobe.xmp", xmp().decode())
    info.add_itxt("Title", TEXT, "fr", TEXT)
    info.add(b"naMe", TEXT.encode())
    profile = colour_profile() if image.ndim == 3 else None
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", pnginfo=info, exif=exif(turn), icc_profile=profile)
    path.write_bytes(data.getvalue() + TEXT.encode())


def write_jpeg(path: Path, image: np.ndarray, *, turn: int = 1, progressive: bool = False) -> None:
    """Write a JPEG with names in EXIF, XMP, comment, profile, a thumbnail and behind it."""
    data = io.BytesIO()
    Image.fromarray(image).save(
        data, "JPEG", exif=exif(turn), comment=TEXT, progressive=progressive, quality=90, xmp=xmp(),
        icc_profile=colour_profile() if image.ndim == 3 else None,
    )  # fmt: skip
    photoshop = b"Photoshop 3.0\0" + TEXT.encode()
    thumbnail = b"JFXX\0\x10" + TEXT.encode()
    extra = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
        for marker, content in ((0xED, photoshop), (0xE0, thumbnail), (0xE9, TEXT.encode()))
    )
    whole = data.getvalue()
    first = 4 + int.from_bytes(whole[4:6], "big")
    path.write_bytes(whole[:first] + extra + whole[first:] + TEXT.encode())


def write_tiff(path: Path, image: np.ndarray) -> None:
    """Write a TIFF with names in its tags, and one of its own."""
    tifffile.imwrite(
        path, image, description=TEXT, software=TEXT, metadata=None, compression="zlib",
        photometric="rgb" if image.ndim == 3 else "minisblack",
        iccprofile=colour_profile() if image.ndim == 3 else None,
        extratags=[(315, 2, 0, TEXT, True), (65000, 2, 0, TEXT, True), (700, 1, 0, xmp(), True)],
    )  # fmt: skip


def forms(word: str) -> set[bytes]:
    """Return a word as the formats' own encodings write it."""
    codes = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le")
    return {form.encode(code) for form in (word, word.upper()) for code in codes}


def names_in(data: bytes) -> set[str]:
    """Return which of WORDS stand in bytes, as they are or in zlib streams inside of them."""
    everything = data + b"".join(_inflated(data))
    return {word for word in WORDS if any(form in everything for form in forms(word))}


def _inflated(data: bytes) -> list[bytes]:
    found = []
    for start in (b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x78\x5e"):
        at = -1
        while (at := data.find(start, at + 1)) >= 0:
            unpack = zlib.decompressobj()
            try:
                found.append(unpack.decompress(data[at:], 2**20))
            except zlib.error:
                continue
    return found
