"""How a file is to be read: what the protocol says, in the form that every reader takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReadOptions:
    """What every reader is told.

    `max_pixels` bounds height x width as the file's header declares them, and is checked before
    anything is unpacked. `frame` chooses from a file with several frames, pages, slices or images,
    counted from 0; None refuses such files. `window` is (black, white) for files that declare no
    range of values. `for_processing` takes raw detector data too, `burned_in` files that declare
    text in their pixels, which must then be looked for. `least_px` allows an image that is reduced
    while it is unpacked, as long as its short side keeps at least so many pixels; None asks for all
    of them. `plane` is how volumes are sliced.
    """

    max_pixels: int
    frame: int | None = None
    window: tuple[float, float] | None = None
    for_processing: bool = False
    burned_in: bool = False
    least_px: int | None = None
    plane: Literal["axial", "coronal", "sagittal"] = "axial"
