"""Masks alone: drawn, held against patients' masks, and told whose they are.

They count as nobody's only where the protocol's rules on masks hold; else they are derived, and so
is every image that is drawn under them. OUT/private shows patients' masks: OUT stays inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..cohort import Cohort, Record
from ..data import controls
from ..data.control_files import say_origin, write_maps
from ..finding import Finding, Verdict, read_verdict, write_findings
from ..runtime import run_stage, write_json
from .drawn import choose_labels, without_rare
from .evidence import open_lens
from .masks import Known, draw_shares, open_known
from .run import Progress, Run, level_of_test, silent

STAGE = "drawn_masks"
UNCOUNTED = "These masks were not before the gate: drawing them again is not counted."


def sample_masks(run: Run, out: Path, *, images: int, progress: Progress = silent) -> Verdict:
    """Draw masks into OUT/maps/mask, hold them against patients' masks, and write findings.jsonl
    and verdict.json beside them. Again = go on.

    Raises StageError where no denoiser of masks was fitted, and StaleError where it is stale.
    """
    drawn = run.protocol.sample.model_copy(update={"images": images})
    own = replace(run, protocol=run.protocol.model_copy(update={"sample": drawn}))
    run_stage(
        out,
        lambda folder: _draw(own, folder, progress),
        inputs=own.inputs(STAGE),
        settings=own.settings(STAGE),
    )
    return read_verdict(out / "verdict.json")


def _draw(run: Run, folder: Path, progress: Progress) -> None:
    known, labels = open_known(run), without_rare(run, choose_labels(run), folder)
    masks = known.harden(draw_shares(run, labels, folder / "latents", progress))
    records = tuple(
        Record(f"mask-{i:06d}", "synthetic", labels=row) for i, row in enumerate(labels, start=1)
    )
    pictures = controls.as_pictures(masks, known.values, run.domain.channels)
    drawn = Cohort(run.protocol.domain, records, pictures, masks)
    findings = {found.name: found for found in _hold(run, known, drawn, folder, progress)}
    verdict = _judge(run, findings)
    write_findings(folder / "findings.jsonl", findings.values())
    write_json(folder / "verdict.json", verdict.to_dict())
    maps, names = controls.one_hot(masks, known.values), [record.id for record in records]
    write_maps(folder / "maps", names, maps, [controls.MASK], values=known.values)
    say_origin(folder / "maps", "synthetic" if verdict.passed else "derived")


def _hold(
    run: Run, known: Known, drawn: Cohort, folder: Path, progress: Progress
) -> Iterable[Finding]:
    """Look the drawn masks up among patients'."""
    from ..validation import Case
    from ..validation.paired import Paired, measure_masks

    (folder / "private").mkdir(exist_ok=True)
    train, holdout = known.cohort("train"), known.cohort("holdout")
    case = Case(
        settings=run.protocol.validate_,
        domain=run.domain,
        train=train,
        holdout=holdout,
        synthetic=drawn,
        lens=open_lens(run),
        reconstruct=None,
        seed=run.protocol.seed,
        private=folder / "private",
        scratch=folder / "blocks",
        paired=Paired(train, holdout, None, known.values, known.names),
        level=level_of_test(run.protocol),
        progress=progress,
    )
    return measure_masks(case)


def _judge(run: Run, findings: Mapping[str, Finding]) -> Verdict:
    """Hold the findings against the protocol's rules on masks."""
    from ..release import gate

    rules = [rule for rule in run.protocol.gate.rules if rule.finding.startswith("masks.")]
    digests = {"protocol": run.protocol.digest, "evidence": gate.digest_findings(findings)}
    return gate.decide(findings, rules, attempt=1, claim=(UNCOUNTED,), digests=digests)
