"""`medsynth fidelity` from the command line: what it prints, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import study
from typer.testing import CliRunner

from medsynth import cli
from medsynth.data import phantoms
from medsynth.models.autoencoder import Autoencoder


def run(*words: object):
    return CliRunner().invoke(cli.app, ["fidelity", *map(str, words)])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("fidelity")
    (root / "images").mkdir()
    drawn = [phantoms.draw("chest_xray", person, 0, 5, 32)[0] for person in range(10)]
    for person, pixels in enumerate(drawn):
        Image.fromarray(pixels[..., 0]).save(root / "images" / f"{person}.png")
    torch.manual_seed(0)
    net = Autoencoder.build(study().autoencoder, channels=1)
    images = np.stack(drawn).transpose(0, 3, 1, 2) / 127.5 - 1
    net.start_from(torch.from_numpy(images.astype(np.float32)))
    net.save(root / "coder")
    return root / "coder", root / "images"


def test_it_says_what_it_found_and_where_to_look(folders, tmp_path):
    out = tmp_path / "out"
    done = run(*folders, "--out", out, "--against", folders[0], "--set", "validate.bootstrap=50")
    assert done.exit_code == 0, done.output
    for words in ("A guess", "10 images of 10 patients at 32 px", "kept.edges", "report.html"):
        assert words in done.output
    assert "can't be told which is better" in done.output
    again = run(*folders, "--out", out, "--against", folders[0], "--json",
                "--set", "validate.bootstrap=50")  # fmt: skip
    said = json.loads(again.output)
    assert {"said", "findings", "better", "report"} == said.keys()
    assert {row["name"] for row in said["findings"]} >= {"reconstruction.ssim", "kept.spots"}
    assert all(row["value"] == 0 for row in said["better"])


def test_what_is_no_autoencoder_is_an_error(folders, tmp_path):
    done = run(folders[1], folders[1], "--out", tmp_path / "out")
    assert "holds no autoencoder" in str(done.exception)
