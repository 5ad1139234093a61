"""How often evidence has been put before the gate, and what its tests said.

A log of lines, only ever appended to. A later attempt has a smaller level, so a rejection must
stay: else whoever draws often enough passes. Together this is a sequence of tests that spend
their level: a harmless generator is rejected at most at the rule's level over all attempts, and
one that leaks is not saved by trying again.

A run has a log of its own. Another run on the same patients is another attempt too, which only
a log of the whole site can know: where MEDSYNTH_SITE names a folder, its attempts.jsonl counts the
attempts of all runs whose real images are mostly the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StageError, StaleError

NAME, SITE = "attempts.jsonl", "MEDSYNTH_SITE"
SKETCHED = 64  # image hashes kept of a set
MOSTLY = 0.5  # sets that have this share in common are the same patients
COUNTED_HERE = (
    "Attempts were counted in this folder alone: what was tried on the same patients in others is "
    "not known here."
)
COUNTED_AT_SITE = (
    "Attempts were counted over all runs of this site on mostly the same images, at the same size."
)


@dataclass(frozen=True)
class Log:
    """A log of attempts; of a site's, which is of many sets of images, only those on sets like
    this `sketch` count."""

    path: Path
    sketch: tuple[str, ...] = ()

    @property
    def at_site(self) -> bool:
        return bool(self.sketch)


def logs(
    folder: Path, real: Sequence[np.ndarray], *, shared: Path | None = None
) -> tuple[Log, ...]:
    """Return the log of a run's folder and, where MEDSYNTH_SITE names a folder, the site's.

    `real` are sets of real images, (N, ...), read only for the site's log; without any there is
    none. `shared` is a folder that serves as the site's where MEDSYNTH_SITE is not set, for runs
    that belong together. Raises StageError where MEDSYNTH_SITE names no folder.
    """
    own = Log(folder / NAME)
    site = os.environ.get(SITE) or shared
    if not site or not real:
        return (own,)
    if not Path(site).is_dir():
        raise StageError(f"{SITE} names no folder: make it, or unset {SITE} to count by run")
    return (own, Log(Path(site) / NAME, sketch(image for images in real for image in images)))


def sketch(images: Iterable[np.ndarray]) -> tuple[str, ...]:
    """Return a set's smallest image hashes: what two sets share of them, they share of images.

    Source: Broder, On the resemblance and containment of documents (1997).
    """
    hashes = {
        hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()[:16] for image in images
    }
    return tuple(sorted(hashes)[:SKETCHED])


def alike(a: Sequence[str], b: Sequence[str]) -> float:
    """Return the share of images, 0 to 1, that two sets with these sketches have in common."""
    union = sorted({*a, *b})[:SKETCHED]
    return len({*union} & {*a} & {*b}) / max(1, len(union))


@contextmanager
def alone(found: Sequence[Log]) -> Iterator[None]:
    """Hold the site's log, so that no other run counts at the same time."""
    shared = [log.path for log in found if log.at_site]
    if not shared:
        yield
        return
    import fcntl

    with shared[0].with_name(f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def number(log: Log, evidence: str) -> int:
    """Return which attempt this evidence is, from 1; the same evidence is the same attempt.

    Raises StaleError where the log can't be trusted.
    """
    known = [row["evidence"] for row in _counted(log)]
    return known.index(evidence) + 1 if evidence in known else len(known) + 1


def record(log: Log, *, evidence: str, generator: str, rejected: bool) -> None:
    """Write an attempt down; it is on disk when this returns. What is there already stays."""
    rows = _read(log.path)
    if any(row["evidence"] == evidence for row in rows):
        return
    row = {
        "attempt": len(rows) + 1,
        "evidence": evidence,
        "generator": generator,
        "rejected": rejected,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **({"images": log.sketch} if log.at_site else {}),
    }
    _append_durably(log.path, json.dumps(row))


def rejections(log: Log, generator: str, *, besides: str = "") -> dict[str, int]:
    """Return {evidence: attempt} of what a test rejected of this generator, `besides` one."""
    return {
        row["evidence"]: attempt
        for attempt, row in enumerate(_counted(log), start=1)
        if row["generator"] == generator and row["rejected"] and row["evidence"] != besides
    }


def _counted(log: Log) -> list[dict[str, Any]]:
    rows = _read(log.path)
    if not log.at_site:
        return rows
    return [row for row in rows if alike(row.get("images", ()), log.sketch) >= MOSTLY]


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_bytes()[: _whole(path)].decode().splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        numbers = [row["attempt"] for row in rows]
        digests = {row["evidence"] for row in rows}
        complete = all({"generator", "rejected"} <= row.keys() for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError):
        numbers, digests, complete = [None], set(), False
    if numbers != list(range(1, len(digests) + 1)) or not complete:
        raise StaleError(
            f"{path.name} was changed: expected attempts 1, 2, 3 … without a gap. The gate counts "
            f"its attempts and can't go on from here: start a new run"
        )
    return rows


def _whole(path: Path) -> int:
    """Return the length in bytes of a log without a last line that a kill cut in two."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _append_durably(path: Path, line: str) -> None:
    whole = _whole(path)
    with path.open("ab") as file:
        file.truncate(whole)
        file.write(line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
