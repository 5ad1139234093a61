"""Files that are arrays of many images: MedMNIST's .npz and PatchCamelyon's .h5.

An image is known by its number, counted through the file's image arrays: train, val, test, then the
others by name. One file stays open, and of it one image is in memory: a compressed array is
unpacked as a stream, so whoever asks in order unpacks it once. A known doubt: a zip archive's
checksum is of a whole array, so changed bytes that still unpack are noticed at its end only.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .badimage import BadImage, check_size
from .options import ReadOptions
from .stored import Stored, stored

PARTS = ("train", "val", "test")
MOST_IMAGES = 5_000_000
CHANNELS = (1, 3)


@dataclass(frozen=True)
class Series:
    """One array of images, (N, H, W) or (N, H, W, C), and how to get one of them by its number."""

    shape: tuple[int, ...]
    take: Callable[[int], np.ndarray]


def members(path: Path) -> dict[str, int]:
    """Return how many images each array of a .npz or .h5 file has, in the order they are counted.

    Raises BadImage where there is none, or what there is are volumes.
    """
    return {name: series.shape[0] for name, series in _open(path).items()}


def read_array(path: Path, options: ReadOptions) -> Stored:
    """Read the image of number options.frame; see `readers.read_image`."""
    everything = _open(path)
    total = sum(series.shape[0] for series in everything.values())
    if options.frame is None and total > 1:
        raise BadImage("multi-frame", f"{total} images: choose one by data.frame")
    number = options.frame or 0
    for series in everything.values():
        if number < series.shape[0]:
            check_size(*series.shape[1:3], options.max_pixels)
            return stored(series.take(number))
        number -= series.shape[0]
    raise BadImage("multi-frame", f"image {options.frame} of {total} was asked for")


def is_npz(path: Path) -> bool:
    """Return True for a zip archive of NumPy arrays and nothing else."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _open(path: Path) -> Mapping[str, Series]:
    state = path.stat()
    return _opened(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)
def _opened(path: Path, size: int, changed: int) -> Mapping[str, Series]:
    found = _npz_series(path) if zipfile.is_zipfile(path) else _h5_series(path)
    if not found:
        raise BadImage("not an image", "no array of images in it")
    if sum(series.shape[0] for series in found.values()) > MOST_IMAGES:
        raise BadImage("decompression bomb", f"more than {MOST_IMAGES} images declared")
    return {name: found[name] for name in sorted(found, key=_rank)}


def _rank(name: str) -> tuple[int, str]:
    part = name.split("_")[0]
    return (PARTS.index(part) if part in PARTS else len(PARTS), name)


def _holds_images(name: str, shape: tuple[int, ...]) -> bool:
    """True for an array whose name and shape are those of images; volumes are an error."""
    if name != "x" and not name.endswith("images"):
        return False
    if len(shape) == 3 or (len(shape) == 4 and shape[3] in CHANNELS):
        return shape[0] > 0
    raise BadImage("multi-frame", "an array of volumes, and not of images")


# .npz -------------------------------------------------------------------------------------------


def _npz_series(path: Path) -> dict[str, Series]:
    archive = zipfile.ZipFile(path)
    found = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        with archive.open(info) as file:
            shape, in_columns, kind = _npy_header(file)
            start = file.tell()
        if not _holds_images(name, shape):
            continue
        if in_columns or kind.hasobject:
            raise BadImage("not an image", "an array of objects, or in Fortran's order")
        if start + int(np.prod(shape, dtype=object)) * kind.itemsize != info.file_size:
            raise BadImage("truncated or damaged", "the array is not as long as its shape says")
        found[name] = Series(shape, _Stream(archive, info, start, shape[1:], kind).take)
    return found


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    from numpy.lib import format as npy

    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise BadImage("not an image", "an array of a NumPy version that is not known")


class _Stream:
    """One array inside a zip archive, unpacked as far as it has been asked for."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, start: int, shape, kind):
        self.archive, self.info, self.start = archive, info, start
        self.shape, self.kind = shape, kind
        self.file = None

    def take(self, number: int) -> np.ndarray:
        """Return one image; going back begins anew."""
        self.file = self.file or self.archive.open(self.info)
        count = int(np.prod(self.shape))
        self.file.seek(self.start + number * count * self.kind.itemsize)
        data = self.file.read(count * self.kind.itemsize)
        return np.frombuffer(data, self.kind, count).reshape(self.shape)


# .h5 --------------------------------------------------------------------------------------------


def _h5_series(path: Path) -> dict[str, Series]:
    try:
        import h5py
    except ImportError:
        raise BadImage("codec missing", "HDF5: pip install 'medsynth[formats]'") from None
    file = h5py.File(path, "r")
    found = {}
    for name in file:  # only what lies in this very file, and no link to another one
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            held = file[name]
            if isinstance(held, h5py.Dataset) and _holds_images(name, held.shape):
                if held.is_virtual or held.external:
                    raise BadImage("outside the folder", "HDF5 that points at another file")
                found[name] = Series(held.shape, held.__getitem__)
    return found
