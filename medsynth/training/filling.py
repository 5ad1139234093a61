"""An array on disk that several processes fill together, each its own blocks of columns.

Whoever opens it afterwards maps it into memory. A folder that all processes see holds it once; the
mark beside it says that it is whole, so that what was killed later does not fill it again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..ownership import reserve
from ..runtime import ranks, wait_for_everyone, write_bytes, writes

Compute = Callable[[slice], np.ndarray]
"""Some columns -> (V, n, ...) float32, the same each time."""


def fill(path: Path, count: int, compute: Compute, *, block: int) -> np.ndarray:
    """Return (V, count, ...) float32, mapped from `path`, that `compute` gives `block` columns of
    at a time.

    Of several processes each computes every n-th block, and all must be here.
    """
    mark = path.with_suffix(".whole")
    if not mark.exists():
        rank, world = ranks()
        blocks = [slice(start, min(start + block, count)) for start in range(0, count, block)]
        own = (blocks or [slice(0, 0)])[rank::world]
        first = compute(own[0]) if own else None
        if writes():
            shape = (len(first), count, *first.shape[2:])
            np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
            reserve(path)
        wait_for_everyone()
        for number, columns in enumerate(own):
            _write(path, columns, compute(columns) if number else first)
        wait_for_everyone()
        if writes():
            write_bytes(mark, b"")
    wait_for_everyone()
    return np.load(path, mmap_mode="c")  # torch warns of what it can not write to


def _write(path: Path, columns: slice, made: np.ndarray) -> None:
    """Write columns by plain writes: what several machines map at once may lose some."""
    whole = np.load(path, mmap_mode="r")
    row, start = whole.strides[1], whole.offset
    with path.open("r+b") as file:
        for number, values in enumerate(made):
            file.seek(start + number * whole.strides[0] + columns.start * row)
            file.write(np.ascontiguousarray(values, np.float32).tobytes())
