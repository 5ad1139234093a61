"""`autoencoder.source: public` takes a diffusers AutoencoderKL of another make as it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from tiny import study

from medsynth import pipeline
from medsynth.errors import DataError, StageError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.foreign import open_foreign
from medsynth.pipeline.autoencoder import fit_autoencoder
from medsynth.pipeline.run import silent
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
