"""Which controls of a run are obeyed: asked by who draws with one, and by the gate where it has
rules on controls. A run whose rules ask for none is judged without.
"""

from __future__ import annotations

from dataclasses import replace

from .. import protocol
from ..errors import RefusedError, StageError, StaleError
from ..finding import Finding, read_findings
from ..runtime import StageRecord, require_stage, verify_stage
from .run import Run

FAMILY = "control."


def read_obedience(run: Run, name: str) -> dict[str, Finding]:
    """Return the findings on a control. Raises StageError where there are none yet."""
    require_stage(run.folder / "obedience" / name, by="control")
    return read_findings(run.folder / "obedience" / name / "findings.jsonl")


def refuse_ignored(run: Run, name: str) -> None:
    """Raise RefusedError where a control is ignored, in any of its kinds, and StaleError where its
    obedience was measured on another than is there now."""
    from ..validation.obedience import ignored

    fitted = require_stage(run.folder / "control" / name, by="control sample")
    measured = require_stage(run.folder / "obedience" / name, by="control sample")
    if measured.inputs["control"] != fitted.digest:
        raise StaleError(f"control/{name} changed after its obedience was measured: fit it again")
    if faults := ignored(list(read_obedience(run, name).values())):
        raise RefusedError(
            f"the control {name} is ignored, so its images would not show what the maps say "
            f"(--ignored draws them all the same)",
            faults,
        )


def asks_for_controls(study: protocol.Protocol) -> bool:
    """True where a rule of the gate is on a control."""
    return any(rule.finding.startswith(FAMILY) for rule in study.gate.rules)


def judged_controls(run: Run) -> dict[str, Finding]:
    """Return the findings on all controls of a run that the gate is to judge, none where no rule
    asks for any.

    Raises StaleError where one was measured on what is no longer there, StageError where two
    controls were asked for the same.
    """
    if not asks_for_controls(run.protocol):
        return {}
    found: dict[str, Finding] = {}
    for path in sorted((run.folder / "obedience").glob("*/stage.json")):
        name = path.parent.name
        record, fitted = verify_stage(path.parent), verify_stage(run.folder / "control" / name)
        as_made(run, f"control/{name}", fitted)
        as_made(run, f"obedience/{name}", record, control=fitted.digest)
        own = read_obedience(run, name)
        if twice := sorted(found.keys() & own.keys()):
            raise StageError(
                f"two controls of this run have a {twice[0]}, and the gate's rule can't say which "
                f"it means: delete one from control/ and obedience/"
            )
        found |= own
    return found


def as_made(run: Run, stage: str, record: StageRecord, **given: str) -> Run:
    """Return the run under the control section that a stage was made with.

    `given` are digests of what it must have been made from. Raises StaleError where it was made
    from, or with, something else than is there now.
    """
    section = protocol.Control.model_validate(record.settings["control"], strict=False)
    own = replace(run, protocol=run.protocol.model_copy(update={"control": section}))
    if record.key != own.key_of(record, stage, own.inputs(stage) | given):
        raise StaleError(
            f"{stage} was made with another denoiser, or otherwise, than the run has now: fit the "
            f"control again"
        )
    return own
