"""A run folder is its owner's alone, and one process's at a time; a full disk loses nothing.

    with working_in(folder):
        ...

While that lasts, whatever is made is readable for its owner only, whatever the umask; a second
process that wants to work in the folder gets an error that names the first; and a disk that is
full, or can't be written to, is said to be so. What a killed process leaves holds nobody up.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .errors import MedsynthError, StageError
from .runtime import writes

LOCK = "in_use.lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHUT = (errno.EROFS, errno.EACCES, errno.EPERM)
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large")
LEAST_FREE = 2**20  # bytes; a library that only says "could not write" met a full disk below
_held: set[Path] = set()  # by this process: its own calls may go into each other


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Work in a folder, made here if need be, alone and for its owner's eyes.

    Raises StageError where another process works in it, where its disk is full and where it can't
    be written to.
    """
    place = folder.resolve()
    if place in _held:
        yield
        return
    with _for_the_owner(), _disk_in_words(folder), _made(folder), _alone(folder):
        _held.add(place)
        try:
            yield
        finally:
            _held.discard(place)


def holds_something(folder: Path) -> bool:
    """Return True if anything but this module's own file lies in a folder."""
    return folder.exists() and any(path.name != LOCK for path in folder.iterdir())


def reserve(path: Path) -> None:
    """Give a file the room that its size asks for, or raise OSError where the disk is too full.

    A memory-mapped file whose room is missing kills the process that writes to it.
    """
    with path.open("r+b") as file:
        size = path.stat().st_size
        if size:
            os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def _for_the_owner() -> Iterator[None]:
    """Let whatever is made meanwhile be readable for nobody but its owner."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder; it goes again where what was to be done there never began."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if new:
            with suppress(OSError):
                folder.rmdir()  # only if nothing is in it


# One process at a time --------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; of several processes of one run only the first one does."""
    if not writes():
        yield
        return
    file = _lock(folder)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # first: who opens it later finds it unlinked
        file.close()


def _lock(folder: Path) -> IO[str]:
    """Return the open lock file, with this process's name in it.

    The system lets go of it when its process ends, however it does, also on other machines of a
    shared disk that knows locks (NFS 4, Lustre with flock). Where it knows none, the process that
    the file names is asked for.
    """
    path = folder / LOCK
    while True:
        file = path.open("a+")
        try:
            if not _take(file):
                raise StageError(_busy(folder, _holder(file)))
            if _is_still_there(file, path):
                return _signed(file)
        except BaseException:
            file.close()
            raise
        file.close()  # who held it took the file away meanwhile


def _take(file: IO[str]) -> bool:
    """Return True if the lock was free, and now is this process's."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return not _may_live(_holder(file))
    return True


def _signed(file: IO[str]) -> IO[str]:
    file.truncate(0)
    json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
    file.flush()
    return file


def _is_still_there(file: IO[str], path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _holder(file: IO[str]) -> dict:
    file.seek(0)
    try:
        return json.load(file)
    except ValueError:  # it has the lock, and is about to write
        return {}


def _may_live(holder: dict) -> bool:
    """Return False if the process that a lock names is known to be gone."""
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _busy(folder: Path, holder: dict) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder.get("since", time.time())))
    who = f"process {holder.get('process', '?')} on {holder.get('host', '?')}, since {since}"
    return (
        f"another medsynth works in {folder.name}/ ({who}). Two at once would spoil each other's "
        f"work: wait for it, or stop it and start again. If it is surely gone, delete "
        f"{folder.name}/{LOCK}"
    )


# A disk that is full or shut --------------------------------------------------------------------


@contextmanager
def _disk_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except MedsynthError:
        raise
    except Exception as error:
        if _is_full(error, folder):
            raise StageError(_full(folder)) from error
        if isinstance(error, OSError) and error.errno in SHUT and _is_in(error, folder):
            raise StageError(_shut(folder)) from error
        raise


def _is_full(error: BaseException, folder: Path) -> bool:
    """Return True if an error, or what it came from, is that of a full disk.

    Libraries hide the system's number: their words, or the room that is left, tell.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        if any(words in str(seen) for words in FULL_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    wrote = isinstance(error, OSError) or type(error).__name__ in (
        "RuntimeError",
        "SafetensorError",
    )
    return wrote and folder.exists() and shutil.disk_usage(folder).free < LEAST_FREE


def _is_in(error: OSError, folder: Path) -> bool:
    """Return True if an error is about a path in the folder, or about the folder itself."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    path, own = Path(error.filename).resolve(), folder.resolve()
    return path == own or own in path.parents or path in own.parents


def _full(folder: Path) -> str:
    exists = folder if folder.exists() else folder.parent
    free = shutil.disk_usage(exists).free / 2**30
    return (
        f"the disk of {folder.name}/ is full ({free:.2f} GiB free, or a quota is used up). What "
        f"was finished is whole: make room, and the same command goes on"
    )


def _shut(folder: Path) -> str:
    return (
        f"{folder.name}/ can't be written to: it is read-only here or belongs to somebody else. "
        f"Nothing was changed: give a folder of your own, or have it mounted for writing"
    )
