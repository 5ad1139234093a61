"""What commands say: results, bars, findings, what the gate said; for people and programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer


def say(result: dict[str, Any], as_json: bool, *lines: str) -> None:
    """Print a result: as JSON for programs, as sentences for people; once for all processes."""
    from ..runtime import writes

    if writes():
        print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


@contextmanager
def at_work(folder: Path, quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Show bars while this process works in a folder, alone; see ownership.py."""
    from ..ownership import working_in

    with working_in(folder), progress_bars(quiet) as progress:
        yield progress


@contextmanager
def progress_bars(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Show one bar a stage with the time left; on a terminal a live one, else a line a stage."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from ..runtime import ranks

    if quiet or ranks()[0] > 0:
        yield lambda what, share: None
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    # One step of a long search may take minutes: a shorter memory would know no time left.
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=600) as live:

        def report(what: str, share: float) -> None:
            if what not in bars:
                bars[what] = live.add_task(what, total=1.0)
            live.update(bars[what], completed=share)

        yield report


def print_findings(found: Mapping[str, Any]) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("finding", "value", "95 % interval", "n", "reference", "unit", box=None)
    table.columns[0].no_wrap = True
    for item in found.values():
        reference = "" if item.reference is None else f"{item.reference:.4g}"
        table.add_row(
            item.name, f"{item.value:.4g}", f"{item.low:.4g} to {item.high:.4g}",
            str(item.n), reference, item.unit,
        )  # fmt: skip
    console = Console()
    console.print(table)
    for words in sorted({item.reference_is for item in found.values() if item.reference_is}):
        families = sorted({i.name.split(".")[0] for i in found.values() if i.reference_is == words})
        console.print(f"reference of {', '.join(families)}: {words}")
    console.print("How each was measured: --json, or docs/measures.md")


def end(run: Any, verdict: Any, as_json: bool) -> None:
    """Say what the gate said and where to look; exit 3 unless it passed."""
    result, lines = outcome(run, verdict)
    say(result, as_json, *lines)
    leave(verdict.passed)


def leave(passed: bool) -> None:
    """Exit 3 where the gate did not pass; of several processes only the first, which has said why:
    torchrun ends all of them as soon as one does."""
    from ..runtime import writes

    if writes() and not passed:
        raise typer.Exit(3)


def outcome(run: Any, verdict: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what the gate said of a run: for programs, and in lines for people."""
    report, release = run.folder / "report.html", run.folder / "release"
    result = {
        "outcome": verdict.outcome,
        "reasons": verdict.reasons,
        "report": str(report),
        "release": str(release) if verdict.passed else None,
    }
    lines = [f"The gate {WORDS[verdict.outcome]}.", *(f"  - {r}" for r in verdict.reasons)]
    if verdict.passed:
        lines.append(f"What may be shared: {release}")
    return result, [*lines, f"Report to open:     {report}"]


WORDS = {
    "passed": "passed",
    "refused": "refused",
    "inconclusive": "could not tell, and so stays shut",
}
