"""Contact sheets: so many images of a cohort as a page can hold, whatever the cohort's size.

A page holds all that it shows, so it shows a bounded choice: FIRST images large enough to look at,
and more of them small, by the page. Nobody picks: they are spread evenly over the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..pictures import grid_png
from .pictures import marks
from .wording import count

SHEETS, A_SHEET, COLUMNS = 8, 48, 8
MOST_SHOWN = SHEETS * A_SHEET
FIRST_PX, MORE_PX = 128, 64  # an image's side at most, on the first sheet and on the others
ENLARGED_PX = 96  # images smaller than that are enlarged by whole numbers


class Panel(NamedTuple):
    """A picture with its words: `png` are the bytes of a PNG file, `more` are (words, bytes) of
    further ones that a reader opens one by one."""

    heading: str
    caption: str
    png: bytes
    more: tuple[tuple[str, bytes], ...] = ()


def contact_sheets(
    heading: str, images: Sequence[np.ndarray], *, of: int, what: str, synthetic: bool
) -> Panel:
    """Lay images (H, W, 1 or 3), at most MOST_SHOWN, out in sheets that each go over all of them.

    `images` are spread over the `of` that there are (see `spread`); `what` says whose they are, as
    in "48 of 1,000 images of the cohort". `synthetic` puts the marks of synthetic images into the
    files.
    """
    sheets = max(1, -(-len(images) // A_SHEET))
    parts = [images[start::sheets] for start in range(sheets)]
    first, *more = (
        sheet_png(part, FIRST_PX if i == 0 else MORE_PX, synthetic=synthetic)
        for i, part in enumerate(parts)
    )
    caption = (
        f"{len(parts[0]):,} of {count(of, 'image')} {what}, spread evenly and not chosen by hand."
    )
    words = [
        f"{len(part)} others, smaller (sheet {i} of {sheets})" for i, part in enumerate(parts, 1)
    ]
    return Panel(heading, caption, first, tuple(zip(words[1:], more, strict=True)))


def spread(images: int, shown: int) -> np.ndarray:
    """Return up to `shown` numbers of images, spread evenly from the first to the last."""
    return np.unique(np.linspace(0, images - 1, min(images, shown)).astype(int))


def sheet_png(images: Sequence[np.ndarray], most_px: int, *, synthetic: bool) -> bytes:
    """Lay images out in rows of eight, reduced to `most_px` and enlarged to ENLARGED_PX at least
    where that leaves them under it."""
    small = [reduced(image, most_px) for image in images]
    scale = max(1, min(ENLARGED_PX, most_px) // max(small[0].shape[:2]))
    return grid_png(
        np.stack(small), columns=COLUMNS, scale=scale, marks=marks() if synthetic else None
    )


def reduced(image: np.ndarray, most_px: int) -> np.ndarray:
    """Return an image (H, W, C) uint8 or uint16 with no side above `most_px`, as 8 bits."""
    from PIL import Image

    eight = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else np.asarray(image)
    longest = max(eight.shape[:2])
    if longest <= most_px:
        return eight
    height, width = (max(1, round(side * most_px / longest)) for side in eight.shape[:2])
    picture = Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX)).reshape(
        height, width, eight.shape[2]
    )
