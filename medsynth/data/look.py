"""What images look like from some hundred headers and a handful of pixels: sizes, kinds, domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np

from .badimage import BadImage
from .columns import spread
from .headers import Header, peek
from .layouts.folder import Folder
from .layouts.listing import Entry
from .layouts.walk import SLIDES, VOLUMES, suffix_of
from .options import ReadOptions
from .readers import read_image, to_channels

HEADERS, LOOKS = 300, 16  # how many headers and images are looked at
SLIDE = "whole slide"
UNDECLARED = "volume without a range of values"
LOOK_PIXELS = 50_000_000
DARK = 0.1  # corners below this, 0 to 1, are the black around a retina


@dataclass(frozen=True)
class Look:
    """What the headers say. Sizes are (smallest, median, largest) in pixels.

    `headers` were read, `unreadable` of them in vain. `patients` counts those that DICOM headers
    name, and `dicom` the DICOM files.
    """

    headers: int
    unreadable: int
    formats: dict[str, int]
    height_px: tuple[int, int, int]
    width_px: tuple[int, int, int]
    bits: tuple[int, ...]
    grey: int
    modalities: dict[str, int]
    patients: int

    @property
    def short_px(self) -> int:
        """The short side of the median image."""
        return min(self.height_px[1], self.width_px[1])


def look(folder: Folder, entries: Sequence[Entry]) -> Look:
    """Read some headers, evenly spread over the images."""
    sample = spread(entries, HEADERS)
    headers = [header for entry in sample if (header := _header(folder, entry))]
    return Look(
        headers=len(sample),
        unreadable=len(sample) - len(headers),
        formats=dict(Counter(header.format for header in headers).most_common()),
        height_px=_range([header.height for header in headers]),
        width_px=_range([header.width for header in headers]),
        bits=tuple(sorted({header.bits for header in headers})),
        grey=sum(header.grey for header in headers),
        modalities=dict(Counter(h.modality for h in headers if h.modality).most_common()),
        patients=len({header.patient for header in headers if header.patient}),
    )


def _header(folder: Folder, entry: Entry) -> Header | None:
    """A file's header, or for one of several images in a file what that image is."""
    if entry.member is None:
        header = peek(folder.raw / entry.path)
        slide = header and suffix_of(entry.path) in SLIDES
        return replace(header, format=SLIDE) if slide else header
    kinds = [(suffix_of(entry.path), None)]
    kinds += [(UNDECLARED, (0.0, 1.0))] if suffix_of(entry.path) in VOLUMES else []
    for name, window in kinds:
        for image in _read(folder, [entry], window):
            return Header(name, image.shape[1], image.shape[2], 8, len(image) == 1)
    return None


def guess_domain(folder: Folder, entries: Sequence[Entry], seen: Look) -> tuple[str, str]:
    """Return the domain that images may belong to, and why."""
    if SLIDE in seen.formats:
        return "histology", "there are whole slides"
    if seen.headers > seen.unreadable and seen.grey == seen.headers - seen.unreadable:
        return "chest_xray", "the images are grey"
    images = list(_read(folder, spread(entries, LOOKS)))
    if images and sum(_is_grey(image) for image in images) > len(images) / 2:
        return "chest_xray", "the images are grey, stored as colour"
    if images and np.median([_corners(image) for image in images]) < DARK:
        return "fundus", "the images are coloured with black corners"
    return "histology", "the images are coloured to their edges"


def _read(
    folder: Folder, entries: Iterable[Entry], window: tuple[float, float] | None = None
) -> Iterator[np.ndarray]:
    for entry in entries:
        options = ReadOptions(LOOK_PIXELS, entry.member or 0, window)
        try:
            yield read_image(folder.raw / entry.path, options)
        except BadImage:
            continue


def _is_grey(image: np.ndarray) -> bool:
    try:
        return len(to_channels(image, 1)) == 1
    except BadImage:
        return False


def _corners(image: np.ndarray) -> float:
    """Mean brightness of the corners, squares of a twentieth of the short side."""
    side = max(1, min(image.shape[1:]) // 20)
    rows = np.concatenate([image[:, :side], image[:, -side:]], axis=1)
    return float(np.concatenate([rows[..., :side], rows[..., -side:]], axis=2).mean())


def _range(values: list[int]) -> tuple[int, int, int]:
    return (min(values), median_low(values), max(values)) if values else (0, 0, 0)
