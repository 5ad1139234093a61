"""What a change of the raw folder or of a knob makes stale, and what it leaves as it is."""

from __future__ import annotations

import os
import shutil

import pytest
from tiny import study, write_raw

from medsynth import pipeline
from medsynth.errors import StaleError
from medsynth.runtime import read_stage

LOOSE = {"data.max_bad_share": 0.5}


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", patients=20)


@pytest.fixture
def run(raw, tmp_path):
    """A run whose images are in and whose patients are divided."""
    started = pipeline.start(study(**LOOSE), tmp_path / "run")
    pipeline.ingest(started, raw)
    pipeline.split(started)
    return started


def digest_of(run, stage):
    return read_stage(run.folder / stage).digest


def test_a_touched_file_makes_nothing_stale(run, raw):
    keys = {name: read_stage(run.folder / name).key for name in ("intake", "split")}
    before = digest_of(run, "intake")
    os.utime(raw / "images" / "p0001_0.png", (1, 1))
    pipeline.ingest(run, raw)
    assert read_stage(run.folder / "intake").key != keys["intake"]  # it was read again
    assert digest_of(run, "intake") == before
    pipeline.split(run)
    assert read_stage(run.folder / "split").key == keys["split"]


def test_after_a_new_image_the_old_split_is_stale_and_run_divides_anew(run, raw):
    shutil.copy(raw / "images" / "p0001_0.png", raw / "images" / "new.png")
    lines = (raw / "labels.csv").read_text().splitlines()
    row = next(line for line in lines if "p0001_0" in line)
    lines.append(row.replace("p0001_0", "new"))
    (raw / "labels.csv").write_text("\n".join(lines))
    divided = digest_of(run, "split")
    pipeline.ingest(run, raw)
    with pytest.raises(StaleError, match=r"lens needs the folder split/, which was made from oth"):
        pipeline.fit(run)
    pipeline.split(run)
    assert digest_of(run, "split") != divided
    assert len(pipeline.parts_of(run)[0]) == 41


def test_a_stage_on_another_protocol_s_images_does_not_start(run):
    changed = pipeline.start(study(**LOOSE, **{"image.size_px": 64}), run.folder)
    with pytest.raises(StaleError, match="split needs the folder intake/"):
        pipeline.split(changed)


def test_intake_says_its_summary_first(run):
    lines = pipeline.tell_intake(run)
    assert lines[0].startswith("40 images of 40 files, 20 patients. 1 file was refused")
    assert "images: 40" in lines
