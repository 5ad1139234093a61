"""A file of the raw folder before it is opened: whether it may be, and by what it is known again.

What lies outside of the folder is not read, whatever link leads there, and what is no file (a
pipe, a socket, a device) is never opened, for that may wait for ever.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..runtime import canonical_json
from .badimage import BadImage
from .deidentify import pseudonym
from .layouts import Entry
from .layouts.walk import is_hidden
from .preparation import File
from .worker import TOO_MUCH

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Look:
    """What a file looks like from outside; it is taken for unchanged while this is the same."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Known:
    """By what one image of a file is known again: a keyed hash of where it is, and the look."""

    key: str
    size: int
    mtime_ns: int


def look_over(raw: Path) -> str:
    """Digest what a raw folder looks like: names, sizes and times of what is not hidden in it.

    It opens nothing; a hundred thousand files take about a second.
    """
    digest = hashlib.sha256()
    folders = [""]
    while folders:
        inside = folders.pop()
        with os.scandir(os.path.join(raw, inside)) as found:  # noqa: PTH118
            items = sorted(found, key=lambda item: item.name)
        for item in items:
            if is_hidden(item.name, folder=item.is_dir(follow_symlinks=False)):
                continue
            if item.is_dir(follow_symlinks=False):
                folders.append(f"{inside}{item.name}/")
            digest.update(canonical_json([inside, item.name, *_seen(item)]).encode())
    return digest.hexdigest()


def _seen(item: os.DirEntry) -> list[int]:
    """A file's size and time; nothing for what is none: what a folder's time says is not of it."""
    try:
        status = item.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns] if stat.S_ISREG(status.st_mode) else []


def look_at(raw: Path, path: str) -> Look:
    """Look at a file without opening it. Raises BadImage where it must not be opened."""
    place = os.path.join(raw, path)  # noqa: PTH118  pathlib would fold a part of it away
    try:
        if not _is_inside(os.path.realpath(place), os.path.realpath(raw)):
            raise BadImage("outside the folder", "a link leads there: bring the files themselves")
        status = os.stat(place)  # noqa: PTH116
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise BadImage("missing file", type(error).__name__) from None
    if not stat.S_ISREG(status.st_mode):
        raise BadImage("not an image", KINDS.get(stat.S_IFMT(status.st_mode), "not a file"))
    return Look(status.st_size, status.st_mtime_ns)


def known_by(secret: bytes, entry: Entry, look: Look) -> Known:
    """Return by what an entry is known again: its own place, and its file's look.

    Whether a table names the patient counts too, for where none does the file is asked.
    """
    place = canonical_json([entry.path, entry.member, entry.patient is None])
    return Known(pseudonym(secret, "source", place), look.size, look.mtime_ns)


def _is_inside(place: str, folder: str) -> bool:
    return place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)


@dataclass(frozen=True)
class Steady:
    """Reads an entry and says how its file looked, if it stayed the same from start to end.

    Raises MemoryError where reading took too much, whoever noticed.
    """

    raw: Path
    read: Callable[[Entry], File]

    def __call__(self, entry: Entry) -> tuple[Look | None, File]:
        try:
            before = look_at(self.raw, entry.path)
            for _ in range(2):
                file = self.read(entry)
                if file.reason == TOO_MUCH:  # whose fault it is, a fresh process tells
                    raise MemoryError
                after = look_at(self.raw, entry.path)
                if after == before:
                    return after, file
                before = after
        except BadImage as error:  # it went away meanwhile
            return None, File(reason=error.reason, detail=error.detail)
        return None, File("truncated or damaged", "it changed while it was read")
