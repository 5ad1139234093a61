"""What a protocol will cost is foretold by a rehearsal, and by arithmetic that can be checked."""

import json
from dataclasses import replace
from functools import partial

import pytest
from tiny import TEXT, study
from typer.testing import CliRunner

from medsynth import cli
from medsynth.errors import StageError
from medsynth.pipeline import forecast, rehearsal

PARTS = {"train": 50, "validation": 10, "holdout": 40}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return rehearsal.rehearse(study(), tmp_path_factory.mktemp("rehearsal") / "run", PARTS)


@pytest.fixture
def made_up_time(monkeypatch, run):
    """A clock that only stages move: 5 s before the first step, 2 s a step, and of a run of ten
    batches 1 s a look and save, 3 s a picture at every second step."""
    now = [0.0]

    def build(stage, opened, folder, tick):
        training = getattr(opened.protocol, stage).training
        now[0] += 5.0
        for step in range(1, 1000):
            now[0] += 2.0
            if training.images == 10 * training.batch:
                now[0] += 1.0 + 3.0 * (step % 2 == 0)
            tick(stage, 0.0)

    builders = {stage: partial(build, stage) for stage in rehearsal.BUILDERS}
    monkeypatch.setattr(rehearsal, "BUILDERS", builders)
    return lambda: now[0]


@pytest.mark.parametrize("stage", ["lens", "autoencoder", "diffusion"])
def test_steps_looks_and_pictures_are_told_apart(made_up_time, run, stage):
    assert rehearsal.pace(run, stage, made_up_time) == (5.0, 2.0, "")
    assert rehearsal.asides(run, stage, made_up_time, 2.0) == (1.0, 3.0)


def test_a_second_player_counts_for_its_share_of_the_training(monkeypatch, run):
    both = study(
        **{
            "autoencoder.adversarial": {"after_images": 96},  # of 128
        }
    )
    now = [0.0]

    def build(opened, folder, tick):
        early = opened.protocol.autoencoder.adversarial.after_images == 0
        for _ in range(100):
            now[0] += 6.0 if early else 2.0
            tick("autoencoder", 0.0)

    monkeypatch.setattr(rehearsal, "BUILDERS", {"autoencoder": build})
    opened = replace(run, protocol=both)
    _, step, said = rehearsal.pace(opened, "autoencoder", lambda: now[0])
    assert step == 0.75 * 2.0 + 0.25 * 6.0
    assert "second player" in said


def test_a_whole_study_is_foretold_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "SECONDS", 0.1)
    monkeypatch.setattr(forecast, "validate", lambda run: None)  # its own tests run it
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT)
    options = ["doctor", "--plan", str(file), "--images", "100", "--json"]
    said = json.loads(CliRunner().invoke(cli.app, options, catch_exceptions=False).stdout)
    stages = [row["stage"] for row in said["stages"]]
    assert stages == ["lens", "autoencoder", "diffusion", "sample", "validate"]
    assert said["seconds"] == pytest.approx(sum(row["seconds"] for row in said["stages"]))
    assert all(row["seconds"] > 0 for row in said["stages"][:4])
    assert 0.1 < said["memory_gib"] < 20
    lines = forecast.tell_forecast([forecast.Cost(**row) for row in said["stages"]])
    assert "8 steps of" in lines[0]  # 256 images at 32
    assert "16 steps of" in lines[2]
    assert lines[-1].startswith("all")


def test_a_student_costs_its_walks_and_its_steps_and_spares_sampling_steps(made_up_time, run):
    asked = {"sample.student": {"steps": 2, "walks": 100, "training": {
        "images": 320, "batch": 32, "learning_rate": 1e-4}}}  # fmt: skip
    (cost,) = forecast._teaching(run, study(**asked), made_up_time, lambda steps: 3.0 * steps)
    # 10 walks' blocks of 4 steps, and 10 steps of twice the denoiser's batch of 16
    assert cost.seconds == 10 * 12.0 + 10 * 4.0
    assert not forecast._teaching(run, study(), made_up_time, lambda steps: 3.0)


def test_a_private_study_is_not_foretold_from_made_up_patients():
    private = study(
        **{"diffusion.private": {"epsilon": 8, "delta": 1e-4}, "sample.labels": {}}
    )  # fmt: skip
    with pytest.raises(StageError, match="made-up patients"):
        forecast.foretell(private)


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.3, "12 s"), (600.0, "10 min"), (7200.0, "2.0 h")]
)
def test_times_are_said_in_words(seconds, words):
    assert forecast.in_words(seconds) == words


def test_the_split_is_that_of_the_protocol():
    assert forecast.sizes(study(), 1000) == {"train": 500, "validation": 100, "holdout": 400}
