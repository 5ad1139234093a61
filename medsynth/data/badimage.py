"""What can be wrong with an image file, in a closed list of words for people."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from ..errors import DataError

Reason = Literal[
    "missing file",
    "empty file",
    "not an image",
    "truncated or damaged",
    "decompression bomb",
    "NaN or infinite values",
    "undeclared range",
    "unknown scale",
    "wrong channels",
    "blank image",
    "too small",
    "multi-frame",
    "codec missing",
    "raw detector data",
    "burned-in annotation",
    "text in the image",
    "no tissue",
    "outside the folder",
    "took too long",
    "took too much memory",
    "crashed the decoder",
]
REASONS: tuple[str, ...] = get_args(Reason)

BLANK = 1 / 255  # an image whose values span less is blank: not one grey level at 8 bits
CHATTY = (
    "pydicom",
    "pylibjpeg",
    "openjpeg",
    "rle",
    "jpeg_ls",
    "tifffile",
    "nibabel.global",
    "PIL.Image",
    "PIL.PngImagePlugin",
    "PIL.TiffImagePlugin",
    "PIL.ImageFile",
)


class BadImage(DataError):
    """One image file can't be used: `reason` is one of REASONS, `detail` says more.

    Neither holds a path, a tag's value or a pixel, so both may be written anywhere.
    """

    def __init__(self, reason: Reason, detail: str = ""):
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)

    def __reduce__(self) -> tuple:  # so that a worker process can hand it back
        return type(self), (self.reason, self.detail)


@contextmanager
def silence() -> Iterator[None]:
    """Keep the decoders' warnings and logs away: they quote tag values, so they may name people."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:  # a level would empty every logger's cache, which takes milliseconds
        logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Raise BadImage where a header declares no pixels, or more than `max_pixels`."""
    if height < 1 or width < 1:
        raise BadImage("truncated or damaged", "the header declares no pixels")
    if height * width > max_pixels:
        raise BadImage(
            "decompression bomb",
            f"{width} x {height} pixels declared, data.max_pixels is {max_pixels}",
        )
