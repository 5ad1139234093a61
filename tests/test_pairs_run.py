"""A cohort of images with masks, from patients' masks to what leaves."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import study
from tiny_pairs import KNOBS, MASKS, study_of_pairs, write_pairs
from typer.testing import CliRunner

from medsynth import pipeline
from medsynth.cli import app
from medsynth.cohort import Cohort
from medsynth.data.control_files import origin_of
from medsynth.errors import DataError, MedsynthError, StageError, StaleError
from medsynth.finding import read_findings
from medsynth.pipeline import drawn_masks
from medsynth.pipeline.masks import open_known
from medsynth.release.verify import verify
from medsynth.runtime import digest_files, read_json


class Killed(Exception):
    """Stands in for SIGKILL."""


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Phantom chests and their masks."""
    return write_pairs(tmp_path_factory.mktemp("given"))


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    """The run of a study with masks, by one command, up to its release."""
    run = pipeline.start(study_of_pairs(), tmp_path_factory.mktemp("run"))
    assert pipeline.run_all(run, given.raw, masks=given.folder).passed
    return run.folder


def test_what_was_drawn_is_synthetic_and_has_masks_that_are_no_patients(finished):
    drawn, known = Cohort.read(finished / "synthetic"), open_known(pipeline.open_run(finished))
    assert {record.origin for record in drawn.records} == {"synthetic"}
    assert not any(record.parent or record.patient for record in drawn.records)
    assert set(np.unique(drawn.masks)) <= {0, 1, 2}
    theirs = {mask.tobytes() for mask in known.harden(known.shares[:])}
    assert not theirs & {mask.tobytes() for mask in drawn.masks}


def test_masks_are_held_against_patients_masks_and_looked_for_in_their_images(finished):
    found = pipeline.findings_of(pipeline.open_run(finished))
    for name in ("masks.p_value", "masks.copy_rate", "masks.recall", "masks.smallest_rate"):
        assert found[name].is_number, name
    assert found["masks.copy_rate"].reference is not None
    assert found["masks.recall"].value > 0.9
    assert found["pairs.dice"].reference_is.startswith("the mask of the next image")
    assert found["pairs.area.heart"].reference == pytest.approx(0.13, abs=0.03)
    neighbours = finished / "evidence" / "private" / "masks" / "neighbours.png"
    assert neighbours.exists()
    assert not list((finished / "release").rglob("*neighbours*"))


def test_a_segmentation_cohort_is_released_and_verified(finished):
    release, drawn = finished / "release", Cohort.read(finished / "synthetic")
    assert verify(release).faults == ()
    with (release / "images" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    masks = dict(zip((r.id for r in drawn.records), drawn.masks, strict=True))
    for row in rows:
        with Image.open(release / "images" / row["mask"]) as picture:
            assert np.array_equal(picture, masks[row["id"]])
    models = read_json(release / "manifest.json")["models"]
    assert {"masks", "control/mask"} <= models.keys()
    page = (release / "report.html").read_text()
    assert "Their masks" in page


def test_a_quarantined_mask_takes_its_image_with_it(run):
    path = run.folder / "evidence" / "private" / "masks" / "quarantine.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    innocent = next(row["synthetic"] for row in rows if row["quarantined"] == "0")
    before = {record.id for record in pipeline.evidence.remaining(run).records}
    path.write_text(path.read_text().replace(f"{innocent},", f"{innocent},0.001,1\n#,", 1))
    after = pipeline.evidence.remaining(run)
    assert before - {record.id for record in after.records} == {innocent}
    assert len(after.masks) == len(after)


def test_killed_and_started_again_masks_and_pairs_are_the_same(finished, given, run):
    def dies_in(stage, at):
        def progress(what, share):
            if what == stage and share >= at:
                raise Killed

        return progress

    import shutil

    for stage, again, at in (
        ("masks", lambda told: pipeline.fit_masks(run, given, told), ("masks", 0.5)),
        ("synthetic", lambda told: pipeline.sample(run, told), ("sample", 0.5)),
    ):
        shutil.rmtree(run.folder / stage)
        with pytest.raises(Killed):
            again(dies_in(*at))
        again(pipeline.run.silent)
        made = [
            digest_files(folder / stage, skip=("stage.json", "log.jsonl", "previews"))
            for folder in (finished, run.folder)
        ]
        assert made[0] == made[1]


def test_another_wish_for_masks_makes_what_was_drawn_stale(run):
    other = replace(run, protocol=study_of_pairs(masks=MASKS | {"covers": 0.4}))
    with pytest.raises(StaleError, match="synthetic/"):
        pipeline.decide(other)
    deeper = MASKS | {"diffusion": MASKS["diffusion"] | {"layers": 2}}
    with pytest.raises(StaleError, match="masks/"):
        pipeline.sample(replace(run, protocol=study_of_pairs(masks=deeper)))
    without = replace(run, protocol=study(**{"gate.rules": KNOBS["gate.rules"][:1]}))
    with pytest.raises(StaleError, match="synthetic/"):
        pipeline.decide(without)


def test_a_changed_mask_shuts_the_gate(run):
    path = run.folder / "synthetic" / "masks.npy"
    masks = np.load(path)
    np.save(path, np.roll(masks, 1, axis=0))
    with pytest.raises(StaleError, match=r"synthetic/ changed after it was made: masks\.npy"):
        pipeline.decide(run)


def test_masks_alone_are_nobodys_only_where_the_rules_on_them_hold(finished, tmp_path, monkeypatch):
    called = CliRunner().invoke(
        app, ["masks", "sample", str(finished), str(tmp_path / "open"), "--count", "12", "--json"]
    )
    assert called.exit_code == 0, called.output
    assert json.loads(called.output) == {"masks": 12, "origin": "synthetic", "reasons": []}
    assert len(list((tmp_path / "open" / "maps" / "mask").glob("*.png"))) == 12
    strict = study_of_pairs(**{"gate.rules": [
        {"finding": "memorization.p_value", "at_least": 0.0},
        {"finding": "masks.copy_rate", "at_most": 0.0},
    ]})  # fmt: skip
    found = read_findings(tmp_path / "open" / "findings.jsonl")
    monkeypatch.setattr(drawn_masks, "_hold", lambda *given: found.values())  # not once more
    run = replace(pipeline.open_run(finished), protocol=strict)
    verdict = pipeline.sample_masks(run, tmp_path / "strict", images=12)
    assert verdict.outcome == "inconclusive"
    assert origin_of(tmp_path / "strict" / "maps") == "derived"


def test_a_generator_that_hands_out_training_images_hands_out_their_masks(run):
    asked = study_of_pairs(**{"sample.generator": "memorize", "sample.images": 6})
    pipeline.sample(replace(run, protocol=asked))
    known = open_known(run).cohort("train")
    theirs = {mask.tobytes() for mask in known.masks}
    assert {mask.tobytes() for mask in Cohort.read(run.folder / "synthetic").masks} <= theirs


def test_errors_say_what_is_missing(finished, given, tmp_path):
    run = pipeline.open_run(finished)
    with pytest.raises(StageError, match="the protocol has no section masks"):
        pipeline.fit_masks(replace(run, protocol=study()), given)
    edges = replace(run, protocol=study_of_pairs(masks=MASKS | {"control": "other"}))
    with pytest.raises(MedsynthError, match="synthetic needs the folder other/"):
        pipeline.sample(edges)
    with pytest.raises(DataError, match="no folder of masks is given: --masks DIR"):
        pipeline.run_all(pipeline.start(study_of_pairs(), tmp_path / "new"), given.raw)
    with pytest.raises(DataError, match="--masks is for a protocol with a section masks"):
        pipeline.run_all(pipeline.start(study(), tmp_path / "old"), given.raw, masks=given.folder)
    with pytest.raises(MedsynthError, match="covers neither"):
        study_of_pairs(**{
            "diffusion.private": {"epsilon": 3.0, "delta": 1e-3}, "sample.labels": {},
        })  # fmt: skip
    with pytest.raises(MedsynthError, match=r"masks\.diffusion has no choose"):
        study_of_pairs(masks={"diffusion": MASKS["diffusion"] | {"choose": {}}})
