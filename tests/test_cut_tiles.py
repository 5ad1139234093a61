"""Images and their masks cut into tiles."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "tiles.py"


def test_a_tile_and_its_mask_are_of_one_place_and_one_patient(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
    within = np.zeros((40, 56), np.uint8)
    within[:, 8:] = 255
    Image.fromarray(image).save(raw / "a.png")
    Image.fromarray(np.where(image[..., 0] > 127, 255, 0).astype(np.uint8)).save(raw / "mask.png")
    Image.fromarray(within).save(raw / "within.png")
    (raw / "labels.csv").write_text("path,patient_id,m,w\na.png,P1,mask.png,within.png\n")
    asked = (raw, tmp_path / "out", "--masks", "m", "--within", "w", "--px", 16, "--every", 8)
    subprocess.run([sys.executable, str(SCRIPT), *map(str, asked)], check=True)
    with (tmp_path / "out" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 5  # from 8 px on, where all of a tile lies within
    assert {row["patient_id"] for row in rows} == {"P1"}
    for row in rows:
        tile = np.asarray(Image.open(tmp_path / "out" / row["path"]))
        mask = np.asarray(Image.open(tmp_path / "out" / row["path"].replace("images", "masks")))
        assert np.array_equal(mask, tile[..., 0] > 127)
