"""Masks that lie in files, brought to where the images of a run are.

A mask belongs to the image of the same name and is cropped as that one was. Its values are
classes, 0 is background; at the run's size a class is the share of each pixel that it covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import domains
from ..cohort import Record
from ..errors import DataError
from ..protocol import Protocol
from .controls import one_hot
from .deidentify import pseudonym
from .options import ReadOptions
from .readers import read_image, to_channels

MOST_CLASSES = 32
SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".dcm")


def by_name(folder: Path) -> dict[str, Path]:
    """Return {name without its ending: path} of the image files under a folder.

    Raises DataError where there is none or two have the same name.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    names = Counter(path.stem for path in paths)
    twice = sum(count > 1 for count in names.values())
    if not paths or twice:
        said = f"{twice} names come twice" if twice else "there is no image file"
        raise DataError(f"{folder.name}/: expected one image file a name; {said}")
    return {path.stem: path for path in paths}


def read_classes(path: Path) -> np.ndarray:
    """Read a mask as (H, W) uint8 classes: a palette's numbers, or grey as it is stored.

    Raises DataError where the file is no image that Pillow opens.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            classes = np.asarray(image if image.mode in ("P", "L", "1") else image.convert("L"))
    except OSError as error:
        raise DataError(f"a mask can't be read ({type(error).__name__})") from None
    return classes.astype(np.uint8)


def values_of(masks: Sequence[np.ndarray]) -> tuple[int, ...]:
    """Return the classes in all masks, without the background 0.

    Raises DataError where there are none, or so many that these are no masks.
    """
    values = sorted(set().union(*(np.unique(mask).tolist() for mask in masks)) - {0})
    if not 1 <= len(values) <= MOST_CLASSES:
        raise DataError(
            f"expected masks with 1 to {MOST_CLASSES} classes beside the background 0, got "
            f"{len(values)}: are they JPEG, or photographs?"
        )
    return tuple(values)


def files_of(records: Sequence[Record], raw: Path, secret: bytes) -> dict[int, Path]:
    """Return {number of the record: its file under `raw`}, by the keyed hash of its path."""
    sources = {record.source: i for i, record in enumerate(records)}
    found = {}
    for path in sorted(path for path in raw.rglob("*") if path.is_file()):
        number = sources.get(pseudonym(secret, "source", path.relative_to(raw).as_posix()))
        if number is not None:
            found[number] = path
    return found


def align(
    records: Sequence[Record], raw: Path, masks: Path, secret: bytes, study: Protocol
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return which records have masks (M,), these (M, K, H, W) uint8 shares, 255 for all of a
    pixel, and the values (K,) of their classes.

    Raises DataError where images were cut into tiles, none has a mask, or masks are images too.
    """
    if study.image.tile_px is not None:
        raise DataError("masks of images that were cut into tiles can't be used yet")
    named, files = by_name(masks), files_of(records, raw, secret)
    there = {i: (path, named[path.stem]) for i, path in files.items() if path.stem in named}
    if any(masks.resolve() in path.resolve().parents for path, _ in there.values()):
        raise DataError(
            f"{masks.name}/ was read as images, too: move the masks out of {raw.name}/, or list "
            f"the images in a table"
        )
    if not there:
        raise DataError(
            f"no image of this run that lies in {raw.name}/ has a mask of its name in {masks.name}/"
        )
    classes = {i: read_classes(mask) for i, (_, mask) in there.items()}
    values = values_of(list(classes.values()))
    data = study.data
    options = ReadOptions(data.max_pixels, data.frame, data.window, data.for_processing)
    ready = [
        bring(classes[i], values, read_image(path, options), study)
        for i, (path, _) in there.items()
    ]
    return np.array(list(there), np.int64), np.stack(ready), values


def bring(
    classes: np.ndarray, values: Sequence[int], image: np.ndarray, study: Protocol
) -> np.ndarray:
    """Return one mask (H, W) cropped as its image (C, H, W) is: (K, size, size) uint8 shares.

    Raises DataError where mask and image differ in size.
    """
    if classes.shape != image.shape[1:]:
        raise DataError(
            f"expected a mask as large as its image, {image.shape[2]} x {image.shape[1]} px, got "
            f"{classes.shape[1]} x {classes.shape[0]}"
        )
    domain = domains.domain(study.domain)
    maps = one_hot(classes[None], values)[0]
    return shares(crop_like(to_channels(image, domain.channels), maps, domain), study.image.size_px)


def shares(maps: np.ndarray, size_px: int) -> np.ndarray:
    """Return maps (K, H, W) in [0, 1] as (K, size_px, size_px) uint8, by areas."""
    import torch

    small = domains.area_mean(torch.from_numpy(np.ascontiguousarray(maps)), size_px)
    return np.rint(small.clip(0, 1).numpy() * 255).astype(np.uint8)


def crop_like(image: np.ndarray, maps: np.ndarray, domain: domains.Domain) -> np.ndarray:
    """Return maps (K, H, W) cropped and padded with 0 as the domain crops the image (C, H, W)."""
    import torch
    from monai.data import MetaTensor, get_track_meta, set_track_meta
    from monai.transforms import Compose

    tracking = get_track_meta()
    set_track_meta(True)
    try:
        cropped = Compose(domain.crop())(MetaTensor(torch.from_numpy(image)))
    finally:
        set_track_meta(tracking)
    affine = getattr(cropped, "affine", torch.eye(4)).numpy()
    top, left = (round(float(affine[axis, -1])) for axis in (0, 1))
    height, width = cropped.shape[1:]
    room = max(height, width, *maps.shape[1:])
    padded = np.pad(maps, ((0, 0), (room, room), (room, room)))
    return padded[:, room + top : room + top + height, room + left : room + left + width]
