"""A measured number, and the judgement of many."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import DataError
from .runtime import read_json, without_nan, write_text

Direction = Literal["lower is better", "higher is better", "neither"]
Outcome = Literal["passed", "refused", "inconclusive", "waived"]
PAIRS = ("at_attempts", "curve")  # of a finding: pairs of numbers


@dataclass(frozen=True)
class Finding:
    """One measured number.

    `low` and `high` are the ends of its interval (95 % unless `method` says otherwise; equal to
    `value` where the number is exact), `n` is how many units it was measured on, and `method`
    says how. `reference` is the same number for something whose truth is known, as
    `reference_is` says: held-out real patients, or real against real. `at_attempts` are (low, high)
    at the gate's first attempt, its second and so on, wider and wider; none where the interval
    does not depend on how often was tried. `curve` are (x, y), what the number was read from.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    direction: Direction
    method: str
    reference: float | None = None
    reference_is: str = ""
    at_attempts: tuple[tuple[float, float], ...] = ()
    curve: tuple[tuple[float, float], ...] = ()

    @property
    def is_number(self) -> bool:
        """True if value and all ends are finite: anything else can't open the gate."""
        ends = (self.low, self.high, *(end for pair in self.at_attempts for end in pair))
        return all(math.isfinite(x) for x in (self.value, *ends))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON holds; an interval that does not depend on attempts, and a curve where
        there is none, are left out."""
        row = asdict(self)
        for name in PAIRS:
            row[name] = [[float(number) for number in pair] for pair in row[name]]
            if not row[name]:
                del row[name]
        return row


def word(text: str) -> str:
    """Return a label's text as part of a finding's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "other"


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Write findings as JSON lines, sorted by name; NaN becomes null."""
    rows = sorted((finding.to_dict() for finding in findings), key=lambda row: row["name"])
    lines = [json.dumps(without_nan(row), ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))


def read_findings(path: Path) -> dict[str, Finding]:
    """Read findings by name; null becomes NaN. Raises DataError on a name that comes twice."""
    findings: dict[str, Finding] = {}
    for line in filter(None, path.read_text().split("\n")):  # splitlines knows too many ends
        row = json.loads(line)
        for key in ("value", "low", "high"):
            row[key] = math.nan if row[key] is None else float(row[key])
        for name in PAIRS:
            row[name] = tuple(
                tuple(math.nan if number is None else float(number) for number in pair)
                for pair in row.get(name, ())
            )
        if row["name"] in findings:
            raise DataError(f"{path.name}: the finding {row['name']} comes twice")
        findings[row["name"]] = Finding(**row)
    return findings


@dataclass(frozen=True)
class Judgement:
    """What one rule said: the bar, the end of the interval that was held against it, and why."""

    finding: str
    bar: str
    outcome: Outcome
    judged: float | None
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Passed, refused or inconclusive, rule by rule, with the digests of all that was judged.

    `claim` says in words what a pass means and what it does not; `attempt` counts how often this
    run has put evidence before the gate; `waived` counts what did not hold and was waived.
    """

    outcome: Outcome
    attempt: int
    claim: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    waived: int = 0

    @property
    def passed(self) -> bool:
        return self.outcome == "passed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate stayed shut, one sentence a rule; empty where it passed."""
        bad = ("refused", "inconclusive")
        return tuple(item.reason for item in self.judgements if item.outcome in bad)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_verdict(path: Path) -> Verdict:
    """Read a verdict that `Verdict.to_dict` wrote."""
    row = read_json(path)
    row["claim"] = tuple(row["claim"])
    row["judgements"] = tuple(Judgement(**item) for item in row["judgements"])
    return Verdict(**row)
