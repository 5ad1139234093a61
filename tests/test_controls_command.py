"""`medsynth control extract`, as somebody calls it who has a folder of images and no run."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medsynth.cli import app
from medsynth.data import phantoms


def call(*arguments):
    return CliRunner().invoke(app, ["control", "extract", *map(str, arguments), "--json"])


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_maps_have_the_size_that_was_asked_for_whatever_the_domain(domain, tmp_path):
    raw = tmp_path / "raw"
    phantoms.write_folder(raw, domain=domain, patients=2, seed=1, size_px=48, bad_files=0)
    images = raw / "images"
    names = {path.stem for path in images.iterdir()}
    result = call(
        images, tmp_path / "maps", "--kind", "canny", "--kind", "vessels", "--domain", domain,
        "--size", 32,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for kind in ("canny", "vessels"):
        maps = {
            path.stem: np.asarray(Image.open(path))
            for path in (tmp_path / "maps" / kind).glob("*.png")
        }
        assert maps.keys() == names
        assert {each.shape for each in maps.values()} == {(32, 32)}
    assert any(each.any() for each in maps.values())


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    result = call(tmp_path / "images", tmp_path / "maps", "--domain", "chest_xray")
    assert result.exit_code == 1
    assert "broken.png" in str(result.exception)
