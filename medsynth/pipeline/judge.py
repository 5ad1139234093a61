"""From the evidence to the one door out: `decide` and `release`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import budget
from ..cohort import Cohort
from ..data.loader import Frames
from ..errors import RefusedError, StageError, StaleError
from ..finding import Finding, Verdict, read_verdict
from ..rarity import RAREST, LeftOut, common
from ..runtime import (
    digest_json,
    read_json,
    verify_stage,
    write_json,
)
from . import choice, prompted
from .evidence import findings_of, read_evidence, remaining
from .run import PLANS, Run, parts_of

if TYPE_CHECKING:
    from ..release.weights import Weights

JUDGED = ("synthetic", "evidence")  # bound by digests of their own


def check_fresh(run: Run) -> dict[str, str]:
    """Return the digests of all stages; raise StaleError where one is not what it should be.

    Every stage is hashed again, and must have been made from what now stands to its left and
    with the protocol as it now is.
    """
    digests = {}
    for stage, plan in run.plans.items():
        record = verify_stage(run.folder / stage)
        inputs = {name: digests.get(name, record.inputs.get(name, "")) for name in plan.needs}
        if record.key != run.key_of(record, stage, inputs):
            raise StaleError(
                f"{stage}/ was made from other inputs or another protocol than what is here now: "
                f"run it again (medsynth run does all that is needed)"
            )
        digests[stage] = record.digest
    return digests


def decide(run: Run) -> Verdict:
    """Hold the findings against the protocol's rules; write and return verdict.json.

    A stale stage is a refusal too: the error says which, and no verdict is left standing.
    """
    from ..release import gate

    path = run.folder / "verdict.json"
    path.unlink(missing_ok=True)
    stages = check_fresh(run)
    findings = findings_of(run)
    digests = {
        "protocol": run.protocol.digest,
        **{name: digest for name, digest in stages.items() if name not in JUDGED},
        "synthetic": remaining(run).digest,
        "evidence": gate.digest_findings(findings),
    }
    found = budget.read_coverage(run.folder, generator=run.protocol.sample.generator)
    claim = gate.claims(
        read_json(run.folder / "split" / "split.json"),
        domain=run.protocol.domain,
        privacy=(*(found[1].sentences if found else ()), *gate.say_canaries(findings)),
    )
    made_by = [digests[name] for name in models_of(run) if name != "lens"]
    generator = digest_json([*made_by, run.protocol.sample.generator])
    real = [Cohort.read(run.folder / "intake")]
    claim += (*choice.said(run), *prompted.said(run), *_left_out(run))
    tried = gate.digest_findings(read_evidence(run))  # a control is no try at the gate's tests
    verdict = judge(run, findings, claim, digests, generator=generator, tried=tried, real=real)
    write_json(path, verdict.to_dict())
    return verdict


def _left_out(run: Run) -> tuple[str, ...]:
    """Say how many combinations of labels were too rare to be drawn; nothing of an older cohort."""
    path = run.folder / "synthetic" / "labels.json"
    return (LeftOut(**read_json(path)).sentence,) if path.exists() else ()


def judge(
    run: Run,
    findings: dict[str, Finding],
    claim: tuple[str, ...],
    digests: dict[str, str],
    *,
    generator: str,
    tried: str | None = None,
    real: Sequence[Cohort] = (),
) -> Verdict:
    """Judge, and write the attempt down before the verdict is; a rejection of a `generator` stays.

    `tried` is the digest of what counts as an attempt of its own; None is that of all evidence.
    `real` are the real images, by which a site's log knows the same patients again; without them
    attempts are counted in the run's folder alone.
    Raises StageError where this attempt's tests could no longer reject anything.
    """
    from ..release import attempts, gate

    rules, evidence = run.protocol.gate.rules, tried or digests["evidence"]
    pixels = [cohort.pixels for cohort in real]
    logs = attempts.logs(run.folder, pixels, shared=run.shared)
    counted = attempts.COUNTED_AT_SITE if logs[-1].at_site else attempts.COUNTED_HERE
    with attempts.alone(logs):
        attempt = max(attempts.number(log, evidence) for log in logs)
        _check_can_reject(run, attempt)
        rejected = gate.rejects(findings, rules, attempt=attempt)
        before: dict[str, int] = {}
        for log in logs:
            attempts.record(log, evidence=evidence, generator=generator, rejected=rejected)
            before |= attempts.rejections(log, generator, besides=evidence if rejected else "")
    return gate.decide(
        findings,
        rules,
        attempt=attempt,
        claim=(*claim, counted),
        digests=digests,
        rejected_before=sorted(before.values()),
    )


def _check_can_reject(run: Run, attempt: int) -> None:
    if not all(run.protocol.can_reject(rule, attempt=attempt) for rule in run.protocol.gate.rules):
        raise StageError(
            f"at attempt {attempt} the level of a test is below what "
            f"{run.protocol.validate_.permutations} permutations can reach, so it could only "
            f"pass: raise validate.permutations and validate again"
        )


def require_verdict(run: Run) -> Verdict:
    """Return the verdict on what is in the run now. Raises where it is absent or stale."""
    path = run.folder / "verdict.json"
    if not path.exists():
        raise StageError("there is no verdict yet: run medsynth decide first")
    verdict = read_verdict(path)
    stages = check_fresh(run)
    stale = [
        name
        for name, digest in stages.items()
        if name not in JUDGED and verdict.digests.get(name) != digest
    ]
    if stale or verdict.digests.get("protocol") != run.protocol.digest:
        raise StaleError(
            "the verdict was given on something else than what is here now "
            f"({', '.join(stale) or 'protocol'}): run medsynth decide again"
        )
    return verdict


def release(
    run: Run,
    *,
    also: Sequence[str] = (),
    sign: Path | None = None,
    credentials: Path | None = None,
) -> Path:
    """Write release/, the one door out; `also` are formats beside those of the protocol.

    `sign` is an SSH key to sign it with, `credentials` a key and certificates for content
    credentials in each PNG. Raises RefusedError unless the gate passed as it stands.
    """
    from ..release import export, signature
    from ..release.credentials import signer

    verdict = require_verdict(run)
    if not verdict.passed:
        raise RefusedError(f"the gate said {verdict.outcome}: nothing leaves", verdict.reasons)
    folder = run.folder / "release"
    workspace = folder.with_name("release.tmp")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    export.write_release(
        workspace,
        cohort=remaining(run),
        protocol=run.protocol,
        findings=findings_of(run),
        verdict=verdict,
        split=read_json(run.folder / "split" / "split.json"),
        models={name: verdict.digests[name] for name in models_of(run)},
        ledger=budget.read_ledger(run.folder),
        networks=_networks(run),
        also=also,
        mark=None if credentials is None else signer(credentials),
    )
    if sign is not None:
        signature.sign(workspace, sign)
    shutil.rmtree(folder, ignore_errors=True)
    workspace.rename(folder)
    return folder


def models_of(run: Run) -> tuple[str, ...]:
    """Return the stages whose networks a cohort was made or judged by."""
    makers = [name for name in run.plans if name not in PLANS]
    return ("autoencoder", "diffusion", *makers, "lens")


def is_released(run: Run, verdict: Verdict) -> bool:
    """True where release/ is whole and of this very verdict: it may be signed, and stays."""
    from ..release.verify import verify

    found = verify(run.folder / "release") if (run.folder / "release").is_dir() else None
    return found is not None and found.ok and found.verdict == verdict


def _networks(run: Run) -> Weights | None:
    """Return what of the weights leaves, where the protocol lets them; labels that few training
    patients have are not among what they know, but for a privacy budget's, which are public."""
    if not run.protocol.card.weights:
        return None
    from ..models.diffusion import Schedule
    from ..release.weights import Weights

    cohort, parts = parts_of(run)
    train = Frames(cohort, parts["train"])
    rarest = run.protocol.sample.rarest or RAREST
    wished = run.protocol.sample.labels or {}
    private = run.protocol.diffusion.private is not None
    return Weights(
        autoencoder=run.folder / "autoencoder",
        diffusion=run.folder / "diffusion",
        betas=Schedule.of(run.protocol.diffusion).step_betas.tolist(),
        common=wished if private else common(train.labels, train.patients, rarest=rarest),
        rarest=rarest,
    )
