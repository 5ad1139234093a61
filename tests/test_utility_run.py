"""A run's images are measured by what they teach: in validate, and with few real ones beside."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import study, write_raw
from typer.testing import CliRunner

from medsynth import cli, pipeline, validation
from medsynth.cohort import Cohort
from medsynth.errors import ProtocolError, StageError
from medsynth.finding import read_findings
from medsynth.pipeline.augment import make_children
from medsynth.pipeline.run import silent
from medsynth.pipeline.utility import as_validated, school_of
from medsynth.protocol import Augment
from medsynth.validation import quarantine, utility

LEARNED = {"trainings": 2, "images": 32, "shots": [2]}
FAST = {
    "validate.utility": LEARNED,
    "sample.steps": 2,
    "augment": {"strengths": [0.5, 1.0], "children": 2},
}
SHOWN = {"trtr", "tstr", "mixed"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("run") / "study"
    write_raw(raw, patients=50, bad_files=0)
    run = pipeline.start(study(**FAST), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "measure_all", use_alone)
        for stage in (lambda r: pipeline.ingest(r, raw), pipeline.split, pipeline.fit,
                      pipeline.sample, pipeline.validate):  # fmt: skip
            stage(run)
    return folder


def use_alone(case: validation.Case) -> list:
    """Measure utility alone, on a cohort of which the quarantine took the first image."""
    rows = [f"{r.id},1,{int(i == 0)}\n" for i, r in enumerate(case.synthetic.records)]
    (case.private / quarantine.FILE).write_text("synthetic,p,quarantined\n" + "".join(rows))
    left = replace(case, synthetic=quarantine.remaining(case.synthetic, case.private))
    return list(utility.measure(left))


@pytest.fixture(scope="module")
def measured(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "study"
    shutil.copytree(finished, folder)
    pipeline.utility(pipeline.open_run(folder))
    return folder


def findings(folder: Path) -> dict:
    return read_findings(folder / "findings.jsonl")


def test_validate_measures_it_where_the_protocol_asks_and_the_gate_can_judge_it(finished):
    found = findings(finished / "evidence")
    for name in SHOWN:
        assert 0 <= found[f"utility.{name}.auc"].value <= 1
    assert found["utility.tstr.auc"].n == found["utility.trtr.auc"].n
    assert not [name for name in found if "few_shot" in name]
    changes = {**FAST, "gate.rules": [
        {"finding": "memorization.p_value", "at_least": 0.0},
        {"finding": "utility.tstr.auc", "at_least": 1.0},
    ]}  # fmt: skip
    run = pipeline.start(study(**changes), finished)
    verdict = pipeline.decide(run)
    assert any("utility.tstr.auc" in reason for reason in verdict.reasons)
    assert "Utility" in pipeline.report(run).read_text()


def test_the_command_says_the_same_as_validate_and_measures_few_shots(measured):
    before, after = findings(measured / "evidence"), findings(measured / "utility")
    same = {name: item for name, item in before.items() if name.startswith("utility.")}
    assert {n: item for n, item in after.items() if "few_shot" not in n} == same
    for arm in ("plain", "classical", "children", "both", "children_gain"):
        item = after[f"utility.few_shot.2.{arm}"]
        assert item.low <= item.value <= item.high
    assert not (measured / "utility" / "blocks").exists()  # no child is left
    run = pipeline.open_run(measured)
    pipeline.decide(run)
    assert "few shot, 2, children gain" in pipeline.report(run).read_text()


def test_without_validate_it_comes_out_the_same_by_the_same_trainings(finished, tmp_path):
    run = pipeline.open_run(finished)
    bare = run.protocol.validate_.model_copy(update={"utility": None})
    other = pipeline.Run(finished, run.protocol.model_copy(update={"validate_": bare}))
    settings = run.protocol.validate_.utility
    assert as_validated(run, settings)
    assert not as_validated(other, settings)
    school = school_of(other, tmp_path, settings, silent)
    again = {item.name: item for item in utility.compare(school)}
    known = findings(finished / "evidence")
    assert again == {n: item for n, item in known.items() if n.startswith("utility.")}


def test_interrupted_and_started_again_it_finds_the_same(measured, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "study")
    run = pipeline.open_run(tmp_path / "study")

    def stop(what: str, share: float) -> None:
        if what == "utility: few-2-children" and share == 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.utility(run, progress=stop)
    assert len(list((tmp_path / "study/utility.tmp/blocks/answers").glob("few-2-*.npy"))) == 5
    pipeline.utility(run)
    assert (tmp_path / "study/utility/findings.jsonl").read_bytes() == (
        measured / "utility/findings.jsonl"
    ).read_bytes()


def test_children_are_those_of_augment_whoever_is_varied_beside(finished, tmp_path):
    run, settings = pipeline.open_run(finished), Augment(strengths=(0.5, 1.0), children=2)
    cohort, parts = pipeline.parts_of(run)
    some, more = parts["train"][:2].tolist(), parts["train"][:5].tolist()
    for name, parents in (("some", some), ("more", more)):
        (tmp_path / name).mkdir()
        make_children(run, tmp_path / name, parents, settings)
    few, many = (Cohort.read(tmp_path / name) for name in ("some", "more"))
    assert [record.parent for record in few.records[::2]] == [cohort.records[i].id for i in some]
    assert np.array_equal(few.pixels, many.pixels[:4])
    assert {record.origin for record in few.records} == {"derived"}


def test_it_speaks_to_people_and_programs(measured):
    runner = CliRunner()
    said = runner.invoke(cli.app, ["utility", str(measured)], env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    assert "23 synthetic images" in said.output
    assert "real images a class" in said.output
    spoken = runner.invoke(cli.app, ["utility", str(measured), "--json"])
    assert "utility.few_shot.2.both_gain" in [
        item["name"] for item in json.loads(spoken.stdout)["findings"]
    ]


def test_what_can_not_be_done_is_said(finished, monkeypatch):
    run = pipeline.open_run(finished)
    with pytest.raises(ProtocolError, match=r"only validate\.utility\.\* and augment\.\* here"):
        pipeline.utility(run, changes={"sample.steps": 3})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="without torchrun"):
        pipeline.utility(run)
    with pytest.raises(ProtocolError, match=r"needs validate\.utility"):
        study(**{"gate.rules": [
            {"finding": "memorization.p_value", "at_least": 0.0},
            {"finding": "utility.worth", "at_least": 10},
        ]})  # fmt: skip
