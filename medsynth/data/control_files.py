"""Control maps as files: DIR/KIND/NAME.png, and controls.json, which says whose they are.

Maps whose images show patients are those patients': whatever is drawn from them is derived and
never leaves. Only maps that a program made of nobody say `synthetic`, and only as long as no file
was changed; a folder that says nothing counts as patients'.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataError
from ..runtime import digest_files, digest_json, read_json, write_bytes, write_json
from .controls import MASK, one_hot, to_classes
from .masks import by_name, read_classes, shares

SAYS = "controls.json"
Origin = Literal["synthetic", "derived"]


@dataclass(frozen=True, eq=False)
class Maps:
    """Named maps (N, K, H, W) float32 in [0, 1], and the origin of what is drawn from them."""

    names: tuple[str, ...]
    maps: np.ndarray
    origin: Origin


def channels_of(kinds: Sequence[str], values: Sequence[int]) -> list[int]:
    """Return how many channels each kind has; a mask has one for each of its `values`."""
    return [len(values) if kind == MASK else 1 for kind in kinds]


def split_kinds(
    maps: np.ndarray, kinds: Sequence[str], values: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return {kind: (N, k, H, W)} of stacked maps (N, K, H, W)."""
    ends = np.cumsum(channels_of(kinds, values))[:-1]
    return dict(zip(kinds, np.split(maps, ends, axis=1), strict=True))


def write_maps(
    folder: Path,
    names: Sequence[str],
    maps: np.ndarray,
    kinds: Sequence[str],
    *,
    values: Sequence[int] = (),
) -> None:
    """Write stacked maps (N, K, H, W) in [0, 1] as one PNG a kind and name."""
    for kind, rows in split_kinds(maps, kinds, values).items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        levels = to_classes(rows, values) if kind == MASK else np.rint(rows[:, 0] * 255)
        for name, image in zip(names, levels.astype(np.uint8), strict=True):
            write_bytes(folder / kind / f"{name}.png", _png(image))


def say_origin(folder: Path, origin: Origin) -> None:
    """Write what all maps of a folder are, bound to their bytes."""
    write_json(folder / SAYS, {"origin": origin, "maps": _digest(folder)})


def origin_of(folder: Path) -> Origin:
    """Return what images drawn from a folder's maps are; `derived` unless it says otherwise."""
    path = folder / SAYS
    said: Mapping[str, str] = read_json(path) if path.exists() else {}
    intact = said.get("maps") == _digest(folder)
    return "synthetic" if intact and said.get("origin") == "synthetic" else "derived"


def read_maps(
    folder: Path, kinds: Sequence[str], *, values: Sequence[int] = (), size_px: int
) -> Maps:
    """Read maps of these kinds in this order, brought to size_px by areas.

    Raises DataError where a kind is missing, names differ between kinds, or a map is not square.
    """
    files = {kind: by_name(_kind_folder(folder, kind, alone=len(kinds) == 1)) for kind in kinds}
    names = [sorted(paths) for paths in files.values()]
    if any(other != names[0] for other in names):
        raise DataError(f"{folder.name}/: expected the same names in {' and '.join(kinds)}")
    rows = [
        np.concatenate([_read(files[kind][name], kind, values, size_px) for kind in kinds])
        for name in names[0]
    ]
    return Maps(tuple(names[0]), np.stack(rows), origin_of(folder))


def _kind_folder(folder: Path, kind: str, *, alone: bool) -> Path:
    inner = folder / kind
    if not inner.is_dir() and not alone:
        raise DataError(f"{folder.name}/: expected a folder {kind}/ with maps of this kind")
    return inner if inner.is_dir() else folder


def _read(path: Path, kind: str, values: Sequence[int], size_px: int) -> np.ndarray:
    levels = read_classes(path)
    if levels.shape[0] != levels.shape[1]:
        raise DataError(f"expected square maps, got {levels.shape[1]} x {levels.shape[0]} px")
    maps = one_hot(levels[None], values)[0] if kind == MASK else levels[None] / np.float32(255)
    return shares(maps, size_px).astype(np.float32) / 255


def _digest(folder: Path) -> str:
    return digest_json(digest_files(folder, skip=(SAYS,)))


def _png(image: np.ndarray) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    return data.getvalue()
