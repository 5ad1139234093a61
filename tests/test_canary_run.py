"""A whole run with canaries, under a privacy budget: they are counted, audited and never leave."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tiny import PRIVATE, study, write_raw

from medsynth import budget, pipeline
from medsynth.budget import Ledger
from medsynth.cohort import Cohort
from medsynth.data.canaries import Canaries, make
from medsynth.errors import ProtocolError, StageError
from medsynth.finding import read_findings
from medsynth.runtime import read_json
from medsynth.vocabulary import Vocabulary

PLANTED = {"diffusion.canaries": {"count": 24}}
CHANGES = {
    **PRIVATE,
    **PLANTED,
    "sample.images": 12,
    "validate.permutations": 99,
    "autoencoder.training.images": 32,
    "lens.training.images": 64,
    "gate.rules": [*PRIVATE["gate.rules"], {"finding": "canary.epsilon", "at_most": 20.0}],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pipeline.Run:
    raw = write_raw(tmp_path_factory.mktemp("raw"), patients=24)
    run = pipeline.start(study(**CHANGES), tmp_path_factory.mktemp("run"))
    pipeline.run_all(run, raw)
    return run


def train_patients(run: pipeline.Run) -> int:
    return read_json(run.folder / "split" / "split.json")["parts"]["train"]["patients"]


def test_ledger_counts_each_canary_that_was_trained_on_as_a_patient(run):
    ledger = Ledger.read(run.folder / "diffusion" / "ledger.json")
    planted = Canaries.read(run.folder / "diffusion")
    included = int(planted.included.sum())
    assert len(planted.cohort) == 24
    assert 0 < included < 24
    assert ledger.patients == train_patients(run) + included
    assert ledger.trainings[-1].sample_rate == pytest.approx(8 / ledger.patients)
    assert budget.recompute(ledger) == pytest.approx(ledger.epsilon)


def test_findings_say_what_the_canaries_show(run):
    found = read_findings(run.folder / "evidence" / "findings.jsonl")
    names = {name for name in found if name.startswith("canary.")}
    assert names == {"canary.epsilon", "canary.epsilon.strong", "canary.epsilon.weak",
                     "canary.right", "canary.copied"}  # fmt: skip
    assert found["canary.epsilon"].value <= found["privacy.epsilon"].value
    assert found["canary.epsilon"].unit == found["privacy.epsilon"].unit
    assert found["canary.right"].n == 8
    assert math.isfinite(found["canary.copied"].value)


def test_release_holds_nothing_of_a_canary_but_what_is_said_of_them(run):
    release = run.folder / "release"
    said = {path.relative_to(release).as_posix() for path in release.rglob("*")
            if path.is_file() and b"canar" in path.read_bytes().lower()}  # fmt: skip
    assert said <= {"README.md", "PRIVACY.md", "MODEL_CARD.md", "report.html", "findings.jsonl",
                    "verdict.json", "protocol.yaml"}  # fmt: skip
    assert not [name for name in said if "canary-0" in (release / name).read_text()]
    card = (release / "README.md").read_text()
    assert "24 canary images were made up" in card
    assert "none is released" in card
    assert Vocabulary.read(run.folder / "diffusion" / "vocabulary.json").attributes == ("finding",)
    synthetic = Cohort.read(run.folder / "synthetic")
    assert not {"canary"} & {record.origin for record in synthetic.records}


def test_canaries_lie_beside_the_weights_and_only_there(run):
    places = {path.relative_to(run.folder).parts[0] for path in run.folder.rglob("*canar*")}
    assert places == {"diffusion"}
    again = Canaries.read(run.folder / "diffusion")
    assert {record.origin for record in again.cohort.records} == {"canary"}
    real = Cohort.read(run.folder / "intake")
    assert not any((image == real.pixels).all((1, 2, 3)).any() for image in again.cohort.pixels)


def test_budget_that_canaries_make_impossible_is_refused_before_anything_is_trained(run, tmp_path):
    for stage in ("intake", "split"):
        (tmp_path / stage).symlink_to(run.folder / stage)
    patients = train_patients(run)
    between = (1 / patients + 1 / (patients + 1)) / 2  # kept with the patients alone
    tight = pipeline.start(study(**{**CHANGES, "diffusion.private.delta": between}), tmp_path)
    with pytest.raises(StageError, match="is not below 1 / "):
        pipeline.fit(tight)
    assert not (tmp_path / "lens.tmp").exists()


def test_only_the_denoiser_depends_on_canaries_and_null_is_as_if_they_were_not_known():
    with_, without = (pipeline.Run(Path(), study(**changes)) for changes in (PLANTED, {}))
    for stage in ("intake", "split", "lens", "autoencoder"):
        assert with_.settings(stage) == without.settings(stage)
    assert with_.settings("diffusion") != without.settings("diffusion")
    assert "canaries" not in without.settings("diffusion")["diffusion"]


def test_too_few_canaries_to_say_anything_are_a_fault():
    with pytest.raises(ProtocolError, match=r"diffusion\.canaries\.count"):
        study(**{"diffusion.canaries": {"count": 8}})


def test_same_protocol_plants_the_same_canaries_again(run):
    planted = Canaries.read(run.folder / "diffusion")
    again = make(24, domain="chest_xray", size_px=32, bits=8, seed=run.protocol.seed)
    assert again.cohort.digest == planted.cohort.digest
    assert (again.included == planted.included).all()
