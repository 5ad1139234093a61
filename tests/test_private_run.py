"""A whole run under a privacy budget: what is claimed adds up, or the verdict says that not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import PRIVATE, study

from medsynth import pipeline
from medsynth.budget import Account, Ledger
from medsynth.errors import ProtocolError, StageError, StaleError
from medsynth.finding import read_findings
from medsynth.models.autoencoder import Autoencoder
from medsynth.pipeline.autoencoder import fit_autoencoder
from medsynth.pipeline.run import silent
from medsynth.release.verify import verify
from medsynth.runtime import (
    SCRATCH_FOLDERS,
    VOLATILE,
    digest_files,
    digest_json,
    read_json,
    read_stage,
)
from medsynth.vocabulary import Vocabulary

LABELS = {"finding": {"normal": 2, "effusion": 1, "nodule": 0}}


def start(folder: Path, **changes) -> pipeline.Run:
    return pipeline.start(study(**{**PRIVATE, "sample.labels": LABELS, **changes}), folder)


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pipeline.run_all(start(folder), raw)
    return folder


def test_pipeline_without_a_patient_in_its_autoencoder_has_an_epsilon(finished):
    verdict = read_json(finished / "verdict.json")
    assert verdict["outcome"] == "passed"
    found = read_findings(finished / "evidence" / "findings.jsonl")["privacy.epsilon"]
    assert 19 < found.value == found.low == found.high <= 20
    assert found.unit == "at delta 0.001"
    claim = " ".join(verdict["claim"])
    assert "Differential privacy: epsilon" in claim
    assert "trained on made-up images" in claim
    assert "Epsilon does not cover" in claim
    card = (finished / "release" / "README.md").read_text()
    assert "Epsilon does not cover" in card
    assert "none is claimed" not in card


def test_ledger_stays_with_the_weights_and_the_secret_is_gone(finished):
    ledger = Ledger.read(finished / "diffusion" / "ledger.json")
    assert ledger.trainings == Account(finished / "spent.json").trainings()
    assert "ledger.json" in read_stage(finished / "diffusion").outputs
    assert not list(finished.rglob("noise.key"))
    assert not (finished / "autoencoder" / "latents").exists()


def test_labels_come_from_the_protocol_and_not_from_the_patients(finished):
    vocabulary = Vocabulary.read(finished / "diffusion" / "vocabulary.json")
    assert {value for _, value in vocabulary.tokens} == set(LABELS["finding"])
    rows = (finished / "synthetic" / "records.csv").read_text()
    assert (rows.count("normal"), rows.count("effusion"), rows.count("nodule")) == (16, 8, 0)


def test_private_denoiser_on_a_patients_autoencoder_is_refused_and_said(run, raw):
    changed = {"autoencoder.source": "patients"}
    with pytest.raises(StageError, match="the budget is spent: earlier trainings"):
        pipeline.run_all(start(run.folder, **changed), raw)
    changed["diffusion.private.epsilon"] = 40.0
    verdict = pipeline.run_all(start(run.folder, **changed), raw)
    assert verdict.outcome == "refused"
    assert any("privacy.epsilon: is not a finite number" in reason for reason in verdict.reasons)
    said = [sentence for sentence in verdict.claim if "do not add up" in sentence]
    assert len(said) == 1
    assert "the autoencoder learned from the same patients without it" in said[0]
    assert len(Ledger.read(run.folder / "diffusion" / "ledger.json").trainings) == 2


def test_images_that_are_handed_out_have_no_epsilon(run, raw):
    verdict = pipeline.run_all(start(run.folder, **{"sample.generator": "memorize"}), raw)
    assert verdict.outcome == "refused"
    assert any("training images were handed out" in sentence for sentence in verdict.claim)


def test_ledger_that_was_made_to_look_better_is_stale(run):
    path = run.folder / "diffusion" / "ledger.json"
    ledger = Ledger.read(path)
    replace(ledger, epsilon=1.0).write(path)
    with pytest.raises(StaleError, match="diffusion/ changed after it was made"):
        pipeline.decide(run)
    with pytest.raises(StaleError, match="says epsilon 1, and 19"):
        pipeline.validate(start(run.folder, **{"validate.bootstrap": 51}))


def test_other_labels_ask_for_another_training_and_other_shares_do_not(finished):
    run = pipeline.open_run(finished)
    same = start_settings({"finding": {"nodule": 5, "normal": 1, "effusion": 1}})
    other = start_settings({"finding": {"normal": 2, "effusion": 1}})
    assert run.settings("diffusion") == same
    assert run.settings("diffusion") != other


def start_settings(labels) -> dict:
    return pipeline.Run(Path(), study(**{**PRIVATE, "sample.labels": labels})).settings("diffusion")


def test_budget_needs_labels_that_do_not_come_from_patients():
    with pytest.raises(ProtocolError, match=r"diffusion\.private needs sample\.labels"):
        study(**{**PRIVATE, "sample.labels": None})


def test_what_can_not_be_kept_is_refused_before_anything_is_trained(finished, tmp_path):
    for stage in ("intake", "split"):
        shutil.copytree(finished / stage, tmp_path / stage)
    with pytest.raises(StageError, match=r"delta 0\.1 is not below"):
        pipeline.fit(start(tmp_path, **{"diffusion.private.delta": 0.1}))
    assert not (tmp_path / "lens").exists()
    assert not (tmp_path / "lens.tmp").exists()


def test_several_processes_are_refused_before_anything_is_trained(finished, tmp_path, monkeypatch):
    """The budget counts one process's patients and noise; torchrun would add up several."""
    for stage in ("intake", "split"):
        shutil.copytree(finished / stage, tmp_path / stage)
    run = start(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="private training runs in one process"):
        pipeline.fit(run)
    assert not (tmp_path / "lens.tmp").exists()
    assert not (tmp_path / "spent.json").exists()


def test_ledger_leaves_with_the_release_and_verifies(finished):
    inside = Ledger.read(finished / "diffusion" / "ledger.json")
    outside = Ledger.read(finished / "release" / "ledger.json")
    assert replace(outside, trainings=inside.trainings) == inside
    assert [row.id for row in outside.trainings] == ["1"]
    found = verify(finished / "release")
    assert found.ok, found.faults


# An autoencoder of an earlier run -----------------------------------------------------------------


def pinned(finished: Path, **changes) -> pipeline.Run:
    public = {
        "autoencoder.source": "public",
        "autoencoder.weights": str(finished / "autoencoder"),
        "autoencoder.sha256": read_stage(finished / "autoencoder").digest,
    }
    return pipeline.Run(finished, study(**{**PRIVATE, **public, **changes}))


def test_pinned_autoencoder_is_taken_over_as_it_is(finished, tmp_path):
    fit_autoencoder(pinned(finished), tmp_path, silent)
    before = Autoencoder.load(finished / "autoencoder").state_dict()
    after = Autoencoder.load(tmp_path).state_dict()
    assert all((before[name] == after[name]).all() for name in before)
    assert read_json(tmp_path / "source.json")["source"] == "public"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder.sha256": "0" * 64}, "is not the folder that autoencoder.sha256 pins"),
        ({"autoencoder.weights": "nowhere"}, "expected a folder, nowhere is none"),
        ({"autoencoder.latent_channels": 8}, r"are \(1, 4, 4\), .* say \(1, 4, 8\)"),
    ],
)
def test_another_autoencoder_than_the_pinned_one_is_refused(finished, tmp_path, changes, message):
    with pytest.raises(StageError, match=message):
        fit_autoencoder(pinned(finished, **changes), tmp_path, silent)


def test_autoencoder_of_the_study_s_own_patients_is_not_public(run, tmp_path):
    folder = run.folder / "autoencoder"
    (folder / "source.json").write_text('{"source": "patients", "sha256": null}')
    named = digest_files(folder, skip=(*VOLATILE, *SCRATCH_FOLDERS))
    changes = {"autoencoder.weights": str(folder), "autoencoder.sha256": digest_json(named)}
    with pytest.raises(StageError, match="trained on this study's own patients"):
        fit_autoencoder(pinned(run.folder, **changes), tmp_path / "new", silent)


def test_weights_without_their_digest_are_a_fault():
    with pytest.raises(ProtocolError, match="weights are needed with source: public"):
        study(**{"autoencoder.source": "public"})
