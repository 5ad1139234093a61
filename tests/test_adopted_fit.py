"""A diffusers AutoencoderKL of another make: taken as it is, or trained further."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from tiny import study, write_raw

from medsynth import budget, pipeline
from medsynth.errors import DataError, ProtocolError, StageError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.foreign import open_foreign
from medsynth.pipeline.autoencoder import fit_autoencoder
from medsynth.pipeline.run import parts_of, silent
from medsynth.runtime import digest_files, digest_json, read_json, run_stage


def foreign(folder: Path) -> dict:
    torch.manual_seed(0)
    AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        scaling_factor=0.2,
    ).save_pretrained(folder)
    return {
        "autoencoder.source": "public",
        "autoencoder.weights": str(folder),
        "autoencoder.sha256": digest_json(digest_files(folder)),
        "autoencoder.fold_px": 1,
        "autoencoder.widths": [8, 8, 16],
    }


def run_with(folder: Path, changes: dict) -> pipeline.Run:
    run_stage(folder / "intake", lambda work: None, inputs={}, settings={})
    return pipeline.Run(folder, study(**changes))


def test_it_is_taken_over_frozen_and_fits_grey_images(tmp_path):
    run = run_with(tmp_path, foreign(tmp_path / "vae"))
    out = tmp_path / "autoencoder"
    out.mkdir()
    fit_autoencoder(run, out, silent)
    images = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        made = Autoencoder.load(out).reconstruct(images)
    torch.testing.assert_close(made, open_foreign(tmp_path / "vae").reconstruct(images))
    assert read_json(out / "source.json")["source"] == "public"


def test_it_must_be_what_is_pinned_and_what_the_protocol_describes(tmp_path):
    changes = foreign(tmp_path / "vae")
    run = run_with(tmp_path, {**changes, "autoencoder.widths": [8, 16]})
    with pytest.raises(StageError, match=r"are \(1, 4, 4\), .* say \(1, 2, 4\)"):
        fit_autoencoder(run, tmp_path, silent)
    run = run_with(tmp_path, {**changes, "autoencoder.sha256": "0" * 64})
    with pytest.raises(StageError, match="is not the folder that"):
        fit_autoencoder(run, tmp_path, silent)


def test_a_folder_without_any_autoencoder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    changes = {
        **foreign(tmp_path / "vae"),
        "autoencoder.weights": str(tmp_path / "empty"),
        "autoencoder.sha256": digest_json(digest_files(tmp_path / "empty")),
    }
    with pytest.raises(DataError, match="holds no autoencoder"):
        fit_autoencoder(run_with(tmp_path, changes), tmp_path, silent)


# Trained further ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> Path:
    """A run folder whose patients are read and divided."""
    folder = tmp_path_factory.mktemp("patients")
    raw = write_raw(folder / "raw", patients=24, bad_files=0)
    run = pipeline.start(study(), folder / "run")
    pipeline.ingest(run, raw, silent)
    pipeline.split(run, silent)
    return folder / "run"


def further(patients: Path, weights: Path, **changes) -> pipeline.Run:
    tuned = {"autoencoder.source": "patients", "autoencoder.principal_start": False}
    return pipeline.Run(patients, study(**(foreign(weights) | tuned | changes)))


def fitted(run: pipeline.Run, folder: Path, progress=silent) -> Autoencoder:
    folder.mkdir(exist_ok=True)
    fit_autoencoder(run, folder, progress)
    return Autoencoder.load(folder)


def shown(run: pipeline.Run) -> torch.Tensor:
    cohort, parts = parts_of(run)
    return torch.from_numpy(cohort.floats(parts["train"]))


def test_training_starts_from_its_weights_and_measures_the_latents_anew(patients, tmp_path):
    still = {"autoencoder.training.learning_rate": 1e-12, "autoencoder.training.images": 16}
    run = further(patients, tmp_path / "vae", **still)
    made, images = fitted(run, tmp_path / "out"), shown(run)
    wanted = open_foreign(tmp_path / "vae").reconstruct(images)
    torch.testing.assert_close(made.reconstruct(images).detach(), wanted, atol=1e-4, rtol=1e-4)
    z = made.encode(images)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    assert made.half_head is not None  # deep supervision, which the other make does not know
    raw = further(patients, tmp_path / "vae", **still, **{"autoencoder.latents": "raw"})
    plain = fitted(raw, tmp_path / "raw")
    assert plain.latents_std.flatten().tolist() == [1.0] * 4


def test_it_learns_from_the_patients_and_no_budget_covers_it(patients, tmp_path):
    learns = {"autoencoder.training.images": 320, "autoencoder.training.learning_rate": 3e-3}
    run = further(patients, tmp_path / "vae", **learns)
    made, images = fitted(run, tmp_path / "out"), shown(run)
    before = open_foreign(tmp_path / "vae").reconstruct(images)
    errors = [((x - images) ** 2).mean().item() for x in (made.reconstruct(images), before)]
    assert errors[0] < errors[1] / 2
    said = read_json(tmp_path / "out" / "source.json")
    assert said == {"source": "patients", "sha256": run.protocol.autoencoder.sha256}
    assert said["source"] not in budget.AUTOENCODERS


def test_killed_and_started_again_it_ends_with_the_same_weights(patients, tmp_path):
    class Killed(Exception):
        pass

    def dies(what: str, share: float) -> None:
        if share >= 0.6:
            raise Killed

    run = further(patients, tmp_path / "vae", **{"autoencoder.training.images": 64})
    whole = fitted(run, tmp_path / "whole").state_dict()
    with pytest.raises(Killed):
        fitted(run, tmp_path / "killed", dies)
    again = fitted(run, tmp_path / "killed").state_dict()
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


PRIVATE = {
    "sample.labels": {"finding": {"normal": 1}},
    "diffusion.private": {"epsilon": 5.0, "delta": 1e-3},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder.principal_start": True}, "principal_start would undo the weights"),
        ({"autoencoder.source": "phantoms"}, "not with source: phantoms"),
        ({"autoencoder.sha256": None}, "weights and sha256 come together"),
        (PRIVATE, "does not cover an autoencoder that is fine-tuned on patients"),
    ],
)
def test_what_does_not_go_together_is_refused(patients, tmp_path, changes, message):
    with pytest.raises(ProtocolError, match=message):
        further(patients, tmp_path / "vae", **changes)
