"""All stages, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..finding import Verdict, read_verdict
from ..ownership import working_in
from ..runtime import wait_for_everyone, writes
from .judge import decide, release, validate
from .learn import fit, sample
from .prepare import ingest, split
from .report import report
from .run import Progress, Run, silent


def run_all(run: Run, raw: Path, progress: Progress = silent) -> Verdict:
    """Do every stage that is not done, judge, write the report, and release if the gate passes."""
    with working_in(run.folder):
        ingest(run, raw, progress)
        split(run, progress)
        fit(run, progress)
        sample(run, progress)
        validate(run, progress)
        if writes():
            _conclude(run)
        wait_for_everyone()
    return read_verdict(run.folder / "verdict.json")


def _conclude(run: Run) -> None:
    verdict = decide(run)
    report(run)
    if verdict.passed:
        release(run)
    else:
        shutil.rmtree(run.folder / "release", ignore_errors=True)
