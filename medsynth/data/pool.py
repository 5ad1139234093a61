"""Processes that read files: all cores, a steady memory, and no file that stops the others.

Each process has a pipe of its own and few items, the one that it reads and those for the next
moment. What comes back is handed on in the items' order; at any time so few items are out, and so
few bytes held back, that memory does not grow with the number of files. Who does not answer in
time is killed; who dies is replaced, and the item that it was at is tried once more, for it may
have died of something else.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import StageError
from .worker import NEEDED, PICKLED, READY, Limits, Lost, attempt, serve

AT_ONCE = 2  # items a process has: the one that it reads, and one so that it need not wait ...
SWIFT, AT_ONCE_SWIFT = 0.01, 16  # ... and more where an item takes fewer seconds than this
AHEAD = 64  # items a process that may be out or back before their turn
HELD_BYTES = 256 * 2**20  # results held back until their turn
STARTING = 300.0  # seconds that a process may take to start
TRIES = 2
END = object()


def read_all(
    read: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    limits: Limits,
    workers: int | None = None,
    patience: Callable[[Any], float] | None = None,
) -> Iterator[Any]:
    """Yield read(item) for all items in their order, or Lost where an item can't be read.

    `workers` processes read, one a core by default; 0 reads in this process, where nothing
    can be stopped: for tests. `patience(item)` gives the seconds for one item where they are not
    limits.seconds. `read`, `patience` and items go to other processes, so they must be picklable.
    Raises StageError where no process can be started.
    """
    if workers == 0:
        yield from (attempt(read, item) for item in items)
        return
    crew = _Crew(iter(items), workers or cores(), lambda: _hire(read, patience, limits), limits)
    try:
        yield from crew.results()
    finally:
        crew.stop()


def cores() -> int:
    """Return how many processors this process may use at once, containers' quotas considered."""
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return max(1, min(len(allowed), _quota()))


def _quota(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """The processors that a control group grants, in full ones; many where it sets no limit."""
    with suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    with suppress(OSError, ValueError):
        quota, period = (
            int((folder / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        return math.ceil(quota / period) if quota > 0 else sys.maxsize
    return sys.maxsize


# One process ------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Worker:
    process: Any
    pipe: Connection
    queue: deque[int] = field(default_factory=deque)
    since: float = 0.0  # when it last said something, or was given something after it had nothing
    allowed: float = STARTING
    started: bool = False
    pace: float = math.inf  # seconds for its last item

    @property
    def room(self) -> int:
        return (AT_ONCE_SWIFT if self.pace < SWIFT else AT_ONCE) - len(self.queue)

    @property
    def deadline(self) -> float:
        return self.since + self.allowed if self.queue else math.inf

    def end(self, *, seconds: float = 0.0) -> int:
        """Make sure that it is gone, after so many seconds of its own; return its exit code."""
        self.process.join(seconds)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode
        self.pipe.close()
        self.process.close()
        return code


def _hire(read: Callable, patience: Callable | None, limits: Limits) -> _Worker:
    """Start a process that reads.

    On Linux it is forked from a server, which has imported all that it needs and, other than this
    process, has no threads; elsewhere it is started anew.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":
        context.set_forkserver_preload(list(NEEDED))
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, read, patience, limits), daemon=True)
    with _nothing_of_the_caller():
        process.start()
    there.close()  # so that this end hears of the other's death
    return _Worker(process, here, since=time.monotonic())


@contextmanager
def _nothing_of_the_caller() -> Iterator[None]:
    """Keep a new process from running the caller's script once more, as it would by default, and
    from importing what lies in the working directory, which may be the very raw folder."""
    main, safe = sys.modules["__main__"], os.environ.get("PYTHONSAFEPATH")
    sys.modules["__main__"], os.environ["PYTHONSAFEPATH"] = ModuleType("__main__"), "1"
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if safe is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe


# All of them ------------------------------------------------------------------------------------


class _Crew:
    """The processes, what each is at, and the results whose turn has not come."""

    def __init__(self, items: Iterator, size: int, hire: Callable[[], _Worker], limits: Limits):
        self.items, self.size, self.hire, self.limits = items, size, hire, limits
        self.workers: list[_Worker] = []
        self.open: dict[int, Any] = {}  # items that were taken up and are not done, by number
        self.waiting: deque[int] = deque()  # of these, those that no process has
        self.done: dict[int, bytes] = {}
        self.deaths: Counter[int] = Counter()
        self.taken = self.due = self.held = 0

    def results(self) -> Iterator[Any]:
        """Yield the results in their order."""
        while True:
            while self.due in self.done:
                message = self.done.pop(self.due)
                self.held -= len(message)
                self.due += 1
                yield pickle.loads(message)
            self._hand_out()
            if not self.open:
                return
            self._listen()

    def stop(self) -> None:
        """End all processes, whatever they are at."""
        while self.workers:
            self.workers.pop().end()

    def _hand_out(self) -> None:
        while self._has_work() and (worker := self._free_worker()):
            number = self.waiting.popleft()
            if not worker.queue and worker.started:
                worker.since = time.monotonic()
            worker.queue.append(number)
            with suppress(OSError):  # it died; that is heard of when it is listened to
                worker.pipe.send(self.open[number])

    def _has_work(self) -> bool:
        if not self.waiting and self.taken - self.due < AHEAD * self.size:
            item = next(self.items, END)
            if item is not END:
                self.open[self.taken] = item
                self.waiting.append(self.taken)
                self.taken += 1
        return bool(self.waiting)

    def _free_worker(self) -> _Worker | None:
        worker = min(self.workers, key=lambda worker: len(worker.queue), default=None)
        if (worker is None or worker.queue) and len(self.workers) < self.size:
            worker = self.hire()
            self.workers.append(worker)
        return worker if worker and worker.room > 0 else None

    def _listen(self) -> None:
        """Take in what the processes say; part with those that are dead or late."""
        heard = self._heard()
        timeout = max(0.0, min(worker.deadline for worker in heard) - time.monotonic())
        ready = wait([worker.pipe for worker in heard], min(timeout, threading.TIMEOUT_MAX))
        for worker in heard:
            if worker.pipe in ready:
                self._take_in(worker)
            elif worker.deadline <= time.monotonic():
                self._give_up(worker)

    def _heard(self) -> list[_Worker]:
        """Those that are listened to: where too much is held back, only whoever has what is due."""
        busy = [worker for worker in self.workers if worker.queue]
        if self.held < HELD_BYTES:
            return busy
        return [worker for worker in busy if self.due in worker.queue] or busy

    def _take_in(self, worker: _Worker) -> None:
        try:
            message = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        worker.pace, worker.since = time.monotonic() - worker.since, time.monotonic()
        worker.allowed = self.limits.seconds
        if message == READY:
            worker.started = True
        elif message.startswith(PICKLED):
            self._finish(worker.queue.popleft(), message)
        else:
            worker.allowed = float(message)

    def _finish(self, number: int, message: bytes) -> None:
        del self.open[number]
        self.done[number] = message
        self.held += len(message)

    def _bury(self, worker: _Worker) -> None:
        """Part with a process that died, or that made room for a new one (exit code 0)."""
        code = worker.end(seconds=5.0)
        self.workers.remove(worker)
        if not worker.started:
            raise StageError(f"a process that reads files could not start (exit code {code})")
        if code != 0:
            self.deaths[worker.queue[0]] += 1
            if self.deaths[worker.queue[0]] == TRIES:
                lost = Lost("crashed the decoder", _cause(code))
                self._finish(worker.queue.popleft(), pickle.dumps(lost))
        self.waiting.extendleft(reversed(worker.queue))

    def _give_up(self, worker: _Worker) -> None:
        if not worker.started:
            raise StageError(f"a process that reads files did not start in {STARTING:g} seconds")
        worker.end()
        self.workers.remove(worker)
        lost = Lost("took too long", f"more than {worker.allowed:g} seconds")
        self._finish(worker.queue.popleft(), pickle.dumps(lost))
        self.waiting.extendleft(reversed(worker.queue))


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"ended by {signal.Signals(-code).name}"
