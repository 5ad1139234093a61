"""A raw folder to a folder of the same images without identity: the command `deidentify`.

    OUT/                  images under pseudonyms, audit.csv, deidentified.json
    OUT.key               the secret that pseudonyms and UIDs follow; it stays where it is
    OUT.quarantine.csv    the files that were refused, by their names; it stays, too

A file is written once and never again: the same command takes what is missing.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..cohort import csv_line
from ..errors import DataError
from ..ownership import holds_something
from ..protocol import Data, Deidentify, Protocol
from ..runtime import digest_json, read_json, write_json, write_text
from .run import Progress, silent

if TYPE_CHECKING:
    from ..data.deidentified import Deidentifying, Done
    from ..data.worker import Lost

WRITTEN = "written"
FACTS, AUDIT = "deidentified.json", "audit.csv"
AUDIT_START = ("source", "file", "outcome")


@dataclass(frozen=True)
class Deidentified:
    """What a call did, as deidentified.json says it: `files` there were, `written` are there now,
    of which `new` by this call; `reasons` counts why others were refused."""

    files: int
    written: int
    new: int
    refused: int
    reasons: dict[str, int]
    ignored: int

    @property
    def summary(self) -> str:
        """A sentence or two for people."""
        text = f"{self.written} of {self.files} images are there without identity, {self.new} new."
        if self.refused:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
            text += f" {self.refused} were refused ({reasons})."
        return text


def deidentify(
    raw: Path,
    out: Path,
    study: Protocol | None = None,
    *,
    key: Path | None = None,
    progress: Progress = silent,
    workers: int | None = None,
) -> Deidentified:
    """Write all images of `raw` into `out` without identity; nothing there is overwritten.

    `study` gives its data and deidentify sections, else their defaults hold. `key` is the file of
    the secret, made where it is absent. Raises DataError where `out` was not made by the same
    settings and secret.
    """
    from ..data.deidentified import Deidentifying
    from ..data.deidentify import read_or_make_secret
    from ..data.text import check_installed

    data, settings = (study.data, study.deidentify) if study else (Data(), Deidentify())
    check_installed(settings)
    _check_folders(raw, out)
    secret = read_or_make_secret(key or _beside(out, ".key"))
    _open(out, secret, settings)
    paths, ignored = _images(raw)
    writing = Deidentifying(raw, out, data, settings, secret)
    table = _Audit(out)
    try:
        refused = list(_go_on(writing, paths, table, progress, workers))
    finally:
        table.close()
    write_text(_beside(out, ".quarantine.csv"), _quarantine(refused))
    done = _describe(paths, ignored, refused, table)
    write_json(out / FACTS, {**read_json(out / FACTS), **vars(done)})
    return done


def _go_on(
    writing: Deidentifying,
    paths: list[str],
    table: _Audit,
    progress: Progress,
    workers: int | None,
) -> Iterator[tuple[str, Done | Lost]]:
    """Write what is not there yet; yield what was refused."""
    from ..data.deidentified import Done
    from ..data.pool import read_all
    from ..data.worker import Limits

    missing = [path for path in paths if not table.has(writing.source(path))]
    seconds = writing.data.max_seconds * writing.patience
    limits = Limits(seconds, writing.data.max_memory_gib)
    results = read_all(writing, missing, limits=limits, workers=workers)
    for number, (path, done) in enumerate(zip(missing, results, strict=True), start=1):
        table.add(writing.source(path), done if isinstance(done, Done) else Done(done.reason))
        if done.reason:
            yield path, done
        progress("deidentify", number / len(missing))


def _check_folders(raw: Path, out: Path) -> None:
    if not raw.is_dir():
        raise DataError(f"expected a folder of images, {raw.name} is none")
    inside, outside = raw.resolve(), out.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        raise DataError("neither of RAW and OUT may lie in the other")
    if holds_something(out) and not (out / FACTS).exists():
        raise DataError(f"{out.name} holds something else already: choose a new folder")


def _open(out: Path, secret: bytes, settings: Deidentify) -> None:
    """Make `out`, or check that it was made with the same secret and settings."""
    from ..data.deidentify import pseudonym

    made_with = {
        "medsynth": __version__,
        "settings": digest_json(settings.model_dump(mode="json")),
        "key": pseudonym(secret, "source", "the key itself"),
    }
    out.mkdir(parents=True, exist_ok=True)
    if not (out / FACTS).exists():
        write_json(out / FACTS, made_with)
    before = read_json(out / FACTS)
    changed = [name for name, value in made_with.items() if before.get(name) != value]
    if changed:
        raise DataError(
            f"{out.name} was made with another {' and '.join(changed)}: choose a new folder, or "
            f"go on as it was begun"
        )


def _images(raw: Path) -> tuple[list[str], int]:
    """List the images of a folder by their names, and count its other files.

    Pictures that belong to a whole slide are no images of their own: one of them shows its label.
    """
    from ..data.layouts.walk import is_image_name, walk
    from ..data.readers import is_dicom
    from ..data.slide_files import parts_of_slides

    found = list(walk(raw))
    images = [path for path in found if is_image_name(raw, path)]
    parts = parts_of_slides(raw, [path for path in images if not is_dicom(raw / path)])
    images = [path for path in images if path not in parts]
    return images, len(found) - len(images)


class _Audit:
    """audit.csv, a line a file: what was taken out, in counts; `source` is a keyed hash."""

    def __init__(self, out: Path):
        from ..data.confidentiality import Audit

        self.names = tuple(field.name for field in fields(Audit))
        self.header = (*AUDIT_START, *self.names)
        self.out, self.rows, self.new = out, {}, 0
        for row in self._read():
            if len(row) == len(self.header) and row[2] == WRITTEN and (out / row[1]).is_file():
                self.rows[row[0]] = row
        self._write_all()
        self.file = (out / AUDIT).open("a", encoding="utf-8", newline="")

    def has(self, source: str) -> bool:
        return source in self.rows

    def add(self, source: str, done: Done) -> None:
        audit = vars(done.audit) if done.audit else {}
        cells = [audit.get(name, "") for name in self.names]
        shown = ["; ".join(cell) if isinstance(cell, tuple) else str(cell) for cell in cells]
        self.rows[source] = [source, done.file, done.reason or WRITTEN, *shown]
        self.new += not done.reason
        self.file.write(csv_line(self.rows[source]))
        self.file.flush()

    def close(self) -> None:
        """Sort the lines, so that it does not matter in how many calls they came."""
        self.file.close()
        self._write_all()

    def _read(self) -> list[list[str]]:
        path = self.out / AUDIT
        return list(csv.reader(io.StringIO(path.read_text()))) if path.exists() else []

    def _write_all(self) -> None:
        rows = [self.header, *(self.rows[source] for source in sorted(self.rows))]
        write_text(self.out / AUDIT, "".join(map(csv_line, rows)))


def _quarantine(refused: list[tuple[str, Any]]) -> str:
    from ..data.account import written

    rows = [(written(path), done.reason, done.detail) for path, done in refused]
    return "".join(map(csv_line, [("path", "reason", "detail"), *rows]))


def _describe(paths: list[str], ignored: int, refused: list, table: _Audit) -> Deidentified:
    reasons = Counter(done.reason for _, done in refused)
    written = sum(row[2] == WRITTEN for row in table.rows.values())
    return Deidentified(
        files=len(paths),
        written=written,
        new=table.new,
        refused=len(refused),
        reasons=dict(sorted(reasons.items())),
        ignored=ignored,
    )


def _beside(out: Path, suffix: str) -> Path:
    return out.with_name(out.name + suffix)
