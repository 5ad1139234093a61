"""All stages, one after the other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from ..data.controls import MASK
from ..errors import DataError
from ..finding import Verdict, read_verdict
from ..ownership import working_in
from ..runtime import wait_for_everyone, writes
from .control import fit_control, with_control
from .drawn import sample
from .evidence import validate
from .judge import decide, is_released, release
from .learn import fit
from .mapped import Masks
from .masks import fit_masks
from .obeyed import asks_for_controls
from .prepare import ingest, split
from .report import report
from .run import Progress, Run, silent


def run_all(
    run: Run, raw: Path, progress: Progress = silent, *, masks: Path | None = None
) -> Verdict:
    """Do every stage that is not done, judge, write the report, and release if the gate passes.

    `masks` is the folder of the raw images' masks, for a study that draws some. Where the gate has
    rules on controls, the control that the protocol describes is fitted too; one of masks alone is
    fitted by hand. Raises DataError where masks are given and the protocol asks for none, or the
    other way round.
    """
    _check_masks(run, masks)
    with working_in(run.folder):
        _do_all(run, raw, progress, masks)
    return read_verdict(run.folder / "verdict.json")


def _do_all(run: Run, raw: Path, progress: Progress, masks: Path | None) -> None:
    ingest(run, raw, progress)
    split(run, progress)
    fit(run, progress)
    if masks is not None:
        _fit_pairs(run, Masks(masks, raw), progress)
    sample(run, progress)
    validate(run, progress)
    control = run.protocol.control
    if control is not None and MASK not in control.kinds and asks_for_controls(run.protocol):
        fit_control(run, "_".join(control.kinds), progress=progress)
    if writes():
        _conclude(run)
    wait_for_everyone()


def _check_masks(run: Run, masks: Path | None) -> None:
    if masks is not None and run.protocol.masks is None:
        raise DataError("--masks is for a protocol with a section masks, which this one has not")
    if masks is None and run.protocol.masks is not None and not (run.folder / "masks").exists():
        raise DataError("the protocol asks for masks, but no folder of masks is given: --masks DIR")


def _fit_pairs(run: Run, masks: Masks, progress: Progress) -> None:
    """Train what draws masks, and the control that draws images under them."""
    own = replace(run, protocol=with_control(run.protocol, (MASK,), {}))
    fit_control(own, run.protocol.masks.control, masks=masks, progress=progress)
    fit_masks(run, masks, progress)


def _conclude(run: Run) -> None:
    verdict = decide(run)
    report(run)
    if verdict.passed and not is_released(run, verdict):
        release(run)
    elif not verdict.passed:
        shutil.rmtree(run.folder / "release", ignore_errors=True)
