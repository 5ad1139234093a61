"""Two runs on exchanged halves: whole runs, whose attempts are counted together."""

import json

import pytest
from tiny import study, write_raw
from typer.testing import CliRunner

from medsynth import pipeline, protocol
from medsynth.cli import app
from medsynth.runtime import read_json, read_stage


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    raw, folder = write_raw(tmp_path_factory.mktemp("raw")), tmp_path_factory.mktemp("halves")
    file = folder / "study.yaml"
    file.write_text(protocol.to_yaml(study()))
    args = ["run", str(file), str(raw), str(folder / "run"), "--halves", "--json"]
    return folder / "run", raw, file, CliRunner().invoke(app, args, catch_exceptions=False)


def patients(folder, part):
    cohort, parts = pipeline.parts_of(pipeline.open_run(folder))
    return {cohort.records[i].patient for i in parts[part]}


def test_each_half_holds_out_whom_the_other_is_trained_on(halves):
    folder = halves[0]
    for one, other in (("first", "second"), ("second", "first")):
        assert patients(folder / one, "train") == patients(folder / other, "holdout") != set()
    assert patients(folder / "first", "validation") == patients(folder / "second", "validation")


def test_the_images_are_read_once_and_are_the_same(halves):
    digests = {read_stage(halves[0] / half / "intake").digest for half in ("first", "second")}
    assert len(digests) == 1


def test_the_level_of_a_test_is_spent_over_both_halves(halves):
    verdicts = [read_json(halves[0] / half / "verdict.json") for half in ("first", "second")]
    assert [verdict["attempt"] for verdict in verdicts] == [1, 2]
    assert all(any("two runs on exchanged halves" in c for c in v["claim"]) for v in verdicts)


def test_both_outcomes_are_said_and_the_door_is_open_only_where_both_passed(halves):
    said = json.loads(halves[3].stdout)
    assert list(said) == ["first", "second"]
    assert halves[3].exit_code == (0 if {h["outcome"] for h in said.values()} == {"passed"} else 3)
    for half, outcome in said.items():
        assert (halves[0] / half / "release").exists() == (outcome["outcome"] == "passed")


def test_again_changes_nothing(halves):
    folder, raw, file, _ = halves
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/stage.json")}
    pipeline.run_halves(protocol.load(file), raw, folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("*/*/stage.json")}
