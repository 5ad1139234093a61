"""DICOM's lookup tables, of grey and of palettes: bytes and three numbers to values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .badimage import BadImage

LONGEST = 2**16


@dataclass(frozen=True)
class Table:
    """A lookup table: `entries` from the value `first` on, each from 0 to `white`."""

    first: int
    white: int
    entries: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Look values up; those beyond an end get the entry at that end (PS3.3 C.11.1.1)."""
        index = np.rint(values).astype(np.int64) - self.first
        return self.entries[np.clip(index, 0, len(self.entries) - 1)]


def read_table(data: Any, descriptor: Any, *, signed: bool, big_endian: bool = False) -> Table:
    """Build a table from LUT Data and LUT Descriptor: (entries, 0 for 2^16; first value; bits).

    `signed` says whether the values that are looked up may be negative: some writers store a
    negative first value as if it were unsigned. Raises BadImage where the data does not fit.
    """
    length, first, bits = (int(number) for number in descriptor)
    length = length or LONGEST
    first -= LONGEST if signed and first >= LONGEST // 2 else 0
    entries = _entries(data, length, bits, big_endian)[:length]
    if not 1 <= bits <= 16 or len(entries) < length:
        raise BadImage("truncated or damaged", "a lookup table is incomplete")
    white = 2**bits - 1
    if entries.max() > white:
        raise BadImage("undeclared range", "a lookup table goes beyond the bits that it declares")
    return Table(first, white, entries)


def _entries(data: Any, length: int, bits: int, big_endian: bool) -> np.ndarray:
    if not isinstance(data, bytes):
        return np.atleast_1d(np.asarray(data))
    if bits <= 8 and len(data) <= length + length % 2:
        return np.frombuffer(data, np.uint8)
    return np.frombuffer(data[: len(data) // 2 * 2], ">u2" if big_endian else "<u2")


def is_big_endian(dataset: Any) -> bool:
    """Return True if a dataset that was read from a file stores the high byte first."""
    return dataset.original_encoding[1] is False


def is_signed(dataset: Any) -> bool:
    """Return True if a dataset's stored values may be negative."""
    return int(dataset.get("PixelRepresentation") or 0) == 1
