"""The table of what keeps a small cohort's denoiser from copying, checkpoint by checkpoint."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny import study

from medsynth import protocol

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import contest
import few

LENS = protocol.Lens(
    width=8, features=16, training=protocol.Optimiser(images=64, batch=32, learning_rate=1e-3)
)
SMALL = {
    "split": {"validation": 0.5, "holdout": 0.3},
    "diffusion.choose": {"checkpoints": 3, "images": 20, "steps": 2},
}


@pytest.mark.parametrize("domain", ["chest_xray", "fundus", "histology"])
def test_the_page_shows_what_the_shipped_profile_has(domain):
    page = (Path(__file__).parents[1] / "docs/few.md").read_text()
    shown = YAML(typ="safe").load(page.split("```yaml\n")[1].split("```")[0])
    profile = protocol.load(protocol.shipped(domain), profile="few").to_dict()
    for section, knobs in shown.items():
        for knob, value in knobs.items():
            other = profile[section][knob]
            if isinstance(value, dict):
                other = {name: other[name] for name in value}
            assert other == value, f"{section}.{knob}"


@pytest.fixture(scope="module")
def common(raw, tmp_path_factory):
    return contest.prepare(raw, tmp_path_factory.mktemp("few"), study(**SMALL), lens=LENS)


def test_every_checkpoint_is_held_against_trained_on_and_held_out_patients(common):
    points = few.study_few(common, common.protocol, "told", 2)
    assert [point.images_seen for point in points] == [96, 176, 256]
    assert all(point.drawn == 20 and 0 <= point.flagged <= 20 for point in points)
    assert sum(point.chosen for point in points) == 1
    assert all(point.scores.keys() >= {"frechet", "precision", "recall"} for point in points)
    assert len({point.scores["frechet"] for point in points}) == 3  # other weights, other images
    assert few.study_few(common, common.protocol, "told", 2) == points  # and not trained again


def test_the_table_adds_up_flagged_images_over_seeds():
    floors = {"frechet": 0.25, "precision": 0.9, "recall": 1.0}
    one = few.Point("told", 1, 80, 200, 3, 0.0125, True, dict(floors, frechet=2.0), floors)
    two = replace(one, seed=2, flagged=5, chosen=False, scores=dict(floors, frechet=4.0))
    lines = few.table([one, two]).splitlines()
    row = "| told | 80 | 8 of 400: 2.0% (0.9% to 3.9%) | 3 | 0.9 | 1 | 1 of 2 |"
    assert lines[2] == row
    assert lines[3] == "| real against real | - | 1.2% by chance | 0.25 | 0.9 | 1 | - |"
