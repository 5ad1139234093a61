"""Fresh pairs teach a segmenter as much as real ones, masks of what is outside do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_pairs import study_of_pairs

from medsynth import pipeline
from medsynth.cohort import Cohort, Record
from medsynth.pipeline.masks import Known
from medsynth.pipeline.utility import segmenting
from medsynth.protocol import Utility
from medsynth.validation.schooling import School
from medsynth.validation.utility_masks import Segmenting, compare, overlap

SETTINGS = Utility(trainings=3, images=100)


def discs(patients: range, *, origin: str = "real", images_each: int = 1) -> Cohort:
    """Draw a disc, a little brighter than the noise around it, and its mask of value 3."""
    rng = np.random.default_rng(patients.start)
    across, down = np.meshgrid(np.arange(24), np.arange(24))
    pixels, masks, records = [], [], []
    for patient in patients:
        for i in range(images_each):
            centre, radius = rng.uniform(8, 16, 2), rng.uniform(3, 6)
            inside = np.hypot(across - centre[0], down - centre[1]) < radius
            light = 90 + 60 * inside + rng.normal(0, 30, inside.shape)
            pixels.append(np.clip(light, 0, 255).astype(np.uint8)[..., None])
            masks.append(3 * inside.astype(np.uint8))
            who = "" if origin == "synthetic" else f"P{patient}"
            records.append(Record(f"{origin}-{patient}-{i}", origin, who))
    return Cohort("fundus", tuple(records), np.stack(pixels), np.stack(masks))


def learn(images, maps, *, seed, folder, most_images):
    """Teach where to cut: the brightness at which what is brighter overlaps the masks most."""
    cuts = np.linspace(-0.6, 0.6, 41)
    wanted = maps >= 128
    overlaps = [np.nanmean(overlap(wanted, images >= cut)) for cut in cuts]
    best = cuts[int(np.argmax(overlaps))]
    return lambda shown: (shown >= best).astype(np.float32)


TRAIN, HOLDOUT = discs(range(40)), discs(range(100, 130), images_each=2)
FRESH = discs(range(200, 230), origin="synthetic")


def found(folder, synthetic: Cohort, teach=learn) -> dict:
    folder.mkdir(exist_ok=True)
    school = Segmenting(SETTINGS, TRAIN, HOLDOUT, synthetic, (3,), teach, folder, seed=1, draws=200)
    return {item.name.removeprefix("utility.segmentation."): item for item in compare(school)}


def test_overlaps_are_those_of_the_formula_and_absent_classes_count_nowhere():
    wanted = np.zeros((3, 2, 4, 4), bool)
    wanted[0, 0, :2] = True  # 8 pixels
    wanted[1, :, 0] = True
    guess = np.zeros_like(wanted)
    guess[0, 0, 1:3] = True  # 8 pixels, 4 of them right
    guess[1, 0, 0] = True
    assert overlap(wanted, guess)[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(overlap(wanted, guess)[2])


def test_fresh_pairs_teach_as_much_and_masks_of_what_is_outside_less(tmp_path):
    good = found(tmp_path / "good", FRESH)
    assert good["tstr_gap"].low <= 0 <= good["tstr_gap"].high
    assert good["tstr.dice"].value > 0.5
    assert good["trtr.dice"].reference == 0
    assert good["tstr.dice"].reference == good["trtr.dice"].value
    assert "Dice overlap" in good["worth"].method
    assert good["worth"].reference == 30
    wrong = replace(FRESH, masks=np.where(FRESH.masks > 0, 0, 3).astype(np.uint8))
    worse = found(tmp_path / "worse", wrong)
    assert worse["trtr.dice"] == good["trtr.dice"]
    assert worse["tstr_gap"].high < 0
    assert worse["worth"].value < 40


def test_stopped_and_started_again_it_finds_the_same_and_trains_no_network_twice(tmp_path):
    trained = []

    def stops(images, maps, **given):
        if len(trained) == 5:
            raise KeyboardInterrupt
        trained.append(given["seed"])
        return learn(images, maps, **given)

    with pytest.raises(KeyboardInterrupt):
        found(tmp_path / "cut", FRESH, teach=stops)

    def goes_on(images, maps, **given):
        trained.append(given["seed"])
        return learn(images, maps, **given)

    assert found(tmp_path / "cut", FRESH, teach=goes_on) == found(tmp_path / "whole", FRESH)
    assert len(trained) == len(set(trained))


def test_masks_of_a_run_and_of_its_synthetic_images_are_learned_from(tmp_path):
    run = pipeline.start(study_of_pairs(), tmp_path)
    images = discs(range(20))
    images.write(folder_in(tmp_path, "intake"))
    parts = ["train"] * 10 + ["validation"] * 2 + ["holdout"] * 8
    lines = [f"{r.id},{part}\n" for r, part in zip(images.records, parts, strict=True)]
    (folder_in(tmp_path, "split") / "split.csv").write_text("id,part\n" + "".join(lines))
    masked = np.array([i for i in range(20) if i not in (0, 19)])  # two patients without a mask
    shares = 255 * (images.masks[masked][:, None] > 0).astype(np.uint8)
    Known(run, masked, shares, (3,)).write(folder_in(tmp_path, "masks"), {})
    made = discs(range(30, 36), origin="synthetic")
    school = School(
        Utility(trainings=2), images, images, made, None, tmp_path, seed=1, draws=50
    )  # fmt: skip
    learned = segmenting(run, school)
    assert (len(learned.train), len(learned.holdout), learned.made) == (9, 7, 6)
    assert learned.values == (3,)
    assert np.array_equal(learned.train.masks[0], images.masks[1])
    found = {item.name for item in compare(replace(learned, learn=learn))}
    assert "utility.segmentation.worth" in found
    told = pipeline.tell_utility(list(compare(replace(learned, learn=learn))))
    assert told[0].startswith("learned from              Dice overlap of masks")


def folder_in(run: Path, name: str) -> Path:
    (run / name).mkdir()
    return run / name
