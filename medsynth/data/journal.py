"""What was read, file by file: a kill loses none of it, and the next ingest reads what is new.

A folder holds two files that grow side by side:

    pixels.npy     all images, one after another; its header counts them once they are all there
    files.jsonl    how files were read; then a line a file: by what it is known again, what was
                   said of it, how many images it gave, and their digest

No line names a path or a patient. What a line says counts only while its digest fits.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..runtime import canonical_json
from .original import Known

PIXELS, FILES = "pixels.npy", "files.jsonl"
SCRATCH = "read"  # one of runtime.KEPT_FOLDERS
IMAGES_AT_A_TIME = 64


@dataclass(frozen=True)
class Form:
    """How files are read (a digest of settings and versions) and what an image is (H, W, C)."""

    reading: str
    shape: tuple[int, int, int]
    dtype: str

    @property
    def image_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def head(self) -> bytes:
        """The first line of files.jsonl."""
        row = {"reading": self.reading, "shape": list(self.shape), "dtype": self.dtype}
        return canonical_json(row).encode() + b"\n"

    def header(self, images: int) -> bytes:
        """The first bytes of pixels.npy; NumPy leaves room in it for any number of images."""
        file = io.BytesIO()
        facts = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.dtype)),
            "fortran_order": False,
            "shape": (images, *self.shape),
        }
        np.lib.format.write_array_header_1_0(file, facts)
        return file.getvalue()


@dataclass(frozen=True, slots=True)
class Line:
    """One file: where its line is, why it was refused if it was, and which images are its."""

    start: int
    end: int
    reason: str
    first: int
    images: int


class Shelf:
    """A journal that is only read: files that were read before, with their images.

    It holds the lines that are still true, in their order, until the first that is not; an absent
    folder, and one whose files were read in another way, is an empty shelf.
    """

    def __init__(self, folder: Path, form: Form):
        self.folder, self.form = folder, form
        self.lines: dict[Known, Line] = {}
        self.start = 0  # where the first line of a file begins
        if (folder / PIXELS).is_file() and (folder / FILES).is_file():
            with (folder / PIXELS).open("rb") as pixels, (folder / FILES).open("rb") as files:
                self.lines = dict(self._true_lines(pixels, files))

    def facts(self, line: Line) -> dict[str, Any]:
        """Return what was said of a file."""
        with (self.folder / FILES).open("rb") as files:
            files.seek(line.start)
            return json.loads(files.read(line.end - line.start))["facts"]

    def images(self, line: Line) -> Iterator[bytes]:
        """Yield a file's images, some at a time."""
        with (self.folder / PIXELS).open("rb") as pixels:
            pixels.seek(len(self.form.header(0)) + line.first * self.form.image_bytes)
            yield from self._some_at_a_time(pixels, line.images)

    def _true_lines(self, pixels: BinaryIO, files: BinaryIO) -> Iterator[tuple[Known, Line]]:
        head, first = files.readline(), 0
        if head != self.form.head:
            return
        pixels.seek(len(self.form.header(0)))
        self.start = end = len(head)
        for text in files:
            row = _parsed(text)
            if not row or _digest(self._some_at_a_time(pixels, row["images"])) != row["digest"]:
                return
            start, end = end, end + len(text)
            line = Line(start, end, row["facts"].get("reason", ""), first, row["images"])
            yield Known(*row["known"]), line
            first += row["images"]

    def _some_at_a_time(self, pixels: BinaryIO, images: int) -> Iterator[bytes]:
        for done in range(0, images, IMAGES_AT_A_TIME):
            count = min(IMAGES_AT_A_TIME, images - done)
            yield pixels.read(count * self.form.image_bytes)


class Journal:
    """A journal that grows; opened again after a kill it goes on where it was.

    It lies in `workspace`/read until it is finished. `wanted` is what all files are known by, in
    order. Where the folder holds a beginning of just these, it is gone on with; where it holds
    others, it is put aside, and what is still of use is taken from there, as it is from the
    `earlier` folder. Lines whose reason is in `never` are of no use: such files are read again.
    """

    def __init__(
        self,
        workspace: Path,
        form: Form,
        wanted: Sequence[Known],
        *,
        earlier: Path | None = None,
        never: Sequence[str] = (),
    ):
        self.workspace, self.form, self.never = workspace, form, never
        self.folder = workspace / SCRATCH / "now"
        self._take_back()
        shelf = Shelf(self.folder, form)
        if not _is_beginning(shelf, wanted, never):
            self._put_aside()
            shelf = Shelf(self.folder, form)
        aside = sorted((workspace / SCRATCH).glob("earlier-*"))
        self.shelves = [Shelf(path, form) for path in (*aside, *filter(None, [earlier]))]
        self.here = shelf
        last = next(reversed(shelf.lines.values()), Line(0, shelf.start, "", 0, 0))
        self.count = last.first + last.images
        self._open(last.end)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.pixels.close()
        self.files.close()

    def has(self, known: Known) -> bool:
        """True if a file need not be read."""
        return known in self.here.lines or self._shelf(known) is not None

    def take(self, known: Known) -> dict[str, Any]:
        """Return what was said of a file that need not be read; its images come along."""
        if line := self.here.lines.get(known):
            return self.here.facts(line)
        shelf = self._shelf(known)
        line = shelf.lines[known]
        facts = shelf.facts(line)
        self._write(known, facts, shelf.images(line))
        return facts

    def add(self, known: Known, facts: Mapping[str, Any], images: np.ndarray | None) -> None:
        """Write down what was said of a file, and its images (n, H, W, C), if it has any."""
        nothing = images is None or not images.size
        parts = [] if nothing else [np.ascontiguousarray(images).data.cast("B")]
        self._write(known, facts, parts)

    def finish(self) -> None:
        """Count the images in the header, and move both files to the workspace itself."""
        self.pixels.seek(0)
        self.pixels.write(self.form.header(self.count))
        self.pixels.close()
        self.files.close()
        for name in (PIXELS, FILES):
            (self.folder / name).rename(self.workspace / name)
        shutil.rmtree(self.workspace / SCRATCH)

    def _shelf(self, known: Known) -> Shelf | None:
        for shelf in self.shelves:
            line = shelf.lines.get(known)
            if line is not None and line.reason not in self.never:
                return shelf
        return None

    def _write(
        self, known: Known, facts: Mapping[str, Any], parts: Iterable[bytes | memoryview]
    ) -> None:
        digest, size = hashlib.sha256(), 0
        for part in parts:
            digest.update(part)
            size += self.pixels.write(part)
        self.pixels.flush()  # first: a line stands for images that are there
        row = {
            "known": [known.key, known.size, known.mtime_ns],
            "facts": facts,
            "images": size // self.form.image_bytes,
            "digest": digest.hexdigest(),
        }
        self.files.write(canonical_json(row).encode() + b"\n")
        self.files.flush()
        self.count += row["images"]

    def _open(self, end: int) -> None:
        """Open both files behind the last line that holds; make them where they are not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        header = self.form.header(0)
        self.pixels = _cut(self.folder / PIXELS, len(header) + self.count * self.form.image_bytes)
        self.files = _cut(self.folder / FILES, end)
        if not end:
            self.pixels.seek(0)
            self.pixels.write(header)
            self.files.write(self.form.head)

    def _take_back(self) -> None:
        """Undo `finish` where the stage was killed right after it."""
        for name in (PIXELS, FILES):
            if (self.workspace / name).exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.workspace / name).replace(self.folder / name)

    def _put_aside(self) -> None:
        numbers = (int(path.name[8:]) for path in self.folder.parent.glob("earlier-*"))
        self.folder.rename(self.folder.with_name(f"earlier-{max(numbers, default=0) + 1:03d}"))


def _is_beginning(shelf: Shelf, wanted: Sequence[Known], never: Sequence[str]) -> bool:
    pairs = zip(shelf.lines, wanted, strict=False)
    useless = any(line.reason in never for line in shelf.lines.values())
    return len(shelf.lines) <= len(wanted) and all(a == b for a, b in pairs) and not useless


def _cut(path: Path, size: int) -> BinaryIO:
    """Open a file to write behind its first `size` bytes."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(0, io.SEEK_END)
    return file


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return what a line says, None where a kill or a crash of the machine cut it."""
    try:
        return json.loads(text) if text.endswith(b"\n") else None
    except ValueError:
        return None


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
