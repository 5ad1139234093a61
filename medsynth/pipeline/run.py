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
WALKED = ("student", "steps", *DRAWN, *DRAWN_SINCE)  # of the section sample, what a student follows

LEARNED = ("fold_px", "diffusion")  # how masks are learned, of the section masks


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

STUDENT = {"student": Plan(("intake", "split", "autoencoder", "diffusion"), ("seed",))}
"""A stage before `synthetic`, which then needs it, where the protocol asks for it."""

BESIDE = {
    "masks": Plan(("intake", "split"), ("domain", "masks", "seed")),
    "control": Plan(("intake", "split", "autoencoder", "diffusion"), ("domain", "control", "seed")),
    "drawn_masks": Plan(
        ("intake", "split", "lens", "masks"),
        ("domain", "sample", "masks", "validate", "gate", "seed"),
    ),
    "obedience": Plan(
        ("intake", "split", "autoencoder", "diffusion"),
        ("domain", "control", "sample", "validate", "seed"),
    ),
    "utility": Plan(
        ("intake", "split", "autoencoder", "diffusion", "synthetic", "evidence"),
        ("domain", "validate", "augment", "sample", "seed"),
    ),
}
"""Stages of which a run may have several or none; a verdict hangs only on those that a cohort with
masks is made by."""


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

    @property
    def plans(self) -> dict[str, Plan]:
        """The stages that a verdict needs, in order; with a student where one draws the images, and
        with what draws masks and the images under them where there are masks."""
        study, plans = self.protocol, {}
        makers: dict[str, Plan] = {} if study.sample.student is None else dict(STUDENT)
        if study.masks is not None:
            makers |= {"masks": BESIDE["masks"]}
            makers |= {f"control/{study.masks.control}": BESIDE["control"]}
        for name, plan in PLANS.items():
            if name in ("synthetic", "evidence"):
                plans |= makers
                sections = plan.sections if study.masks is None else (*plan.sections, "masks")
                plan = Plan((*plan.needs, *makers), sections)
            plans[name] = plan
        return plans

    def plan_of(self, stage: str) -> Plan:
        """Return the plan of a stage; of one of many, as control/NAME, that of its kind."""
        return self.plans.get(stage) or {**PLANS, **STUDENT, **BESIDE}[stage.split("/")[0]]

    def settings(self, stage: str) -> dict[str, Any]:
        """Return what of the protocol a stage depends on: its sections, for a private denoiser the
        labels that it is to know, for one that is chosen by its images how they are drawn, for
        the masks' denoiser only how it learns, for a student how the walks go that it follows, and
        for the evidence the level of the test whose power it tells, where that is not the usual
        one."""
        sections = self.plan_of(stage).sections
        settings = {name: set_knobs(self.protocol.section(name)) for name in sections}
        if stage == "masks":
            settings["masks"] = {name: settings["masks"][name] for name in LEARNED}
        if stage == "diffusion" and self.protocol.diffusion.private is not None:
            shares = self.protocol.sample.labels
            settings["labels"] = {name: sorted(shares[name]) for name in sorted(shares)}
        if stage == "diffusion" and self.protocol.diffusion.choose is not None:
            drawn = self.protocol.section("sample")
            since = {name: drawn[name] for name in DRAWN_SINCE if drawn[name] is not None}
            settings["drawn"] = {name: drawn[name] for name in DRAWN} | since
        if stage == "student":
            drawn = self.protocol.section("sample")
            settings |= {"walks": set_knobs({name: drawn[name] for name in WALKED})}
        if stage == "evidence" and level_of_test(self.protocol) != LEVEL:
            settings["level"] = level_of_test(self.protocol)
        return settings

    def inputs(self, stage: str) -> dict[str, str]:
        """Return the digests of the finished stages that a stage reads.

        Raises StaleError where one of them was made from what is no longer to its left, or with
        another protocol: what it says of images may be about others.
        """
        needs = [name for name in self.plan_of(stage).needs if name != "raw"]
        return {name: self._fresh(name, by=stage).digest for name in needs}

    def _fresh(self, stage: str, *, by: str) -> StageRecord:
        record = require_stage(self.folder / stage, by=by)
        if record.key != self.key_of(record, stage, self.inputs(stage)):
            raise StaleError(
                f"{by} needs the folder {stage}/, which was made from other inputs or with another "
                f"protocol than what is here now: run that stage again (medsynth run does all)"
            )
        return record

    def key_of(self, record: StageRecord, stage: str, inputs: dict[str, str]) -> str:
        """Return the key that a finished stage has if it is not stale; `inputs` are of the stages
        that it needs.

        What else went in is taken as it was: of raw files and masks only the command that reads
        them is told what they look like now, and a control has the knobs that it was fitted with.
        """
        settings = self.settings(stage)
        beside = stage.split("/")[0] in BESIDE
        if beside or "raw" in self.plan_of(stage).needs:
            inputs = {**record.inputs, **inputs}
        if stage.startswith("control/"):
            settings["control"] = record.settings["control"]
        return stage_key(inputs, settings)

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
