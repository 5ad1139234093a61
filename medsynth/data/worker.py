"""The far side of the pool: a process that reads one file after another, and may die of it.

It has a memory limit and no core dump, says nothing on the screen (a decoder's own words may quote
a header), and ends when the process that it reads for ends, even in the middle of a file.
"""

from __future__ import annotations

import importlib
import os
import pickle
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .badimage import Reason

READY = b"ready"
PICKLED = b"\x80"  # what every pickle begins with, and neither READY nor a number of seconds does
# Imported before the clock runs; where processes are forked, once and for all of them.
NEEDED = ("medsynth.data.preparation", "monai.transforms", "pydicom.pixels", "tifffile")
TOO_MUCH: Reason = "took too much memory"
GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What one file may take: seconds on the clock, and memory on top of the process's own."""

    seconds: float
    memory_gib: float


@dataclass(frozen=True)
class Lost:
    """A file whose reading came to no result: `reason` is one of badimage.REASONS."""

    reason: Reason
    detail: str = ""


def attempt(read: Callable[[Any], Any], item: Any) -> Any:
    """Return read(item), or Lost where it raises anything at all."""
    try:
        return read(item)
    except Exception as error:  # only its type: an error's own words may hold what the file says
        if isinstance(error, MemoryError) or "allocate memory" in str(error):  # torch's way
            return Lost(TOO_MUCH)
        return Lost("crashed the decoder", type(error).__name__)


def serve(
    pipe: Connection,
    read: Callable[[Any], Any],
    patience: Callable[[Any], float] | None,
    limits: Limits,
) -> None:
    """Answer each item that comes through the pipe by the pickle of read(item), until it closes.

    `patience` may grant an item other seconds than limits.seconds; they are sent first, as text.
    A file that takes too much memory is only blamed where it is the first one: after others, the
    process makes room for a new one and leaves it to that.
    """
    _settle(limits)
    first = True
    try:
        pipe.send_bytes(READY)
        while True:
            item = pipe.recv()
            _die_after(limits.seconds)
            if patience and (seconds := patience(item)) != limits.seconds:
                _die_after(seconds)
                pipe.send_bytes(str(seconds).encode())
            result = attempt(read, item)
            _die_after(None)
            if getattr(result, "reason", "") == TOO_MUCH and not first:
                return
            pipe.send_bytes(pickle.dumps(result, protocol=5))
            first = False
    except (EOFError, OSError):  # nobody listens any more
        return


def _settle(limits: Limits) -> None:
    """Become a quiet process with all that it needs, one thread and a memory limit."""
    import torch

    for name in NEEDED:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who starts the processes ends them
    torch.set_num_threads(1)  # there is a process for each core
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    if sys.platform != "win32":
        import resource

        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold patients' pixels
    if sys.platform == "linux":
        _end_with_the_parent()
        # elsewhere the system knows of no such limit
        most = _own_bytes() + int(limits.memory_gib * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _end_with_the_parent() -> None:
    """Have the system end this process when the other end of the pipe to its parent closes."""
    import fcntl

    pipe = parent_process().sentinel
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)


def _own_bytes() -> int:
    """What the libraries alone take, in the count that RLIMIT_DATA goes by."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {name: value for name, _, value in (line.partition(":") for line in lines)}
    return int(sizes["VmData"].split()[0]) * 1024


def _die_after(seconds: float | None) -> None:
    """Set an alarm well behind the deadline, or none: if nobody is left to keep the time, the
    system ends this process, whatever a decoder is doing."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5 if seconds else 0)
