"""The evidence on anyone's synthetic images, from three plain folders and without a run.

    TRAIN, HOLDOUT, SYNTHETIC -> train/, holdout/, synthetic/ -> overlap/ -> lens/ -> evidence/
        -> verdict.json, report.html

The folders are stages as those of a run are: the same command again goes on. Several processes
train the lens and search together; the first one does the rest. All of it stays inside the
hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from .. import protocol
from ..cohort import Cohort
from ..errors import DataError, StageError
from ..finding import Verdict, read_findings, read_verdict, write_findings
from ..ownership import holds_something
from ..protocol import Protocol, set_knobs
from ..runtime import (
    StageRecord,
    digest_json,
    read_json,
    run_stage,
    verify_stage,
    wait_for_everyone,
    write_json,
    write_text,
    writes,
)
from .audit_overlap import Sides, find, name_quarantined, read_sides
from .audit_report import report
from .audit_study import PARTS, WORDS, Folders, listing
from .audit_words import claim, count_findings, overlap_sentences, quarantine_sentences
from .evidence import check_one_process, open_lens, teacher
from .judge import judge
from .learn import make_lens
from .run import Progress, Run, level_of_test, silent

STAGES = (*PARTS, "overlap", "lens", "evidence")
READING = ("domain", "image", "data", "slides", "deidentify", "seed")
FEWEST = 10  # images a side, and held-out patients


def audit(
    folders: Folders,
    out: Path,
    study: Protocol,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = silent,
) -> tuple[Run, Verdict]:
    """Measure, judge and report on synthetic images; what overlaps is told before the rest.

    Raises DataError where a patient stands on both real sides, or where too little is left of one
    side to compare with.
    """
    if writes():
        _open(folders, out, study)
    wait_for_everyone()
    run = Run(out, study)
    say = say if writes() else lambda sentence: None
    _read(run, folders, say, progress)
    _build(run, "overlap", PARTS, (), lambda folder: find(run, folders, folder))
    for sentence in overlap_sentences(overlap_of(run)):
        say(sentence)
    sides = read_sides(run)
    _check(run, sides)
    _build(
        run,
        "lens",
        ("train", "holdout", "overlap"),
        ("domain", "lens", "seed"),
        lambda folder: make_lens(run, sides.frames(run.protocol.seed), folder, progress),
        all_ranks=True,
    )
    _build(
        run,
        "evidence",
        STAGES[:-1],
        ("domain", "validate", "seed"),
        lambda folder: _validate(run, folders, sides, folder, progress),
        all_ranks=True,
    )
    for sentence in quarantine_sentences(read_findings(run.folder / "evidence/findings.jsonl")):
        say(sentence)
    if writes():
        _decide(run, sides)
        report(run, sides)
    wait_for_everyone()
    return run, read_verdict(run.folder / "verdict.json")


def overlap_of(run: Run) -> dict:
    """Return what the three folders have in common, as overlap.json says it."""
    return read_json(run.folder / "overlap" / "overlap.json")


def _open(folders: Folders, out: Path, study: Protocol) -> None:
    folders.check()
    folders.check_apart(out)
    if holds_something(out) and not (out / "audit.yaml").exists():
        raise StageError(f"{out.name}/ holds something else already: choose another --out")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(out / "audit.yaml", protocol.to_yaml(study))


def _build(
    run: Run,
    name: str,
    needs: Sequence[str],
    sections: Sequence[str],
    build: Callable[[Path], None],
    *,
    all_ranks: bool = False,
) -> StageRecord:
    """Build a stage where it is not there or stale; all to its left are fresh by then."""
    return run_stage(
        run.folder / name,
        build,
        inputs={need: read_json(run.folder / need / "stage.json")["digest"] for need in needs},
        settings={name: set_knobs(run.protocol.section(name)) for name in sections},
        all_ranks=all_ranks,
    )


def _read(run: Run, folders: Folders, say: Callable[[str], None], progress: Progress) -> None:
    """Read the three folders into cohorts, all in the same way."""
    from ..data.account import Intake
    from ..data.plain import read_patients

    known: dict[str, dict[str, str]] = {}
    if folders.patients is not None:
        real = {part: folders[part] for part in ("train", "holdout")}
        known = read_patients(folders.patients, real)
    for part in PARTS:
        _read_one(run, folders[part], part, known.get(part, {}), progress)
        counts = Intake(**read_json(run.folder / part / "intake.json"))
        say(f"{WORDS[part].capitalize()} images: {counts.summary}")


def _read_one(run: Run, raw: Path, part: str, patients: dict[str, str], progress: Progress) -> None:
    from ..data import deidentify, intake
    from ..data.original import look_over

    def build(workspace: Path) -> None:
        intake.ingest(
            raw,
            workspace,
            run.protocol,
            deidentify.read_or_make_secret(run.folder / "site.key"),
            progress=lambda done, total: progress(f"{WORDS[part]} folder", done / max(1, total)),
            earlier=run.folder / part,
            listing=listing(raw, run.protocol, part, patients),
            origin="synthetic" if part == "synthetic" else "real",
        )

    run_stage(
        run.folder / part,
        build,
        inputs={"raw": look_over(raw), "patients": digest_json(patients)},
        settings={name: set_knobs(run.protocol.section(name)) for name in READING},
    )


def _check(run: Run, sides: Sides) -> None:
    """Raise DataError where no comparison of the sides can mean anything."""
    where = f"{run.folder.name}/overlap/overlap.csv"
    shared = overlap_of(run)["patients_on_both_sides"]
    if shared:
        raise DataError(
            f"{shared} patients have images in both the training and the held-out folder, so what "
            f"is held out was trained on. {where} names the images: divide by patient, or take "
            f"these patients out of the held-out folder, and audit again"
        )
    few = [
        f"{len(side)} {WORDS[name]}"
        for name, side in zip(PARTS, (sides.train, sides.holdout, sides.synthetic), strict=True)
        if len(side) < FEWEST
    ]
    if few:
        raise DataError(
            f"expected at least {FEWEST} images a side, got {' and '.join(few)}; {where} says "
            f"which held-out images were taken out because they are training images"
        )


def _validate(run: Run, folders: Folders, sides: Sides, folder: Path, progress: Progress) -> None:
    """Measure all that can be measured from images alone into evidence/findings.jsonl."""
    from ..validation import Case, division, measure_all
    from ..validation.attack import run_attack

    if run.protocol.validate_.utility is not None:
        check_one_process("validate.utility")
    private = folder / "private"
    private.mkdir(exist_ok=True)
    case = Case(
        settings=run.protocol.validate_,
        domain=run.domain,
        train=sides.train,
        holdout=sides.holdout,
        synthetic=sides.synthetic,
        lens=open_lens(run),
        reconstruct=None,
        seed=run.protocol.seed,
        private=private,
        scratch=folder / "blocks",
        teach=teacher(run),
        level=level_of_test(run.protocol),
        progress=progress,
    )
    if not writes():
        run_attack(case)
        return
    findings = [*measure_all(case), *division.measure(case), *count_findings(overlap_of(run))]
    name_quarantined(run, folders, sides.synthetic, private)
    write_findings(folder / "findings.jsonl", findings)


def _decide(run: Run, sides: Sides) -> None:
    """Hold the findings against the rules; write verdict.json."""
    from ..data.deidentify import pseudonym, read_or_make_secret
    from ..release import gate
    from ..validation.quarantine import remaining

    path = run.folder / "verdict.json"
    path.unlink(missing_ok=True)
    digests = {stage: verify_stage(run.folder / stage).digest for stage in STAGES}
    findings = read_findings(run.folder / "evidence" / "findings.jsonl")
    bound = {
        "protocol": run.protocol.digest,
        **{part: Cohort.read(run.folder / part).digest for part in ("train", "holdout")},
        "synthetic": remaining(sides.synthetic, run.folder / "evidence" / "private").digest,
        "overlap": digests["overlap"],
        "lens": digests["lens"],
        "evidence": gate.digest_findings(findings),
    }
    said = claim(run, sides, overlap_of(run), findings["audit.split_auc"])
    # Which generator made these images, nobody can say: a rejection stays with this folder.
    secret = read_or_make_secret(run.folder / "site.key")
    generator = pseudonym(secret, "source", "the generator that is audited here")
    real = (sides.train, sides.holdout)
    verdict = judge(run, findings, said, bound, generator=generator, real=real)
    write_json(path, verdict.to_dict())
