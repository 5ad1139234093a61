"""A long piece of work in blocks: several processes divide it, and finished blocks outlive a kill.

Each process does every n-th block and puts what it found into a folder that all of them see; when
all are done, everybody reads everything. A block depends on nothing but itself, so the number of
processes, a kill and a new start change no byte of what comes out. The files hold distances of
single images: the folder is the owner's alone and goes when the stage is whole.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..runtime import ranks, wait_for_everyone, write_bytes

Arrays = Mapping[str, np.ndarray]
Compute = Callable[[Callable[[float], None]], Arrays]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Block:
    """Some of the work: what it is a part of, and how it is done.

    `compute(progress)` tells the share that is done and returns arrays by name; it is the same
    each time.
    """

    part_of: str
    compute: Compute


def work_off(
    blocks: Sequence[Block], folder: Path | None, key: str, progress: Progress
) -> list[Arrays]:
    """Return what all blocks found, in order.

    Those that an earlier start with the same `key`, a digest of all that the blocks depend on,
    left in `folder` are not computed again. Without a folder each process does all of them.
    `progress` is told (what, share) of this process's own blocks.
    """
    if folder is None:
        return [_compute(block, told) for block, told in _listening(blocks, progress)]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = [folder / f"{key[:16]}-{number:06d}.npz" for number in range(len(blocks))]
    rank, world = ranks()
    own = _listening(blocks[rank::world], progress)
    for path, (block, told) in zip(paths[rank::world], own, strict=True):
        if path.exists():
            told(1.0)
        else:
            _write(path, _compute(block, told))
    wait_for_everyone()
    return [_read(path) for path in paths]


def _listening(blocks: Sequence[Block], progress: Progress):
    """Yield each block, and how it tells its share: as a share of all of the same part."""
    totals, before = Counter(block.part_of for block in blocks), Counter()
    for block in blocks:
        what = block.part_of
        yield block, functools.partial(_tell, progress, what, before[what], totals[what])
        before[what] += 1


def _compute(block: Block, told: Callable[[float], None]) -> Arrays:
    found = block.compute(told)
    told(1.0)
    return found


def _tell(progress: Progress, what: str, before: int, total: int, share: float) -> None:
    progress(what, (before + share) / total)


def _write(path: Path, found: Arrays) -> None:
    file = io.BytesIO()
    np.savez(file, **found)
    write_bytes(path, file.getvalue())


def _read(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
