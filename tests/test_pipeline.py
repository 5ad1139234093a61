"""The whole way on a tiny study: each stage binds what it read, and a kill changes nothing."""

import functools
import json
import multiprocessing
import os
import random
import shutil
import time
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
from tiny import study

from medsynth import pipeline
from medsynth.cohort import Cohort
from medsynth.data import intake
from medsynth.errors import RefusedError, StageError, StaleError
from medsynth.finding import read_findings, write_findings
from medsynth.runtime import digest_files, read_json, read_stage

KEY = "5" * 64 + "\n"
STAGES = ("intake", "split", "lens", "autoencoder", "diffusion", "synthetic", "evidence")


def new_run(folder: Path, **changes) -> pipeline.Run:
    """Start a run whose pseudonyms are those of every other test's run."""
    run = pipeline.start(study(**changes), folder)
    (folder / "site.key").write_text(KEY)
    (folder / "site.key").chmod(0o600)
    return run


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    before = os.umask(0)  # the loosest there is
    try:
        pipeline.run_all(new_run(folder), raw)
    finally:
        os.umask(before)
    return folder


def what_counts(folder: Path) -> dict:
    """What must be the same after a kill: the verdict and every image, real and synthetic."""
    named = digest_files(folder)
    return {
        name: sha
        for name, sha in named.items()
        if name == "verdict.json"
        or name.startswith("release/images/")
        or name.endswith((".npy", ".safetensors", "findings.jsonl", "split.csv"))
    }


def test_nothing_in_a_run_is_for_others_eyes_whatever_the_umask(finished):
    loose = [path.name for path in finished.rglob("*") if path.stat().st_mode & 0o077]
    assert loose == []


def test_run_makes_every_folder_and_names_what_each_was_made_from(finished):
    for stage in STAGES:
        record = read_stage(finished / stage)
        assert set(record.inputs) == set(pipeline.PLANS[stage].needs)
        assert record.versions["medsynth"]
    assert not list(finished.glob("*.tmp"))
    assert (finished / "report.html").exists()


def test_passed_run_has_a_release_and_a_refused_one_has_none(finished):
    verdict = read_json(finished / "verdict.json")
    assert (finished / "release").exists() == (verdict["outcome"] == "passed")


def test_bad_file_is_in_quarantine_and_the_run_went_on(finished):
    rows = (finished / "intake" / "quarantine.csv").read_text().splitlines()
    assert len(rows) == 2
    assert len(Cohort.read(finished / "intake")) == 80


def test_patients_never_straddle_the_split(finished):
    cohort, parts = pipeline.parts_of(pipeline.open_run(finished))
    patients = [set(cohort.patients[indices].tolist()) for indices in parts.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 40


def test_second_run_does_nothing(finished, raw):
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/stage.json")}
    pipeline.run_all(pipeline.open_run(finished), raw)
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("*/stage.json")}


def test_changed_knob_makes_only_what_depends_on_it_again(run, raw):
    before = {stage: read_stage(run.folder / stage).key for stage in STAGES}
    changed = pipeline.start(study(**{"sample.steps": 3}), run.folder)
    pipeline.run_all(changed, raw)
    after = {stage: read_stage(run.folder / stage).key for stage in STAGES}
    assert [stage for stage in STAGES if before[stage] != after[stage]] == ["synthetic", "evidence"]


@pytest.mark.parametrize(
    "file",
    [
        "synthetic/pixels.npy",
        "evidence/findings.jsonl",
        "split/split.csv",
        "diffusion/tokens.safetensors",
    ],
)
def test_a_changed_byte_shuts_the_gate(run, file):
    path = run.folder / file
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StaleError, match="changed after it was made"):
        pipeline.decide(run)
    with pytest.raises((StaleError, StageError)):
        pipeline.release(run)


def test_evidence_on_an_older_cohort_is_stale(run):
    changed = pipeline.start(study(**{"sample.steps": 3}), run.folder)
    pipeline.sample(changed)
    with pytest.raises(StaleError, match="evidence/ was made from other inputs"):
        pipeline.decide(changed)


def test_verdict_under_other_rules_opens_nothing(run):
    rules = [{"finding": "memorization.p_value", "at_least": 0.0}]
    loosened = pipeline.start(study(**{"gate.rules": rules}), run.folder)
    with pytest.raises(StaleError, match="the verdict was given on something else"):
        pipeline.release(loosened)


def test_finding_that_is_missing_refuses(run):
    path = run.folder / "evidence" / "findings.jsonl"
    kept = [item for item in read_findings(path).values() if item.name != "memorization.p_value"]
    write_findings(path, kept)
    record = read_json(run.folder / "evidence" / "stage.json")
    record["outputs"]["findings.jsonl"] = digest_files(path.parent)["findings.jsonl"]
    (run.folder / "evidence" / "stage.json").write_text(json.dumps(record))
    verdict = pipeline.decide(run)
    assert verdict.outcome == "refused"
    with pytest.raises(RefusedError, match="was not measured"):
        pipeline.release(run)


def test_generator_that_copies_is_refused(run, raw):
    copying = pipeline.start(study(**{"sample.generator": "memorize"}), run.folder)
    verdict = pipeline.run_all(copying, raw)
    assert verdict.outcome == "refused"
    assert any("p_value" in reason for reason in verdict.reasons)
    assert not (run.folder / "release").exists()


def test_drawing_again_does_not_undo_a_rejection(run, raw):
    """With the generator that copies: more or other images of it are refused for good."""
    copying = {"sample.generator": "memorize"}
    pipeline.run_all(pipeline.start(study(**copying), run.folder), raw)
    loose = {"gate.rules": [{"finding": "memorization.p_value", "at_least": 0.0}]}
    again = pipeline.start(study(**copying, **loose, **{"sample.images": 20}), run.folder)
    verdict = pipeline.run_all(again, raw)
    assert verdict.outcome == "refused"
    rest = verdict.reasons[1:]  # every copy is quarantined, too, and nothing else is wrong
    assert all("every image was quarantined" in reason for reason in rest)
    assert "attempt 2: a test rejected this generator" in verdict.reasons[0]
    honest = pipeline.start(study(**loose), run.folder)
    assert pipeline.run_all(honest, raw).passed


def test_run_folder_without_a_protocol_is_named(tmp_path):
    with pytest.raises(StageError, match="is no run folder"):
        pipeline.open_run(tmp_path)


def test_stage_before_its_turn_is_told_what_is_missing(tmp_path):
    run = new_run(tmp_path)
    with pytest.raises(StageError, match="split needs the folder intake/"):
        pipeline.split(run)


def go(raw: str, folder: str) -> None:
    """Run the study in a process that can be killed, too soon to start others that read."""
    intake.ingest = functools.partial(intake.ingest, workers=0)
    pipeline.run_all(new_run(Path(folder)), Path(raw))


@pytest.fixture(scope="module")
def processes():
    forkserver._forkserver._stop()  # one that has loaded less, and was started for ingest
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["test_pipeline", "diffusers", "monai.transforms"])
    return context


def test_killed_ten_times_at_random_it_ends_with_the_same_verdict_and_images(
    processes, finished, raw, tmp_path
):
    draw = random.Random(4)
    for _ in range(10):
        process = processes.Process(target=go, args=(str(raw), str(tmp_path)))
        process.start()
        time.sleep(draw.uniform(0.3, 4.0))
        process.kill()
        process.join()
    process = processes.Process(target=go, args=(str(raw), str(tmp_path)))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert what_counts(tmp_path) == what_counts(finished)


def test_real_pixels_are_nowhere_in_the_release(run, raw):
    rules = [{"finding": "memorization.p_value", "at_least": 0.0}]
    verdict = pipeline.run_all(pipeline.start(study(**{"gate.rules": rules}), run.folder), raw)
    assert verdict.passed
    from PIL import Image

    real = {image.tobytes() for image in Cohort.read(run.folder / "intake").pixels}
    released = list((run.folder / "release").rglob("*.png"))
    assert 20 <= len(released) <= 24  # a quarantine takes a few
    assert all(np.asarray(Image.open(path)).tobytes() not in real for path in released)
    pseudonyms = {record.patient for record in Cohort.read(run.folder / "intake").records}
    text = "".join(
        path.read_text()
        for path in (run.folder / "release").rglob("*")
        if path.suffix in (".csv", ".md", ".json", ".jsonl", ".yaml", ".html")
    )
    assert not any(name in text for name in pseudonyms)


def test_lens_of_an_earlier_run_can_be_pinned_and_used(run, raw):
    """A protocol that names the very lens that was trained measures the very same."""
    from medsynth.runtime import digest_file

    weights = run.folder.parent / "earlier.safetensors"
    shutil.copyfile(run.folder / "lens" / "lens.safetensors", weights)
    before = (run.folder / "evidence" / "findings.jsonl").read_text()
    pinned = {"lens.weights": str(weights), "lens.sha256": digest_file(weights)}
    pipeline.run_all(pipeline.start(study(**pinned), run.folder), raw)
    assert not (run.folder / "lens" / "log.jsonl").exists()
    assert (run.folder / "evidence" / "findings.jsonl").read_text() == before
