"""Rivals of other makes compete on the same terms as protocols do."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import study

from medsynth import pipeline, protocol
from medsynth.cohort import Cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import against_medfusion as match
import contest
import timed

LENS = protocol.Lens(
    width=8, features=16, training=protocol.Optimiser(images=128, batch=32, learning_rate=1e-3)
)


@pytest.fixture(scope="module")
def common(raw, tmp_path_factory):
    return contest.prepare(raw, tmp_path_factory.mktemp("match"), study(), lens=LENS)


@pytest.mark.parametrize("name", match.OTHERS)
def test_a_rival_of_another_make_trains_draws_and_is_scored(name, common, monkeypatch):
    rival = importlib.import_module(f"rival_{name}")
    monkeypatch.setattr(rival, "BATCH", 4)
    monkeypatch.setattr(rival, "STEPS", 2)
    monkeypatch.setattr(contest, "in_a_process", lambda function, *given: function(*given))
    knobs = {"minutes": 1e-6, "seed": 1, "images": 20, "share": 0.5}
    result = match.compete_with(common, name, **knobs)
    made = Cohort.read(common.folder.parent / f"{name}-1" / "synthetic")
    assert made.pixels.shape == (20, 32, 32, 1)
    assert result.seen == {"autoencoder": 4, "diffusion": 4}  # one step at least
    assert {"frechet", "recall"} <= result.scores.keys()
    monkeypatch.setattr(match, "run_rival", None)
    assert match.compete_with(common, name, **knobs) == result


def test_medfusion_gets_the_patients_of_the_other_and_keeps_its_recipe():
    ours = study(**{"image.size_px": 96})
    rival = match.medfusion(ours)
    assert (rival.image, rival.data, rival.split) == (ours.image, ours.data, ours.split)
    published = protocol.load(protocol.shipped("medfusion"))
    assert (rival.autoencoder, rival.diffusion) == (published.autoencoder, published.diffusion)


def test_classes_that_rivals_see_are_the_training_images_labels(common, monkeypatch):
    seen = {}

    class Spy:
        @staticmethod
        def compete(images, classes, **knobs):
            seen.update(images=images, classes=classes)

    monkeypatch.setattr(match.importlib, "import_module", lambda name: Spy)
    match.run_rival("spy", common, {})
    cohort, parts = pipeline.parts_of(common)
    labels = [cohort.records[i].labels["finding"] for i in parts["train"]]
    assert len(seen["images"]) == len(labels)
    assert len(set(zip(labels, seen["classes"].tolist(), strict=True))) == len(set(labels))


def test_a_loop_of_its_own_stops_when_its_time_is_over(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(timed, "clock", lambda: lambda: now[0])
    shares = []

    def step(share):
        shares.append(share)
        now[0] += 2.0

    assert timed.train_for(8.0, step) == (8.0, 4)
    assert shares == [0.0, 0.25, 0.5, 0.75]
    assert timed.train_for(0.0, step)[1] == 1


def test_a_samplers_rate_leaves_out_the_first_batch(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timed, "clock", lambda: lambda: now[0])

    def draw(count):
        now[0] += 100.0 if now[0] == 0 else 2.0
        return torch.zeros(count, 1, 8, 8)

    made, rate = timed.draw_in_batches(draw, 24, batch=10)
    assert made.shape == (24, 1, 8, 8)
    assert rate == pytest.approx(14 / 4)
    assert np.isclose(timed.draw_in_batches(draw, 5, batch=10)[1], 5 / 2)
