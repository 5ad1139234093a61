"""How often a run has put evidence before the gate, and what its tests said.

A log of lines, only ever appended to. A later attempt has a smaller level, so a rejection must
stay: else whoever draws often enough passes. Together this is a sequence of tests that spend
their level: a harmless generator is rejected at most at the rule's level over all attempts, and
one that leaks is not saved by trying again.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ..errors import StaleError


def number(path: Path, evidence: str) -> int:
    """Return which attempt this evidence is, from 1; the same evidence is the same attempt.

    Raises StaleError where the log can't be trusted.
    """
    rows = _read(path)
    known = {row["evidence"]: row["attempt"] for row in rows}
    return known.get(evidence, len(rows) + 1)


def record(path: Path, *, evidence: str, generator: str, rejected: bool) -> None:
    """Write an attempt down; it is on disk when this returns. What is there already stays."""
    rows = _read(path)
    if any(row["evidence"] == evidence for row in rows):
        return
    row = {
        "attempt": len(rows) + 1,
        "evidence": evidence,
        "generator": generator,
        "rejected": rejected,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    _append_durably(path, json.dumps(row))


def rejections(path: Path, generator: str) -> list[int]:
    """Return the attempts at which a test rejected this generator."""
    return [
        row["attempt"] for row in _read(path) if row["generator"] == generator and row["rejected"]
    ]


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
