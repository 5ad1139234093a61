"""One file of a raw folder to one without identity, under a name that says nothing.

    DICOM     patient/study/series/file.dcm, pseudonyms all; headers by PS3.15, pixels as they are
              packed, their codestreams' comments aside
    PNG, JPEG images/folder/file, pixels as they are packed, metadata dropped
    TIFF      written anew from the pixels of its one picture, deflated

Where text is to be masked and was, the pixels are written anew: DICOM uncompressed, others as TIFF.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..protocol import Data, Deidentify
from ..runtime import write_bytes
from .badimage import BadImage, silence
from .confidentiality import METHODS, Audit, apply, check_declared_text, claim_clean_pixels
from .deidentify import pseudonym
from .icc import without_words
from .layouts.walk import SLIDES
from .options import ReadOptions
from .original import look_at
from .readers import JPEG, PNG, TIFF, begins_as_dicom
from .slide_files import is_slide
from .stored import Stored, to_floats
from .strip import strip_jpeg, strip_jpeg2000, strip_png
from .text import Screened, screen

JPEGS = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81)}
JPEGS_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}
SLIDE_PICTURES = {"LABEL", "OVERVIEW"}  # of a slide: what is written on its label is on both
TIFF_ICC = 34675
UNKNOWN = "unknown"
SCREEN_TIMES = 30


@dataclass(frozen=True)
class Done:
    """What became of one file: `file` was written, or the reason why none was."""

    reason: str = ""
    detail: str = ""
    file: str = ""
    audit: Audit | None = None


@dataclass(frozen=True)
class Deidentifying:
    """Writes one file of `raw` into `out`; a class, so that it goes to another process."""

    raw: Path
    out: Path
    data: Data
    settings: Deidentify
    secret: bytes

    def __call__(self, path: str) -> Done:
        try:
            with silence():
                return self._write(path)
        except BadImage as error:
            return Done(error.reason, error.detail)
        except OSError as error:
            return Done("missing file", type(error).__name__)
        except MemoryError:
            return Done("took too much memory")
        except Exception as error:  # a damaged file may raise anything, and quote what it holds
            return Done("truncated or damaged", type(error).__name__)

    def source(self, path: str) -> str:
        """Return the keyed hash that stands for a path."""
        return pseudonym(self.secret, "source", path)

    @property
    def patience(self) -> int:
        """How many times as long as another file one may take: looking for text takes seconds."""
        return 1 if self.settings.text_screen == "off" else SCREEN_TIMES

    def _write(self, path: str) -> Done:
        look_at(self.raw, path)
        with (self.raw / path).open("rb") as file:
            head = file.read(132)
        if not head:
            raise BadImage("empty file")
        if begins_as_dicom(head):
            folder, suffix, content, audit = self._dicom(self.raw / path)
        elif head.startswith((PNG, JPEG, *TIFF)):
            suffix, content, audit = self._raster(self.raw / path, head)
            folder = f"images/{self.source(PurePosixPath(path).parent.as_posix())}"
        else:
            raise BadImage("not an image", "expected DICOM, PNG, JPEG or TIFF")
        name = f"{folder}/{self.source(path)}{suffix}"
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.out / name, content)
        return Done(file=name, audit=audit)

    # DICOM

    def _dicom(self, path: Path) -> tuple[str, str, bytes, Audit]:
        from .dicom import open_dicom

        before = open_dicom(path)
        _check_kind(before)
        check_declared_text(before, self.settings)
        after, audit = apply(before, self.settings, secret=self.secret)
        if self.settings.text_screen == "off":
            _strip_codestreams(after)
        else:
            audit = self._screen_frames(before, after, audit)
        content = io.BytesIO()
        after.save_as(content, enforce_file_format=True)
        return _place(after), ".dcm", content.getvalue(), audit

    def _screen_frames(self, before: Any, after: Any, audit: Audit) -> Audit:
        """Look for text in all frames; masked ones are written uncompressed."""
        from .dicom_codecs import unpack

        frames = range(int(before.get("NumberOfFrames") or 1))
        unpacked = [unpack(before, number) for number in frames]
        seen = [
            self._screen_frame(before, number, stored)
            for number, (stored, _) in zip(frames, unpacked, strict=True)
        ]
        if any(one.masked for one in seen):
            pixels = np.stack([stored for stored, _ in unpacked])
            pixels = pixels[0] if len(frames) == 1 else pixels
            kind, bits = unpacked[0][1], int(before.BitsStored)
            after.set_pixel_data(pixels, kind, bits, generate_instance_uid=False)
        else:
            _strip_codestreams(after)
        methods = audit.methods
        if self.settings.text_screen == "mask":
            claim_clean_pixels(after)
            methods += (METHODS["clean pixel data"][0],)
        return replace(audit, methods=methods, **_together(seen))

    def _screen_frame(self, before: Any, number: int, stored: np.ndarray) -> Screened:
        """Black out text of one frame in `stored`, as what its darkest pixel is stored as."""
        from .dicom import display

        shown = display(before, number, self._options())
        clean, seen = screen(shown, self.settings)
        if seen.masked:
            darkest = np.unravel_index(shown.sum(axis=0).argmin(), shown.shape[1:])
            stored[(clean != shown).any(axis=0)] = stored[darkest]
        return seen

    def _options(self) -> ReadOptions:
        data = self.data
        return ReadOptions(data.max_pixels, window=data.window, for_processing=True, burned_in=True)

    # PNG, JPEG, TIFF

    def _raster(self, path: Path, head: bytes) -> tuple[str, bytes, Audit]:
        from .raster import read_jpeg, read_png
        from .tiff import read_tiff

        if path.suffix.lower() in SLIDES or is_slide(path):  # MIRAX begins as a JPEG, label and all
            raise BadImage("not an image", "a whole slide: medsynth ingest cuts it into tiles")
        tiff = head.startswith(TIFF)
        read = read_tiff if tiff else read_png if head.startswith(PNG) else read_jpeg
        if not tiff and self.settings.text_screen == "off":
            return *_stripped(path, head), Audit()
        image = read(path, self._options())
        profile = _profile(path) if tiff else None
        pixels, seen = self._screen_raster(image)
        if tiff or seen.masked:
            return ".tif", _tiff(pixels, image, profile), Audit(**_together([seen]))
        return *_stripped(path, head), Audit()

    def _screen_raster(self, image: Stored) -> tuple[np.ndarray, Screened]:
        """Return the pixels with text blacked out, as they are stored, and what was seen."""
        if self.settings.text_screen == "off":
            return image.pixels, Screened()
        shown = to_floats(image, self._options())
        clean, seen = screen(shown, self.settings)
        hidden = (clean != shown).any(axis=0)
        return np.where(hidden, np.zeros_like(image.pixels), image.pixels), seen


def _check_kind(dataset: Any) -> None:
    if "PixelData" not in dataset:
        raise BadImage("not an image", "DICOM without pixels (a report, a directory or a plan)")
    if not dataset.get("SOPClassUID") or not dataset.get("SOPInstanceUID"):
        raise BadImage("truncated or damaged", "no SOP class or instance: no program would read it")
    kinds = {str(kind).strip().upper() for kind in dataset.get("ImageType") or ()}
    if kinds & SLIDE_PICTURES:
        raise BadImage("burned-in annotation", "the label of a slide, or a picture with it")


def _place(dataset: Any) -> str:
    """Return patient/study/series of a dataset that went through `apply`."""
    patient = re.fullmatch(r"[0-9a-f]{16}", str(dataset.get("PatientID") or ""))
    uids = [str(dataset.get(f"{level}InstanceUID") or "") for level in ("Study", "Series")]
    named = [uid if re.fullmatch(r"[0-9.]{1,64}", uid) and ".." not in uid else "" for uid in uids]
    return "/".join(part or UNKNOWN for part in (patient[0] if patient else "", *named))


def _strip_codestreams(dataset: Any) -> None:
    """Take comments and application data out of each frame's own codestream."""
    from pydicom.encaps import encapsulate, generate_frames

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in JPEGS | JPEGS_2000:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    frames = [bytes(f) for f in generate_frames(dataset.PixelData, number_of_frames=count)]
    clean = [
        strip_jpeg(frame, colours=False) if syntax in JPEGS else strip_jpeg2000(frame)
        for frame in frames
    ]
    if clean == frames:
        return
    dataset.PixelData = encapsulate(clean)
    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if name in dataset:
            delattr(dataset, name)


def _stripped(path: Path, head: bytes) -> tuple[str, bytes]:
    png = head.startswith(PNG)
    return ".png" if png else ".jpg", (strip_png if png else strip_jpeg)(path.read_bytes())


def _profile(path: Path) -> bytes | None:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags.get(TIFF_ICC)
        return without_words(bytes(tag.value)) if tag else None


def _tiff(pixels: np.ndarray, image: Stored, profile: bytes | None) -> bytes:
    """Write (C, H, W) pixels as a TIFF that says nothing but what they are."""
    import tifffile

    if pixels.dtype.kind == "u" and image.white != np.iinfo(pixels.dtype).max:
        raise BadImage("undeclared range", "pixels that don't fill their bytes can't be kept so")
    content = io.BytesIO()
    tifffile.imwrite(
        content,
        np.moveaxis(pixels, 0, -1) if len(pixels) == 3 else pixels[0],
        photometric="rgb" if len(pixels) == 3 else "minisblack",
        compression="zlib",
        iccprofile=profile,
        software=False,
        metadata=None,
    )
    return content.getvalue()


def _together(seen: list[Screened]) -> dict[str, int]:
    return {"regions": sum(s.boxes for s in seen), "masked": sum(s.masked for s in seen)}
