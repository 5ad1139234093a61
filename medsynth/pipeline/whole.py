"""All stages, one after the other."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..data.controls import MASK
from ..finding import Verdict, read_verdict
from ..runtime import wait_for_everyone, writes
from .control import fit_control
from .judge import decide, release, validate
from .learn import fit, sample
from .obeyed import asks_for_controls
from .prepare import ingest, split
from .report import report
from .run import Progress, Run, silent


def run_all(run: Run, raw: Path, progress: Progress = silent) -> Verdict:
    """Do every stage that is not done, judge, write the report, and release if the gate passes.

    Where the gate has rules on controls, the control that the protocol describes is fitted too; one
    of masks needs a folder of them, so it is fitted by hand.
    """
    ingest(run, raw, progress)
    split(run, progress)
    fit(run, progress)
    sample(run, progress)
    validate(run, progress)
    control = run.protocol.control
    if control is not None and MASK not in control.kinds and asks_for_controls(run.protocol):
        fit_control(run, "_".join(control.kinds), progress=progress)
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
