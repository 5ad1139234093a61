"""The last weights before copying sets in: by a script, and by a network that learns by heart."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import study, write_raw

from medsynth import pipeline
from medsynth.cohort import Cohort, Record
from medsynth.data import phantoms
from medsynth.data.loader import Frames
from medsynth.errors import ProtocolError, StageError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.pipeline import choice
from medsynth.pipeline.run import Run, silent
from medsynth.release.charts import curve_svg
from medsynth.runtime import digest_files, read_json, read_jsonl, read_stage
from medsynth.training import checkpoints
from medsynth.vocabulary import Vocabulary

CHOOSE = {"diffusion.choose": {"checkpoints": 3, "images": 20, "steps": 2}}
SEEN = (100, 200, 300)
TRAIN, VALIDATION, HOLDOUT, OTHERS = range(12), range(12, 28), range(28, 36), range(36, 56)


def chests() -> Cohort:
    """Fifty-six people, one image of each."""
    records = tuple(Record(f"real-{p}", "real", f"P{p}") for p in range(56))
    pixels = [phantoms.draw("chest_xray", p, 0, 5, 32)[0] for p in range(56)]
    return Cohort("chest_xray", records, np.stack(pixels))


def network(seed: int) -> Denoiser:
    torch.manual_seed(seed)
    return Denoiser.build(study().diffusion, latent_channels=4, latent_px=8, tokens=1)


def weights(denoiser: Denoiser) -> float:
    return float(denoiser.tokens.weight.detach().double().sum())


CHESTS = chests()
SEEN_BY = {weights(network(seen)): seen for seen in SEEN}


def choose(folder: Path, *, cohort: Cohort = CHESTS) -> dict:
    """Choose among made-up weights in a trained denoiser's workspace; return choice.json."""
    if not folder.exists():
        folder.mkdir()
        for seen in SEEN:
            checkpoints.keep(folder, seen, {"denoiser": network(seen)})
    torch.manual_seed(0)
    autoencoder = Autoencoder.build(study().autoencoder, channels=1).eval()
    train, validation = (Frames(cohort, np.array(part)) for part in (TRAIN, VALIDATION))
    run, nothing = Run(folder, study(**CHOOSE)), Vocabulary.from_labels([])
    what = choice.Study(run, folder, train, validation, autoencoder, nothing, "cpu")
    choice.choose(what, network(9), silent)
    return read_json(folder / "choice.json")


def script(copies: dict[int, int]) -> Callable:
    """In the place of sampling: so many of 20 images of a checkpoint are training images."""

    def draw(study, denoiser: Denoiser) -> np.ndarray:
        count = copies.get(SEEN_BY[weights(denoiser)], 0)
        images = CHESTS.floats(np.array(OTHERS)).copy()
        images[:count] = CHESTS.floats(slice(count))
        return images

    return draw


@pytest.mark.parametrize(
    ("copies", "taken"), [({100: 1}, 300), ({300: 12}, 200), ({200: 9, 300: 1}, 100)]
)
def test_last_weights_before_the_first_that_copy_lie_in_the_folder(
    tmp_path, monkeypatch, copies, taken
):
    monkeypatch.setattr(choice, "_draw", script(copies))
    row = choose(tmp_path / "run")
    assert (row["chosen"], row["copies"]) == (taken, False)
    assert [point["images_seen"] for point in row["points"]] == list(SEEN)
    assert all(point["flagged"] >= copies.get(point["images_seen"], 0) for point in row["points"])
    found, expected = Denoiser.load(tmp_path / "run").state_dict(), network(taken).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_where_all_copy_the_first_is_taken_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_draw", script(dict.fromkeys(SEEN, 12)))
    row = choose(tmp_path / "diffusion")
    assert (row["chosen"], row["copies"]) == (100, True)
    (sentence,) = choice.said(Run(tmp_path, study()))
    assert "after 100 of 300 images, number 1 of 3" in sentence
    assert sentence.endswith("near one patient.")


def test_kill_changes_nothing_and_held_out_patients_have_no_part_in_it(tmp_path, monkeypatch):
    """The second time without the held-out images, killed on the way and started again."""
    draw, asked = script({300: 12}), []

    def dies(study, denoiser):
        asked.append(SEEN_BY[weights(denoiser)])
        if len(asked) == 3:
            raise KeyboardInterrupt
        return draw(study, denoiser)

    monkeypatch.setattr(choice, "_draw", draw)
    choose(tmp_path / "whole")
    monkeypatch.setattr(choice, "_draw", dies)
    pixels = CHESTS.pixels.copy()
    pixels[HOLDOUT.start : HOLDOUT.stop] = 0
    without = replace(CHESTS, pixels=pixels)
    with pytest.raises(KeyboardInterrupt):
        choose(tmp_path / "broken", cohort=without)
    choose(tmp_path / "broken", cohort=without)
    assert asked == [100, 200, 300, 300]
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


# What is asked for --------------------------------------------------------------------------------


def test_choice_and_a_privacy_budget_do_not_go_together():
    private = {"epsilon": 1.0, "delta": 1e-5}
    with pytest.raises(ProtocolError, match="without noise, which no privacy budget covers"):
        study(**{**CHOOSE, "diffusion.private": private, "sample.labels": {}})


def test_choice_depends_on_how_images_are_drawn_and_a_training_without_one_does_not():
    def settings(**changes) -> dict:
        return Run(Path(), study(**changes)).settings("diffusion")

    assert settings(**CHOOSE) != settings(**CHOOSE, **{"sample.guidance": 2.0})
    assert settings(**CHOOSE) != settings(**CHOOSE, **{"sample.sampler": "unipc"})
    assert settings(**CHOOSE) == settings(**CHOOSE, **{"sample.images": 7})
    assert settings(**CHOOSE)["drawn"].keys() == {"guidance", "eta", "labels"}  # as ever
    assert settings() == settings(**{"sample.guidance": 2.0})


# A network that learns by heart -------------------------------------------------------------------

BY_HEART = {
    "split": {"validation": 0.6, "holdout": 0.2},
    "autoencoder.fold_px": 8,
    "autoencoder.latent_channels": 16,
    "autoencoder.training.images": 16,
    "lens.training.images": 32,
    "diffusion.widths": [64],
    "diffusion.attention": [False],
    "diffusion.middle_attention": False,
    "diffusion.min_snr_gamma": 5.0,  # so weighed it learns by heart within these images
    "diffusion.choose": {"checkpoints": 3, "images": 40, "steps": 8},
    "diffusion.training": {
        "images": 7200, "batch": 16, "learning_rate": 6e-3, "decay": "constant",
    },
    "sample": {"images": 12, "steps": 2},
    "validate.permutations": 99,
}  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Run:
    """Six people, each seen 1200 times."""
    raw = write_raw(tmp_path_factory.mktemp("raw"), patients=30, bad_files=0)
    run = pipeline.start(study(**BY_HEART), tmp_path_factory.mktemp("run"))
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    return run


def test_training_that_goes_on_until_it_copies_is_stopped_before(learned):
    row = read_json(learned.folder / "diffusion" / "choice.json")
    first, *_, last = row["points"]
    assert first["p_value"] > 0.05
    assert last["p_value"] < 0.01
    assert last["low"] > row["expected_share"]
    assert row["chosen"] < 7200
    gaps = [point["validation_loss"] - point["training_loss"] for point in row["points"]]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 2 * gaps[0]
    assert read_jsonl(learned.folder / "diffusion" / "log.jsonl")[-1]["images"] == 7200
    assert not (learned.folder / "diffusion" / "checkpoints").exists()
    outputs = read_stage(learned.folder / "diffusion").outputs
    assert "choice.json" in outputs
    assert not any("checkpoints" in name for name in outputs)


def test_verdict_says_how_the_weights_were_chosen_and_the_report_draws_it(learned):
    pipeline.sample(learned)
    pipeline.validate(learned)
    claim = pipeline.decide(learned).claim
    assert sum("chosen by looking at training and validation patients" in one for one in claim) == 1
    page = pipeline.report(learned).read_text()
    shares, losses = choice.curves(learned)
    assert curve_svg(shares) in page
    assert curve_svg(losses) in page
    assert ">taken</text>" in page


def test_too_few_validation_patients_are_refused_before_anything_is_trained(learned, tmp_path):
    for stage in ("intake", "split"):
        shutil.copytree(learned.folder / stage, tmp_path / stage)
    asked = {**BY_HEART, "diffusion.choose": {"images": 20, "level": 1e-13}}
    with pytest.raises(StageError, match="can't see copying with 18 validation patients"):
        pipeline.fit(pipeline.start(study(**asked), tmp_path))
    assert not (tmp_path / "lens.tmp").exists()
