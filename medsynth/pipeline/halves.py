"""Two runs on exchanged halves, for few patients: each half is the other's held-out patients.

Every patient is trained on once and held out once, and each cohort is judged against as many
held-out as training patients. Both runs are whole runs of their own. Their attempts are counted
together, so that the level of a test is spent over both.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..finding import Verdict
from ..protocol import Protocol
from ..runtime import wait_for_everyone, writes
from .run import Progress, Run, silent, start
from .whole import run_all

HALVES = ("first", "second")


def run_halves(
    study: Protocol,
    raw: Path,
    folder: Path,
    progress: Progress = silent,
    *,
    masks: Path | None = None,
) -> dict[str, tuple[Run, Verdict]]:
    """Do all stages of two runs, `folder`/first and `folder`/second; again = go on.

    The raw folder is read once; both take its images from there. `masks` as in `run_all`.
    """
    done = {}
    for half in HALVES:
        run = start(_of_half(study, half), folder / half)
        if half == "second":
            _hand_over(done["first"][0], run)
        done[half] = run, run_all(run, raw, _named(half, progress), masks=masks)
    return done


def _of_half(study: Protocol, half: str) -> Protocol:
    division = study.split.model_copy(update={"half": half})
    return study.model_copy(update={"split": division})


def _hand_over(first: Run, second: Run) -> None:
    """Give the second run the first one's images and pseudonyms."""
    if writes() and not (second.folder / "intake").exists():
        shutil.copy2(first.folder / "site.key", second.folder / "site.key")
        workspace = second.folder / "intake.copy"
        shutil.rmtree(workspace, ignore_errors=True)
        shutil.copytree(first.folder / "intake", workspace)
        workspace.rename(second.folder / "intake")
    wait_for_everyone()


def _named(half: str, progress: Progress) -> Progress:
    return lambda what, share: progress(f"{half} half: {what}", share)
