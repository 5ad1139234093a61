"""Slices of NIfTI volumes, turned as a radiologist looks at them.

Whatever the order in which a file stores its voxels, its header says where right, front and up
are. Pictures follow the radiological convention:

    axial     the patient's front above, right on the left; slices counted from the feet
    coronal   the head above, right on the left; slices counted from the back
    sagittal  the head above, the front on the left; slices counted from the left

Voxels that are not square in the plane are stretched to the finer of their two sides. Values are
seen through data.window, else through the range that the header wants shown (cal_min, cal_max),
else bytes as they are.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..protocol import Data
from .badimage import BadImage, check_size, silence
from .options import ReadOptions
from .stored import Stored, seen_through, stored

GZIP, HEADER_BYTES = b"\x1f\x8b", 352
FIRST, SECOND = b"n+1\0", b"n+2\0"  # the magic words of NIfTI-1 and -2, header and voxels together
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # which of right, front and up a slice lies across
SQUARE = 0.01  # sides that differ less than this are equal
MOST_AXES = 4


@dataclass(frozen=True)
class Volumes:
    """What a file holds: voxels (right, front, up, volume), from low to high along each.

    `sides` are a voxel's in mm; `scale` and `shift` make its stored number a value; `shown` is
    (black, white) where the header says it.
    """

    voxels: np.ndarray
    sides: np.ndarray
    scale: float
    shift: float
    shown: tuple[float, float] | None

    def across(self, plane: str) -> int:
        """Return which axis the slices of a plane lie across; a single slice lies as it lies."""
        thin = [axis for axis in range(3) if self.voxels.shape[axis] == 1]
        return thin[0] if len(thin) == 1 else AXES[plane]


def is_nifti(head: bytes, path: Path) -> bool:
    """Return True for a file with these first 352 bytes that is NIfTI, plain or gzipped."""
    if head.startswith(GZIP):
        try:
            with gzip.open(path) as file:
                head = file.read(HEADER_BYTES)
        except (OSError, EOFError, zlib.error):
            return False
    return head[344:348] == FIRST or head[4:8] == SECOND


def slices(path: Path, data: Data) -> list[int]:
    """Return the numbers of the slices that data.slice_plane and slice_step choose.

    Numbers go on through the volumes of a file with several, of which data.frame chooses one.
    Raises BadImage.
    """
    try:
        with silence():
            volumes = _open(path, data.max_pixels)
    except BadImage:
        raise
    except Exception as error:  # a damaged header may raise anything
        raise BadImage("truncated or damaged", f"header ({type(error).__name__})") from None
    count = volumes.voxels.shape[volumes.across(data.slice_plane)]
    first = _choose_volume(volumes, data.frame) * count
    if data.slice_step is None:
        return [first + count // 2]
    return list(range(first, first + count, data.slice_step))


def read_nifti(path: Path, options: ReadOptions) -> Stored:
    """Read slice number options.frame of options.plane, the middle one where it is None.

    See `readers.read_image`.
    """
    volumes = _open(path, options.max_pixels)
    axis = volumes.across(options.plane)
    count, several = volumes.voxels.shape[axis], volumes.voxels.shape[3]
    number = options.frame
    if number is None:
        number = _choose_volume(volumes, None) * count + count // 2
    if number >= count * several:
        raise BadImage("multi-frame", f"slice {number} of {count * several} was asked for")
    volume, place = divmod(number, count)
    picture = np.take(volumes.voxels[..., volume], place, axis)[::-1, ::-1].T
    sides = np.delete(volumes.sides, axis)[::-1]
    return _valued(_squared(picture, sides, options.max_pixels), volumes, options.window)


def _choose_volume(volumes: Volumes, frame: int | None) -> int:
    several = volumes.voxels.shape[3]
    if several > 1 and frame is None:
        raise BadImage("multi-frame", f"{several} volumes: choose one by data.frame")
    if (frame or 0) >= several:
        raise BadImage("multi-frame", f"frame {frame} of {several} was asked for")
    return frame or 0


# A file's voxels --------------------------------------------------------------------------------


def _open(path: Path, max_pixels: int) -> Volumes:
    state = path.stat()
    return _opened(path, max_pixels, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1)  # the slices of one volume are asked for one after another
def _opened(path: Path, max_pixels: int, size: int, changed: int) -> Volumes:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    with gzip.open(path) if packed else path.open("rb") as file:
        header = _header(file)
        shape, kind = header.get_data_shape(), header.get_data_dtype()
        if kind.kind not in "biuf":
            raise BadImage("wrong channels", "voxels that are no single numbers")
        if not 2 <= len(shape) <= MOST_AXES or min(shape) < 1:
            raise BadImage("truncated or damaged", f"{len(shape)} axes, expected 2 to {MOST_AXES}")
        shape = (*shape, 1, 1)[:MOST_AXES]
        start, count = header.get_data_offset(), int(np.prod(shape, dtype=object))
        if packed:
            check_size(count, 1, max_pixels)
            voxels = np.frombuffer(_unpacked(file, start, count * kind.itemsize), kind)
        else:
            voxels = np.memmap(path, kind, "r", start, (count,))
    return _volumes(voxels.reshape(shape, order="F"), header)


def _header(file: Any) -> Any:
    from nibabel import Nifti1Header, Nifti2Header

    kind = Nifti2Header if file.read(8)[4:] == SECOND else Nifti1Header
    file.seek(0)
    return kind.from_fileobj(file)


def _unpacked(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    file.read(1)  # at the end, the checksum is compared
    return data


def _volumes(voxels: np.ndarray, header: Any) -> Volumes:
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import apply_orientation, io_orientation

    affine = header.get_best_affine()
    turn = io_orientation(affine)
    if not np.isfinite(turn).all():
        raise BadImage("truncated or damaged", "the header does not say where right and up are")
    sides = np.empty(3)
    sides[turn[:, 0].astype(int)] = voxel_sizes(affine)
    scale, shift = header.get_slope_inter()
    black, white = float(header["cal_min"]), float(header["cal_max"])
    shown = (black, white) if white > black else None
    return Volumes(apply_orientation(voxels, turn), sides, scale or 1.0, shift or 0.0, shown)


# A slice's picture ------------------------------------------------------------------------------


def _squared(picture: np.ndarray, sides: np.ndarray, max_pixels: int) -> np.ndarray:
    """Stretch a picture (H, W) whose pixels have `sides` (down, across) until they are squares."""
    if not (np.isfinite(sides).all() and sides.min() > 0):
        sides = np.ones(2)
    height, width = np.rint(picture.shape * sides / sides.min()).astype(int).tolist()
    check_size(height, width, max_pixels)
    if sides.max() / sides.min() < 1 + SQUARE:
        return picture
    return _stretched(_stretched(picture, height).T, width).T


def _stretched(picture: np.ndarray, height: int) -> np.ndarray:
    rows = len(picture)
    places = ((np.arange(height) + 0.5) * rows / height - 0.5).clip(0, rows - 1)
    above = np.floor(places).astype(int)
    below, share = np.minimum(above + 1, rows - 1), (places - above)[:, None]
    return picture[above] * (1 - share) + picture[below] * share


def _valued(picture: np.ndarray, volumes: Volumes, window: tuple[float, float] | None) -> Stored:
    plain = (volumes.scale, volumes.shift) == (1, 0)
    window = window or volumes.shown
    if window is None and plain and volumes.voxels.dtype == np.uint8:
        return stored(picture, white=255)
    return stored(seen_through(picture * volumes.scale + volumes.shift, window), white=1)
