"""One file of the raw folder to the small squares that a cohort holds.

read -> channels -> tiles -> domain.prepare -> round to bits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import domains
from ..cohort import to_pixels
from ..protocol import Protocol
from .badimage import BLANK, BadImage
from .layouts import Entry
from .options import ReadOptions
from .readers import is_dicom, read_image, to_channels

FLAT_TILE = 0.02  # a tile whose brightness varies less than this (0 to 1) is glass, not tissue


@dataclass(frozen=True)
class File:
    """What reading one file gave: pixels (tiles, H, W, C), or the reason why not."""

    reason: str = ""
    detail: str = ""
    pixels: np.ndarray | None = None
    tiles: tuple[int, ...] = ()
    flat: int = 0
    size: tuple[int, int] = (0, 0)
    patient: str | None = None


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
        path, image = self.raw / entry.path, self.protocol.image
        pixels = read_image(path, _options(self.protocol, entry))
        pixels = to_channels(pixels, domains.domain(self.protocol.domain).channels)
        height, width = pixels.shape[1:]
        if min(height, width) < max(image.tile_px or 0, image.size_px // 2):
            raise BadImage("too small", f"{width} x {height} pixels")
        tiles = dict(_tiles(pixels, image.tile_px))
        kept = {n: tile for n, tile in tiles.items() if not image.tile_px or _has_tissue(tile)}
        if not kept:
            raise BadImage("blank image", "no tile of it shows anything")
        ready = np.stack([self._prepare(tile) for tile in kept.values()])
        return File(
            pixels=to_pixels(ready * 2 - 1, bits=image.bits),
            tiles=tuple(kept),
            flat=len(tiles) - len(kept),
            size=(height, width),
            patient=_patient(path, entry),
        )

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        ready = _prepare(image, self.protocol.domain, self.protocol.image.size_px)
        if np.ptp(ready) < BLANK:
            raise BadImage("blank image", "nothing shows where this domain looks")
        return ready


def _options(protocol: Protocol, entry: Entry) -> ReadOptions:
    data = protocol.data
    return ReadOptions(
        max_pixels=data.max_pixels,
        frame=data.frame if entry.member is None else entry.member,
        window=data.window,
        for_processing=data.for_processing,
        burned_in=protocol.deidentify.declared_text == "screen",
    )


def _prepare(image: np.ndarray, domain: str, size_px: int) -> np.ndarray:
    """Bring one (C, H, W) image to (C, size_px, size_px) as its domain wants it, in [0, 1]."""
    import torch
    from monai.data import get_track_meta, set_track_meta

    tracking = get_track_meta()
    set_track_meta(False)  # what is recorded of a transform is of no use here and doubles its time
    try:
        return np.asarray(_preparation(domain, size_px)(torch.from_numpy(image)))
    except RuntimeError:  # MONAI's word for everything; only an empty crop is the image's fault
        if _crops_to_nothing(torch.from_numpy(image), domain):
            raise BadImage("blank image", "nothing shows where this domain looks") from None
        raise
    finally:
        set_track_meta(tracking)


def _crops_to_nothing(image: Any, domain: str) -> bool:
    from monai.transforms import Compose

    return 0 in Compose(domains.domain(domain).crop())(image).shape


@cache
def _preparation(domain: str, size_px: int) -> Callable[[Any], Any]:
    return domains.domain(domain).prepare(size_px)


def _tiles(image: np.ndarray, tile_px: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number from 1, tile) row by row; what is left at the right and below is not used."""
    if tile_px is None:
        yield 0, image
        return
    columns = image.shape[2] // tile_px
    for row in range(image.shape[1] // tile_px):
        for column in range(columns):
            y, x = row * tile_px, column * tile_px
            yield 1 + row * columns + column, image[:, y : y + tile_px, x : x + tile_px]


def _has_tissue(tile: np.ndarray) -> bool:
    return float(tile.mean(axis=0).std()) >= FLAT_TILE


def _patient(path: Path, entry: Entry) -> str | None:
    """The table's word for the patient, else a DICOM file's own."""
    if entry.patient is None and is_dicom(path):
        from .dicom_facts import read_facts

        return read_facts(path).patient
    return entry.patient
