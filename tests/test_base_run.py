"""A run whose base is a text-conditioned network of a local folder: samples, a concept, a control
and variations, by the same commands as with a denoiser of its own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny import study, write_raw
from tiny_base import asking, write_base

from medsynth import pipeline
from medsynth.cohort import Cohort
from medsynth.errors import DataError, ProtocolError, StageError
from medsynth.pipeline.prompted import draft_base, said, take_base
from medsynth.pipeline.run import silent
from medsynth.runtime import digest_files, read_json

SHORT = {
    "lens.training.images": 64,
    "sample.images": 6,
    "sample.steps": 2,
    "concept.vectors": 2,
    "concept.training.images": 64,
    "augment.children": 1,
    "augment.measured": 0,
    "control.kinds": ["canny"],
    "control.images": 4,
    "control.training.images": 64,
    "control.training.batch": 8,
    "control.training.learning_rate": 2e-3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> pipeline.Run:
    """A fitted run; what it was pinned to is gone."""
    raw, place = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("run")
    write_raw(raw, patients=14, bad_files=0)
    copy = place.parent / "copy"
    shutil.copytree(folder, copy)
    run = pipeline.start(study(**asking(copy), **SHORT), place)
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    shutil.rmtree(copy)
    return run


def parts(run: pipeline.Run) -> dict[str, str]:
    return {name: digest for part in ("autoencoder", "diffusion")
            for name, digest in digest_files(run.folder / part).items()}  # fmt: skip


def test_what_is_drawn_is_drawn_from_the_labels_in_words(run):
    pipeline.sample(run)
    drawn = Cohort.read(run.folder / "synthetic")
    assert {record.origin for record in drawn.records} == {"synthetic"}
    assert np.asarray(drawn.pixels).std() > 0
    told = read_json(run.folder / "diffusion" / "prompt.json")
    assert told == {"prompt": "a chest x-ray, {finding}"}


def test_a_concept_is_learned_and_drawn_and_the_base_stays(run, tmp_path):
    before = parts(run)
    shown = write_raw(tmp_path / "shown", patients=3, bad_files=0) / "images"
    told = pipeline.learn_concept(run, shown, "dark", start="finding=normal")
    assert told["loss"]["after"] < told["loss"]["before"]
    drawn = pipeline.sample_concept(run, "dark", tmp_path / "drawn", images=2)
    assert {record.origin for record in drawn.records} == {"derived"}
    assert parts(run) == before


def test_a_control_is_fitted_and_the_base_stays(run):
    before = parts(run)
    found = pipeline.fit_control(run, "canny")
    assert "control.canny.gain" in {finding.name for finding in found}
    assert parts(run) == before


def test_children_are_derived(run):
    pipeline.augment(run)
    derived = Cohort.read(run.folder / "derived")
    assert {record.origin for record in derived.records} == {"derived"}
    assert all(record.parent for record in derived.records)


def test_the_verdict_says_that_the_base_was_not_audited(run):
    assert "Whom it learned from was not audited" in said(run)[0]
    assert said(pipeline.Run(run.folder, study())) == ()


# What is refused ----------------------------------------------------------------------------------


def refused(run: pipeline.Run, tmp_path: Path, folder: Path, **changes) -> None:
    """Take the base over as a protocol with changes asks, into a copy without it."""
    asked = pipeline.Run(run.folder, study(**{**asking(folder), **changes}))
    take_base(asked, tmp_path, silent)


def test_a_base_must_be_the_one_that_is_pinned_and_described(run, folder, tmp_path):
    with pytest.raises(StageError, match=r"is not the folder that .* its digest is [0-9a-f]{64}"):
        refused(run, tmp_path, folder, **{"diffusion.base.sha256": "0" * 64})
    with pytest.raises(StageError, match=r'write objective: "eps", schedule: "scaled_linear", .*'
                       r"betas: \[0.00085, 0.012\]"):  # fmt: skip
        refused(run, tmp_path, folder, **{"diffusion.betas": None})
    with pytest.raises(
        StageError, match="has places for view, and the training patients' labels are finding"
    ):
        refused(run, tmp_path, folder, **{"diffusion.base.prompt": "a chest, {view}"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("unet", "match"),
    [
        ({"in_channels": 3, "out_channels": 3}, "draws 3 latent channels, the autoencoder has 4"),
        ({"block_out_channels": (8, 8, 8)}, "halves latents 2 times, and 10 is no multiple of 4"),
    ],
)
def test_a_base_must_take_the_latents_that_there_are(unet, match, run, tmp_path):
    other = write_base(tmp_path / "other", **unet)
    with pytest.raises(StageError, match=match):
        refused(run, tmp_path, other, **{"image.size_px": 40})


def test_a_folder_that_is_no_base_is_named(tmp_path):
    (tmp_path / "unet").mkdir()
    with pytest.raises(DataError, match="it has no scheduler, text_encoder, tokenizer"):
        draft_base(tmp_path, "a chest, {finding}")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"diffusion.base.prompt": "a chest x-ray"}, "names no label"),
        ({"diffusion.patience": 3}, "base is not trained"),
        ({"autoencoder.source": "patients", "autoencoder.weights": None,
          "autoencoder.sha256": None}, "draws latents of its own autoencoder"),
    ],
)  # fmt: skip
def test_protocol_says_what_does_not_fit_beside_a_base(changes, match, folder):
    with pytest.raises(ProtocolError, match=match):
        study(**{**asking(folder), **changes})


def test_its_cost_is_not_foretold_on_made_up_patients(folder):
    with pytest.raises(StageError, match="time one run with few"):
        pipeline.foretell(study(**asking(folder)))


def test_init_writes_a_protocol_with_the_base_pinned(folder, tmp_path):
    from medsynth import protocol

    raw = write_raw(tmp_path / "raw", patients=6, bad_files=0)
    pipeline.init(raw, tmp_path / "p.yaml", base=folder)
    text = (tmp_path / "p.yaml").read_text()
    start = text.index("# gate:")
    drafted = protocol.parse(text[:start] + text[start:].replace("# ", ""))
    asked = study(**asking(folder))
    assert drafted.diffusion.base.sha256 == asked.diffusion.base.sha256
    assert drafted.diffusion.base.prompt == "chest radiographs, {finding}"
    assert drafted.diffusion.betas == asked.diffusion.betas
    assert drafted.autoencoder.sha256 == asked.autoencoder.sha256
