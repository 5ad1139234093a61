"""Whole slides to tiles of tissue: SVS, NDPI, pyramidal TIFF, MIRAX, DICOM, whatever OpenSlide
reads.

    grid of tiles at the asked scale -> overview -> tissue -> draw at random -> read -> check

Of a slide only the plane of tissue is read: its pixels, their size in micrometres and the bounds
of what was scanned. The label, the macro image (which shows the label) and all that the scanner
noted (names, dates, barcodes, serial numbers) are never asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import protocol
from .badimage import BadImage, check_size
from .slide_files import open_slide
from .tissue import is_blurred, pen_mask, tissue_mask

if TYPE_CHECKING:
    import openslide
    from PIL.Image import Image

SCALE_TOLERANCE = 0.02  # what a scanner says of its own scale is not known any better
LEVEL_TOLERANCE = 0.005  # levels are shrunk by 4.0003, as their sides are whole numbers
OVERVIEW_PX = 2_000_000
CELLS = (16, 8, 4, 2, 1)  # overview pixels along a tile's side, as many as OVERVIEW_PX allows
STRIP_PX = 4_000_000  # how much is unpacked at once for the overview
MOST_TILES = 10_000_000
SPECK = 1 / 4  # of a tile's area: less tissue than this on glass, or glass in tissue, is none
PEN_SHARE = 0.05  # of a tile: more is a mark


@dataclass(frozen=True)
class Grid:
    """Tiles side by side from a slide's upper left corner, numbered from 1 row by row.

    `pitch` is a tile's width and height in pixels of the finest level. Of `rows` and `columns`
    only a window was scanned: `down` rows from `top` on, `across` columns from `left` on.
    """

    pitch: tuple[float, float]
    rows: int
    columns: int
    top: int
    left: int
    down: int
    across: int

    def box(self, row: int, column: int, down: int = 1, across: int = 1) -> tuple[float, ...]:
        """Return x, y, width and height of a block of tiles, which starts at a row and column of
        the window."""
        width, height = self.pitch
        x, y = (self.left + column) * width, (self.top + row) * height
        return x, y, across * width, down * height

    def numbers(self) -> np.ndarray:
        """Return the numbers of the window's tiles, (down, across)."""
        rows, columns = self.top + np.arange(self.down), self.left + np.arange(self.across)
        return 1 + np.add.outer(rows * self.columns, columns)

    def place(self, number: int) -> tuple[int, int]:
        """Return the window's row and column of a number."""
        row, column = divmod(number - 1, self.columns)
        return row - self.top, column - self.left


def read_tiles(
    path: Path,
    image: protocol.Image,
    slides: protocol.Slides,
    seed: int,
    *,
    max_pixels: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, tile) of a slide's tissue, tiles (3, tile_px, tile_px) float32 in [0, 1].

    A tile's number depends on the slide's size and scale alone. Which tiles are drawn depends on
    those and `seed`, so that a copy of a slide in another format gives the same ones; a tile that
    is refused makes way for the next one drawn. `max_pixels` bounds a tile as it is unpacked, and
    the level that the overview is made from.
    Raises BadImage: no tissue left, no scale or too coarse a one, damaged, extra missing.
    """
    with open_slide(path) as slide, _damage_said():
        tile_px = image.tile_px or image.size_px
        grid = lay_grid(slide, tile_px, slides.um_per_px, max_pixels=max_pixels)
        overview = read_overview(slide, grid, max_pixels=max_pixels)
        candidates = grid.numbers()[_is_clean_tissue(overview, grid, slides)]
        order = _shuffle(candidates, grid, seed)
        yield from _read_in_turn(slide, grid, order, image, slides)


def lay_grid(
    slide: openslide.OpenSlide, tile_px: int, um_per_px: float | None, *, max_pixels: int
) -> Grid:
    """Lay tiles of tile_px at um_per_px (None: the finest level) over what was scanned.

    Raises BadImage where the slide does not say its scale or has only a coarser one, and where
    it is smaller than a tile, or a tile unpacks to more than `max_pixels`.
    """
    pitch = tuple(tile_px * scale for scale in _scales(slide, um_per_px))
    columns, rows = (
        int(side / step + 1e-9) for side, step in zip(slide.dimensions, pitch, strict=True)
    )
    if not columns or not rows:
        raise BadImage("too small", "the slide is smaller than one tile")
    if columns * rows > MOST_TILES:
        raise BadImage("decompression bomb", f"{columns * rows} tiles declared")
    factor = slide.level_downsamples[_level(slide, pitch, (tile_px, tile_px))]
    check_size(math.ceil(pitch[1] / factor), math.ceil(pitch[0] / factor), max_pixels)
    x, y, width, height = _bounds(slide)
    left, across = _window(x, width, pitch[0], columns)
    top, down = _window(y, height, pitch[1], rows)
    return Grid(pitch, rows, columns, top, left, down, across)


def _window(start: int, length: int, step: float, count: int) -> tuple[int, int]:
    """First of `count` steps that bounds touch, and how many they touch."""
    first = min(max(int(start / step), 0), count - 1)
    last = min(max(math.ceil((start + length) / step), first + 1), count)
    return first, last - first


def read_overview(slide: openslide.OpenSlide, grid: Grid, *, max_pixels: int) -> np.ndarray:
    """Return the grid's window small, (down * cells, across * cells, 3) uint8, cells of CELLS.

    Raises BadImage where the coarsest fitting level has more than `max_pixels`.
    """
    cells = next(n for n in CELLS if n == 1 or grid.across * grid.down * n * n <= OVERVIEW_PX)
    level = _level(slide, grid.pitch, (cells, cells))
    check_size(*reversed(slide.level_dimensions[level]), max_pixels)
    unpacked = math.prod(grid.pitch) / slide.level_downsamples[level] ** 2
    step = max(1, int(math.sqrt(STRIP_PX / unpacked)))
    overview = np.empty((grid.down * cells, grid.across * cells, 3), np.uint8)
    for row in range(0, grid.down, step):
        for column in range(0, grid.across, step):
            down, across = min(step, grid.down - row), min(step, grid.across - column)
            size = (across * cells, down * cells)
            part = _read(slide, grid.box(row, column, down, across), size)
            y, x = row * cells, column * cells
            overview[y : y + size[1], x : x + size[0]] = np.asarray(part)
    return overview


def _is_clean_tissue(overview: np.ndarray, grid: Grid, slides: protocol.Slides) -> np.ndarray:
    """Which tiles are tissue for slides.tissue and not marked by a pen, (down, across) bool."""
    cells = len(overview) // grid.down
    squares = (grid.down, cells, grid.across, cells)
    tissue = tissue_mask(overview, least_px=math.ceil(SPECK * cells**2))
    clean = tissue.reshape(squares).mean(axis=(1, 3)) >= slides.tissue
    if slides.reject_pen:
        clean &= pen_mask(overview).reshape(squares).mean(axis=(1, 3)) <= PEN_SHARE
    return clean


def _shuffle(numbers: np.ndarray, grid: Grid, seed: int) -> np.ndarray:
    """Put numbers of tiles in random order.

    Every place of the grid has its rank, so that tissue found a little differently, as in a copy
    of the slide that was compressed again, changes the draw no more than that.
    """
    ranks = np.random.default_rng([seed, grid.rows, grid.columns]).random(grid.rows * grid.columns)
    return numbers[np.argsort(ranks[numbers - 1])]


def _read_in_turn(
    slide: openslide.OpenSlide,
    grid: Grid,
    order: np.ndarray,
    image: protocol.Image,
    slides: protocol.Slides,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first slides.tiles good tiles in this order; each round goes row by row, for
    neighbours share what OpenSlide has unpacked."""
    tile_px, drawn, found = image.tile_px or image.size_px, len(order), 0
    wanted = slides.tiles or drawn
    while found < wanted and len(order):
        batch, order = np.sort(order[: wanted - found]), order[wanted - found :]
        for number in batch.tolist():
            tile = _read(slide, grid.box(*grid.place(number)), (tile_px, tile_px))
            if not slides.reject_blurred or _is_in_focus(tile, image.size_px):
                found += 1
                yield number, _to_array(tile)
    if not found:
        raise BadImage("no tissue", _why_none(drawn, grid, slides))


def _is_in_focus(tile: Image, size_px: int) -> bool:
    """Whether a tile is sharp at the size at which it will be kept."""
    grey, shrink = tile.convert("L"), tile.width // size_px
    return not is_blurred(np.asarray(grey.reduce(shrink) if shrink > 1 else grey))


def _why_none(drawn: int, grid: Grid, slides: protocol.Slides) -> str:
    if drawn:
        return f"all {drawn} tiles with tissue are out of focus"
    clean = " without marks of a pen" if slides.reject_pen else ""
    return f"none of {grid.down * grid.across} tiles is tissue for {slides.tissue:.0%}{clean}"


# The plane of a slide ---------------------------------------------------------------------------


def _bounds(slide: openslide.OpenSlide) -> tuple[int, int, int, int]:
    """Left, top, width and height of what was scanned, in pixels of the finest level."""
    names = ("bounds-x", "bounds-y", "bounds-width", "bounds-height")
    said = [_number(slide, f"openslide.{name}") for name in names]
    if None in said:
        return 0, 0, *slide.dimensions
    return tuple(int(value) for value in said)


def _scales(slide: openslide.OpenSlide, um_per_px: float | None) -> tuple[float, float]:
    """Pixels of the finest level along one pixel of a tile, across and down; next to a whole
    number that number, so that no tile is resampled for a scanner's rounding."""
    if um_per_px is None:
        return 1.0, 1.0
    said = [_number(slide, "openslide.mpp-x"), _number(slide, "openslide.mpp-y")]
    if not all(mpp and mpp > 0 for mpp in said):
        raise BadImage("unknown scale", "the slide does not say it: set slides.um_per_px to null")
    scales = [um_per_px / mpp for mpp in said]
    if min(scales) < 1 - SCALE_TOLERANCE:
        raise BadImage(
            "too small",
            f"{max(said):.2f} um/px at its finest, slides.um_per_px asks for {um_per_px:g}",
        )
    whole = [max(1, round(scale)) for scale in scales]
    return tuple(
        float(near) if abs(scale - near) <= SCALE_TOLERANCE * near else scale
        for scale, near in zip(scales, whole, strict=True)
    )


def _number(slide: openslide.OpenSlide, name: str) -> float | None:
    try:
        value = float(slide.properties[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _level(slide: openslide.OpenSlide, extent: tuple[float, ...], size: tuple[int, int]) -> int:
    """The coarsest level that still holds `size` pixels where the finest holds `extent`."""
    shrink = min(extent[0] / size[0], extent[1] / size[1]) * (1 + SCALE_TOLERANCE)
    fitting = [n for n, factor in enumerate(slide.level_downsamples) if factor <= shrink]
    return max(fitting, default=0, key=lambda n: slide.level_downsamples[n])


def _read(slide: openslide.OpenSlide, box: tuple[float, ...], size: tuple[int, int]) -> Image:
    """Read (x, y, width, height) of the finest level as an RGB picture of this (width, height),
    averaged over areas; what was not scanned is white."""
    from PIL import Image

    level = _level(slide, box[2:], size)
    factor = slide.level_downsamples[level]
    x, y = int(box[0]), int(box[1])
    shrink = box[2] / factor / size[0], box[3] / factor / size[1]
    whole = round(shrink[0]), round(shrink[1])
    if all(abs(a - b) <= LEVEL_TOLERANCE * b for a, b in zip(shrink, whole, strict=True)):
        region = slide.read_region((x, y), level, (size[0] * whole[0], size[1] * whole[1]))
        return _on_white(region) if whole == (1, 1) else _on_white(region).reduce(whole)
    left, top = (box[0] - x) / factor, (box[1] - y) / factor
    right, bottom = left + box[2] / factor, top + box[3] / factor
    region = slide.read_region((x, y), level, (math.ceil(right), math.ceil(bottom)))
    areas = (left, top, right, bottom)
    return _on_white(region).resize(size, Image.Resampling.BOX, box=areas)


def _on_white(region: Image) -> Image:
    from PIL import Image

    if region.getchannel("A").getextrema()[0] == 255:
        return region.convert("RGB")
    white = Image.new("RGB", region.size, "white")
    white.paste(region, mask=region.getchannel("A"))
    return white


def _to_array(tile: Image) -> np.ndarray:
    array = np.empty((3, tile.height, tile.width), np.float32)
    for plane, channel in zip(array, tile.split(), strict=True):
        np.multiply(np.asarray(channel), np.float32(1 / 255), out=plane)
    return array


@contextmanager
def _damage_said() -> Iterator[None]:
    import openslide

    try:
        yield
    except openslide.OpenSlideError as error:  # its words hold paths
        raise BadImage(
            "truncated or damaged", f"it can't be unpacked ({type(error).__name__})"
        ) from None
