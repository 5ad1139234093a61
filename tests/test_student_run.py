"""A run whose images a student draws: a stage of its own, between the denoiser and the images."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import PRIVATE, study

from medsynth import pipeline
from medsynth.cohort import Cohort
from medsynth.errors import ProtocolError, StaleError
from medsynth.models.denoiser import Denoiser
from medsynth.models.steps import read_pairs
from medsynth.pipeline import student
from medsynth.runtime import read_stage

SHORT = {f"{name}.training.images": 64 for name in ("lens", "autoencoder", "diffusion")}
STUDENT = {
    "steps": 2,
    "walks": 40,
    "ema": 0.5,
    "training": {"images": 64, "batch": 16, "learning_rate": 1e-3},
}
KNOBS = {**SHORT, "sample.steps": 4, "sample.sampler": "unipc", "sample.guidance": 1.5}


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run = pipeline.start(study(**KNOBS, **{"sample.student": STUDENT}), folder)
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    pipeline.sample(run)
    return folder


def changed(run: pipeline.Run, **changes) -> pipeline.Run:
    knobs = {**KNOBS, "sample.student": STUDENT, **changes}
    return pipeline.start(study(**knobs), run.folder)


def test_the_student_is_a_stage_that_the_images_hang_on(finished):
    assert set(read_stage(finished / "student").inputs) == {
        "intake", "split", "autoencoder", "diffusion",
    }  # fmt: skip
    drawn = read_stage(finished / "synthetic")
    assert drawn.inputs["student"] == read_stage(finished / "student").digest
    assert not (finished / "student" / "latents").exists()
    assert list((finished / "student" / "previews").iterdir())


def test_its_folder_opens_in_plain_diffusers_and_says_its_steps(finished):
    from diffusers import UNet2DConditionModel

    UNet2DConditionModel.from_pretrained(finished / "student", local_files_only=True)
    (first, middle), (again, last) = read_pairs(finished / "student")
    assert (first, again, last) == (999, middle, -1)


def test_images_are_drawn_by_its_steps_with_one_pass_each(run, monkeypatch):
    passes = []

    def counted(module, x, t, condition):
        passes.append((len(x), int(t[0])))
        return forward(module, x, t, condition)

    forward = Denoiser.forward
    before = Cohort.read(run.folder / "synthetic").pixels
    shutil.rmtree(run.folder / "synthetic")
    monkeypatch.setattr(Denoiser, "forward", counted)
    pipeline.sample(run)
    times = [t for t, _ in read_pairs(run.folder / "student")]
    assert passes == [(10, t) for _ in range(3) for t in times]  # 24 images, 10 at a time
    np.testing.assert_array_equal(Cohort.read(run.folder / "synthetic").pixels, before)


def test_without_the_student_the_denoiser_draws_and_nothing_is_trained(run):
    before = Cohort.read(run.folder / "synthetic").pixels
    run = pipeline.start(study(**KNOBS), run.folder)
    pipeline.fit(run)
    pipeline.sample(run)
    assert "student" not in read_stage(run.folder / "synthetic").inputs
    assert not np.array_equal(Cohort.read(run.folder / "synthetic").pixels, before)


def test_a_student_that_was_changed_keeps_the_gate_shut(run):
    path = run.folder / "student" / "config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(StaleError, match="student/ changed after it was made"):
        pipeline.check_fresh(run)


def test_how_many_images_are_drawn_leaves_the_student_and_other_guidance_does_not(run):
    was = read_stage(run.folder / "student").finished
    more = changed(run, **{"sample.images": 5})
    pipeline.fit(more)
    assert read_stage(run.folder / "student").finished == was
    other = changed(run, **{"sample.guidance": 2.0})
    with pytest.raises(StaleError, match="needs the folder student/"):
        pipeline.sample(other)


def test_under_a_privacy_budget_it_reads_no_patient_not_even_labels():
    """There is no run folder: whatever it opened would be missing."""
    knobs = {**PRIVATE, "sample.student": STUDENT, "sample.steps": 4}
    labels = student._labels(pipeline.Run(Path("nowhere"), study(**knobs)))
    assert len(labels) == 40
    assert sum(row["finding"] == "normal" for row in labels) == 27  # two in three


def test_a_student_needs_an_objective_that_says_something_in_pure_noise():
    with pytest.raises(ProtocolError, match=r"diffusion\.objective must be v or flow"):
        study(**KNOBS, **{"sample.student": STUDENT, "diffusion.objective": "eps"})
