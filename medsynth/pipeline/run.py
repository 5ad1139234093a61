"""A run folder, and what each stage in it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import domains, protocol
from ..cohort import Cohort
from ..errors import StageError, StaleError
from ..ownership import working_in
from ..protocol import Protocol, set_knobs
from ..runtime import (
    StageRecord,
    read_json,
    require_stage,
    run_stage,
    stage_key,
    write_text,
    writes,
)

if TYPE_CHECKING:
    from ..models.autoencoder import Autoencoder

Progress = Callable[[str, float], None]
TESTED = "memorization.p_value"
LEVEL = 0.05
DRAWN = ("guidance", "eta", "labels")  # how images are drawn, of the section sample
DRAWN_SINCE = ("sampler", "spacing", "guidance_interval")  # null in older runs, which stay valid


def silent(what: str, share: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class Plan:
    """What a stage reads: the stages to its left, and the protocol's sections."""

    needs: tuple[str, ...]
    sections: tuple[str, ...]


PLANS = {
    "intake": Plan(("raw",), ("domain", "image", "data", "slides", "deidentify", "seed")),
    "split": Plan(("intake",), ("split", "seed")),
    "lens": Plan(("intake", "split"), ("domain", "lens", "seed")),
    "autoencoder": Plan(("intake", "split"), ("domain", "autoencoder", "seed")),
    "diffusion": Plan(("intake", "split", "autoencoder"), ("domain", "diffusion", "seed")),
    "synthetic": Plan(
        ("intake", "split", "autoencoder", "diffusion"), ("domain", "image", "sample", "seed")
    ),
    "evidence": Plan(
        ("intake", "split", "lens", "autoencoder", "diffusion", "synthetic"),
        ("domain", "validate", "seed"),
    ),
}
"""The stages of a study, in order: a verdict needs them all."""

BESIDE = {
    "control": Plan(("intake", "split", "autoencoder", "diffusion"), ("domain", "control", "seed")),
    "obedience": Plan(
        ("intake", "split", "autoencoder", "diffusion"),
        ("domain", "control", "sample", "validate", "seed"),
    ),
    "utility": Plan(
        ("intake", "split", "autoencoder", "diffusion", "synthetic", "evidence"),
        ("domain", "validate", "augment", "sample", "seed"),
    ),
}
"""Stages of which a run may have several or none; no verdict hangs on them."""


def plan_of(stage: str) -> Plan:
    """Return the plan of a stage; of one of many, as control/NAME, that of its kind."""
    return {**PLANS, **BESIDE}[stage.split("/")[0]]


@dataclass(frozen=True)
class Run:
    """A run folder and the protocol it follows."""

    folder: Path
    protocol: Protocol

    @property
    def domain(self) -> domains.Domain:
        return domains.domain(self.protocol.domain)

    @property
    def shared(self) -> Path | None:
        """The folder of both runs where this is one of two on exchanged halves, else None."""
        return self.folder.parent if self.protocol.split.half is not None else None

    def settings(self, stage: str) -> dict[str, Any]:
        """Return what of the protocol a stage depends on: its sections, for a private denoiser the
        labels that it is to know, for one that is chosen by its images how they are drawn, and for
        the evidence the level of the test whose power it tells, where that is not the usual one."""
        sections = plan_of(stage).sections
        settings = {name: set_knobs(self.protocol.section(name)) for name in sections}
        if stage == "diffusion" and self.protocol.diffusion.private is not None:
            shares = self.protocol.sample.labels
            settings["labels"] = {name: sorted(shares[name]) for name in sorted(shares)}
        if stage == "diffusion" and self.protocol.diffusion.choose is not None:
            drawn = self.protocol.section("sample")
            since = {name: drawn[name] for name in DRAWN_SINCE if drawn[name] is not None}
            settings["drawn"] = {name: drawn[name] for name in DRAWN} | since
        if stage == "evidence" and level_of_test(self.protocol) != LEVEL:
            settings["level"] = level_of_test(self.protocol)
        return settings

    def inputs(self, stage: str) -> dict[str, str]:
        """Return the digests of the finished stages that a stage reads.

        Raises StaleError where one of them was made from what is no longer to its left, or with
        another protocol: what it says of images may be about others.
        """
        needs = [name for name in plan_of(stage).needs if name != "raw"]
        return {name: self._fresh(name, by=stage).digest for name in needs}

    def _fresh(self, stage: str, *, by: str) -> StageRecord:
        record = require_stage(self.folder / stage, by=by)
        inputs = self.inputs(stage)
        if "raw" in plan_of(stage).needs:  # what it looks like now, only `ingest` is told
            inputs["raw"] = record.inputs["raw"]
        if record.key != stage_key(inputs, self.settings(stage)):
            raise StaleError(
                f"{by} needs the folder {stage}/, which was made from other inputs or with another "
                f"protocol than what is here now: run that stage again (medsynth run does all)"
            )
        return record

    def build(
        self,
        stage: str,
        build: Callable[[Path], None],
        *,
        inputs: dict[str, str] | None = None,
        all_ranks: bool = False,
    ) -> StageRecord:
        """Build a stage's folder where it is not there or stale; see `runtime.run_stage`.

        `inputs` are the digests of what it reads, by default those of the stages it needs.
        """
        with working_in(self.folder):
            return run_stage(
                self.folder / stage,
                build,
                inputs=self.inputs(stage) if inputs is None else inputs,
                settings=self.settings(stage),
                all_ranks=all_ranks,
            )


def level_of_test(study: Protocol) -> float:
    """Return the smallest level of the rules on the cohort's test; 5 % where there is no rule."""
    rules = (rule for rule in study.gate.rules if fnmatchcase(TESTED, rule.finding))
    levels = [rule.not_rejected_at for rule in rules if rule.not_rejected_at is not None]
    return min(levels, default=LEVEL)


def start(study: Protocol, folder: Path) -> Run:
    """Open a run folder for a study, made where it is absent."""
    with working_in(folder):
        if writes():
            write_text(folder / "protocol.yaml", protocol.to_yaml(study))
    return Run(folder, study)


def open_run(folder: Path) -> Run:
    """Open a run folder that `start` made. Raises StageError where there is none."""
    path = folder / "protocol.yaml"
    if not path.exists():
        raise StageError(
            f"{folder.name}/ is no run folder: it has no protocol.yaml. "
            f"Start one with: medsynth ingest PROTOCOL RAW {folder.name}"
        )
    return Run(folder, protocol.load(path))


def parts_of(run: Run) -> tuple[Cohort, dict[str, np.ndarray]]:
    """Return the real cohort and the indices of its train, validation and holdout images."""
    cohort = Cohort.read(run.folder / "intake")
    lines = (run.folder / "split" / "split.csv").read_text().splitlines()[1:]
    parts = np.array([line.rsplit(",", 1)[1] for line in lines])
    names = ("train", "validation", "holdout")
    return cohort, {name: np.flatnonzero(parts == name) for name in names}


def open_autoencoder(run: Run, device: str) -> Autoencoder:
    """Return the run's trained autoencoder, on a device."""
    from ..models.autoencoder import Autoencoder

    return Autoencoder.load(run.folder / "autoencoder").to(device)


def facts(run: Run, path: str) -> Any:
    """Return what one JSON file of the run says. Raises StageError where it is not there yet."""
    if not (run.folder / path).exists():
        raise StageError(f"there is no {path} in this run yet: run the stage that makes it first")
    return read_json(run.folder / path)
