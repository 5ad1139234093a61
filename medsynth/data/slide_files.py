"""Which files are whole slides, and which are only parts of one."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .badimage import BadImage
from .dicom import is_whole_slide

if TYPE_CHECKING:
    import openslide

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
OTHERS = (b"SQLite format 3", b"ZISRAWFILE")  # Sakura, Zeiss
BY_NAME = (".mrxs", ".vms", ".vmu")  # a MIRAX slide starts as a JPEG, a Hamamatsu one as text
SCANNERS = ("is_svs", "is_ndpi", "is_scn", "is_bif", "is_philips")  # in tifffile's words
LARGEST_FIELD = 100_000_000  # pixels; no camera on a microscope takes more in one picture


def is_slide(path: Path) -> bool:
    """Return True for a whole slide, by its content.

    A TIFF is one if a scanner's make is told from it, or if it is tiled and has several levels or
    more than LARGEST_FIELD pixels; a smaller one is a field, for the TIFF reader. A DICOM file is
    one by its SOP class, label and overview images too, so that no other reader takes them.
    Without the extra [slides] the answer is as good as tifffile's.
    """
    head = _head(path)
    if head[128:132] == b"DICM":
        return is_whole_slide(path)
    if not head.startswith((*TIFF, *OTHERS)) and path.suffix.lower() not in BY_NAME:
        return False
    try:
        import openslide
    except ImportError:
        return not head.startswith(TIFF) or _is_pyramid(path)
    vendor = openslide.OpenSlide.detect_format(path)
    return _is_large(path) if vendor == "generic-tiff" else vendor is not None


@contextmanager
def open_slide(path: Path) -> Iterator[openslide.OpenSlide]:
    """Open a slide. Raises BadImage where it is damaged or the extra is missing."""
    try:
        import openslide
    except ImportError:
        raise BadImage("codec missing", "whole slides: pip install 'medsynth[slides]'") from None
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:  # their words hold paths
        raise BadImage(
            "truncated or damaged", f"no slide that opens ({type(error).__name__})"
        ) from None
    with slide:
        yield slide


def parts_of_slides(raw: Path, paths: Iterable[str]) -> set[str]:
    """Return those of the paths that are parts of a slide that another of them stands for.

    A DICOM slide is a series of files in one folder, one a level: the first by name stands for
    all. What lies in the folder of a MIRAX slide, and the JPEG files that a Hamamatsu .vms or .vmu
    file names, belong to it.
    """
    paths = sorted(paths)
    return {*_later_of_series(raw, paths), *_companions(paths)}


def _later_of_series(raw: Path, paths: Iterable[str]) -> Iterator[str]:
    from .pool import read_all  # a damaged header may end whoever parses it
    from .worker import Limits, Lost

    slides = [path for path in paths if is_whole_slide(raw / path)]
    names = read_all(_series, [raw / path for path in slides], limits=Limits(10.0, 1.0))
    seen: set[tuple[str, str]] = set()
    for path, name in zip(slides, names, strict=True):
        series = posixpath.dirname(path), path if isinstance(name, Lost) else name
        if series in seen:
            yield path
        seen.add(series)


def _companions(paths: Iterable[str]) -> Iterator[str]:
    stems = [posixpath.splitext(path) for path in paths]
    mirax = tuple(f"{stem}/" for stem, suffix in stems if suffix.lower() == ".mrxs")
    hamamatsu = tuple(stem for stem, suffix in stems if suffix.lower() in (".vms", ".vmu"))
    for path in paths:
        suffix = posixpath.splitext(path)[1].lower()
        if path.startswith(mirax) or (suffix in (".jpg", ".jpeg") and path.startswith(hamamatsu)):
            yield path


def _series(path: Path) -> str:
    """The series' UID; a file that can't be read is one of its own."""
    from pydicom import dcmread

    try:
        header = dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        return str(header.SeriesInstanceUID)
    except Exception:  # pydicom meets a damaged file with any error at all
        return path.name


def _head(path: Path) -> bytes:
    """The first bytes, as many as tell what a file is; b"" if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(132)
    except OSError:
        return b""


def _is_large(path: Path) -> bool:
    try:
        with open_slide(path) as slide:
            width, height = slide.dimensions
            return slide.level_count > 1 or width * height > LARGEST_FIELD
    except BadImage:
        return False


def _is_pyramid(path: Path) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            levels = tiff.pages.first.is_tiled and any(page.is_reduced for page in tiff.pages)
            return levels or any(getattr(tiff, scanner) for scanner in SCANNERS)
    except Exception:  # a damaged file may raise anything, and is no slide
        return False
