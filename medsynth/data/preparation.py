"""One file of the raw folder to the small squares that a cohort holds.

read, reduced where that loses nothing -> channels -> text -> domain's crop and size -> bits
read ---> channels -> text -> tiles with something on them -> each: crop and size -> bits
whole slide -> tiles of tissue -----------------------------> each: crop and size -> bits
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import domains
from ..cohort import to_pixels
from ..protocol import Protocol
from .badimage import BLANK, BadImage
from .confidentiality import Audit
from .dicom_facts import DicomFacts, read_facts
from .layouts.listing import Entry, chosen_labels
from .options import ReadOptions
from .readers import is_dicom, read_with_size, to_channels
from .slide_files import is_slide, open_slide
from .text import screen

FLAT_TILE = 0.02  # a tile whose brightness varies less than this (0 to 1) is glass, not tissue
ENOUGH = 1.4  # times size_px: where a crop leaves less of a reduced image, all of it is read


@dataclass(frozen=True)
class File:
    """What reading one file gave: pixels (tiles, H, W, C), or the reason why not.

    `tiles` are their numbers, 0 for a whole image, and `flat` how many showed nothing. `size` is
    the file's (height, width). `patient` is the raw word of the table or the header. `labels` are
    a DICOM header's, and `audit` counts what was taken out of it and of the pixels.
    """

    reason: str = ""
    detail: str = ""
    pixels: np.ndarray | None = None
    tiles: tuple[int, ...] = ()
    flat: int = 0
    size: tuple[int, int] = (0, 0)
    patient: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    audit: Audit | None = None


@dataclass(frozen=True)
class Reading:
    """Reads one entry; a class and not a closure, so that it goes to another process."""

    raw: Path
    protocol: Protocol

    def __call__(self, entry: Entry) -> File:
        try:
            return self._read(entry)
        except BadImage as error:
            return File(reason=error.reason, detail=error.detail)

    def _read(self, entry: Entry) -> File:
        path = self.raw / entry.path
        facts = self._facts(path)
        if is_slide(path):  # always cut: its other pages show the label
            file = self._slide(path)
        elif self.protocol.image.tile_px is None:
            file = self._whole(path, entry)
        else:
            file = self._tiled(path, entry)
        if facts is None:
            return replace(file, patient=entry.patient)
        return replace(
            file,
            patient=facts.patient if entry.patient is None else entry.patient,
            labels=chosen_labels(facts.labels, self.protocol.data),
            audit=_together(facts.audit, file.audit),
        )

    def _facts(self, path: Path) -> DicomFacts | None:
        try:
            return read_facts(path, self.protocol.deidentify) if is_dicom(path) else None
        except OSError as error:
            raise BadImage("missing file", type(error).__name__) from None

    def _whole(self, path: Path, entry: Entry) -> File:
        size_px, least_px = self.protocol.image.size_px, _least_px(self.protocol)
        image, audit, size = self._image(path, entry, least_px)
        cropped = _crop(image, self.protocol.domain)
        if image.shape[1:] != size and min(cropped.shape[1:]) < ENOUGH * size_px:
            image, audit, size = self._image(path, entry, None)
            cropped = _crop(image, self.protocol.domain)
        ready = self._squares([(0, cropped)])
        return replace(ready, size=size, audit=audit)

    def _tiled(self, path: Path, entry: Entry) -> File:
        image, audit, size = self._image(path, entry, None)
        tiles = dict(_cut(image, self.protocol.image.tile_px))
        kept = {number: tile for number, tile in tiles.items() if _has_tissue(tile)}
        if not kept:
            raise BadImage("blank image", "no tile of it shows anything")
        crops = ((number, _crop(tile, self.protocol.domain)) for number, tile in kept.items())
        return replace(self._squares(crops), flat=len(tiles) - len(kept), size=size, audit=audit)

    def _slide(self, path: Path) -> File:
        """Labels and overviews of a slide are never read, so no text is looked for."""
        from .slides import read_tiles

        p = self.protocol
        tiles = read_tiles(path, p.image, p.slides, p.seed, max_pixels=p.data.max_pixels)
        crops = (
            (number, _crop(to_channels(tile, domains.domain(p.domain).channels), p.domain))
            for number, tile in tiles
        )
        squares = self._squares(crops)
        with open_slide(path) as slide:
            return replace(squares, size=slide.dimensions[::-1])

    def _image(
        self, path: Path, entry: Entry, least_px: int | None
    ) -> tuple[np.ndarray, Audit | None, tuple[int, int]]:
        """Read, with the domain's channels and without text; (height, width) are the file's."""
        p = self.protocol
        image, size = read_with_size(path, _options(p, entry, least_px))
        if min(size) < max(p.image.tile_px or 0, p.image.size_px // 2):
            raise BadImage("too small", f"{size[1]} x {size[0]} pixels")
        image, screened = screen(
            to_channels(image, domains.domain(p.domain).channels), p.deidentify
        )
        off = p.deidentify.text_screen == "off"
        return image, None if off else Audit(regions=screened.boxes, masked=screened.masked), size

    def _squares(self, crops: Iterable[tuple[int, np.ndarray]]) -> File:
        """Bring crops to their size one by one, so that a slide's tiles are never there at once."""
        image, numbers, squares = self.protocol.image, [], []
        for number, crop in crops:
            ready = _apply(_fitting(image.size_px), crop)
            if np.ptp(ready) < BLANK:
                raise BadImage("blank image", "nothing shows where this domain looks")
            numbers.append(number)
            squares.append(to_pixels(ready[None] * 2 - 1, bits=image.bits))
        return File(pixels=np.concatenate(squares), tiles=tuple(numbers))


def _options(protocol: Protocol, entry: Entry, least_px: int | None) -> ReadOptions:
    data = protocol.data
    return ReadOptions(
        max_pixels=data.max_pixels,
        frame=data.frame if entry.member is None else entry.member,
        window=data.window,
        for_processing=data.for_processing,
        burned_in=protocol.deidentify.declared_text == "screen",
        least_px=least_px,
        plane=data.slice_plane,
    )


def _least_px(protocol: Protocol) -> int | None:
    """Return to what an image may be reduced while it is read; small letters must not go."""
    if protocol.deidentify.text_screen != "off":
        return None
    return round(domains.domain(protocol.domain).headroom * protocol.image.size_px)


def _together(header: Audit | None, pixels: Audit | None) -> Audit | None:
    if header is None or pixels is None:
        return header or pixels
    return replace(header, regions=pixels.regions, masked=pixels.masked)


# A domain's transforms --------------------------------------------------------------------------


def to_square(image: np.ndarray, domain: str, size_px: int) -> np.ndarray:
    """Bring an image (C, H, W) in [0, 1] to (C, size_px, size_px), cropped as its domain crops.

    Raises BadImage where nothing is left of it.
    """
    return _apply(_fitting(size_px), _crop(image, domain))


def _crop(image: np.ndarray, domain: str) -> np.ndarray:
    """Crop a (C, H, W) image in [0, 1] to what its domain looks at."""
    cropped = _apply(_cropping(domain), image)
    if 0 in cropped.shape:
        raise BadImage("blank image", "nothing shows where this domain looks")
    return cropped


@cache
def _cropping(domain: str) -> Callable[[Any], Any]:
    from monai.transforms import Compose

    return Compose(domains.domain(domain).crop())


@cache
def _fitting(size_px: int) -> Callable[[Any], Any]:
    from monai.transforms import Compose

    return Compose(domains.fit(size_px))


def _apply(transforms: Callable[[Any], Any], image: np.ndarray) -> np.ndarray:
    import torch
    from monai.data import get_track_meta, set_track_meta

    tracking = get_track_meta()
    set_track_meta(False)  # what is recorded of a transform is of no use here and doubles its time
    try:
        return np.asarray(transforms(torch.from_numpy(image)))
    finally:
        set_track_meta(tracking)


# Tiles of a field -------------------------------------------------------------------------------


def _cut(image: np.ndarray, tile_px: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number from 1, tile) row by row; what is left at the right and below is not used."""
    columns = image.shape[2] // tile_px
    for row in range(image.shape[1] // tile_px):
        for column in range(columns):
            y, x = row * tile_px, column * tile_px
            yield 1 + row * columns + column, image[:, y : y + tile_px, x : x + tile_px]


def _has_tissue(tile: np.ndarray) -> bool:
    return float(tile.mean(axis=0).std()) >= FLAT_TILE
