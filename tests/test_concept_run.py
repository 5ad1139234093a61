"""Concepts and variations of a tiny run: what they write, what makes them stale, and that nothing
of it leaves."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from release.made_up import PROTOCOL, judged, make_cohort, make_findings
from tiny import PRIVATE, study, write_raw
from typer.testing import CliRunner

from medsynth import cli, pipeline
from medsynth.cohort import Cohort
from medsynth.data import phantoms
from medsynth.errors import DataError, ProtocolError, RefusedError, StageError, StaleError
from medsynth.finding import read_findings
from medsynth.protocol import parse
from medsynth.release import export
from medsynth.runtime import digest_files, read_json

SHORT = {"lens.training.images": 64, "diffusion.training.images": 64}
FAST = {"concept.vectors": 2, "concept.training.images": 32}
FEW = {"augment.children": 4}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("run")
    write_raw(raw, patients=14, bad_files=0)
    run = pipeline.start(study(**SHORT), folder)
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    return folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Path:
    """A plain folder of images of something new, without a table."""
    folder = tmp_path_factory.mktemp("shown")
    for number in range(8):
        pixels, _ = phantoms.draw("chest_xray", 900 + number, 0, 5, 32)
        Image.fromarray(255 - pixels[..., 0]).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def taught(fitted, shown, tmp_path_factory) -> Path:
    """The fitted run with a concept."""
    folder = tmp_path_factory.mktemp("taught") / "run"
    shutil.copytree(fitted, folder)
    run = opened(folder, "concept", FAST)
    pipeline.learn_concept(run, shown, "dark", start="finding")
    return folder


@pytest.fixture
def copy(taught, tmp_path) -> Path:
    shutil.copytree(taught, tmp_path / "run")
    return tmp_path / "run"


def opened(folder: Path, section: str, changes: dict) -> pipeline.Run:
    run = pipeline.open_run(folder)
    return pipeline.Run(folder, pipeline.with_changes(run.protocol, section, changes))


def augmented(folder: Path, *, measured: int = 0, **options):
    changes = {**FEW, "augment.measured": measured}
    return pipeline.augment(opened(folder, "augment", changes), **options)


def stage_of_another(folder: Path) -> Path:
    (folder / "synthetic").mkdir()
    (folder / "synthetic" / "stage.json").write_text("{}")
    return folder / "synthetic"


def table(folder: Path) -> list[dict[str, str]]:
    lines = (folder / "derived" / "children.csv").read_text().splitlines()
    return list(csv.DictReader(lines))


# Concepts ----------------------------------------------------------------------------------------


def test_concept_is_a_tiny_folder_that_keeps_no_image(taught):
    folder = taught / "concepts" / "dark"
    said = read_json(folder / "concept.json")
    assert said["attribute"] == "finding"
    assert said["start"] in {key.partition("=")[2] for key in said["known"]}
    assert min(said["known"], key=said["known"].get) == f"finding={said['start']}"
    assert (said["images"], said["vectors"]) == (8, 2)
    assert not list(folder.rglob("*.npy"))
    assert (folder / "vectors.safetensors").stat().st_size < 10_000
    assert [row["name"] for row in pipeline.list_concepts(pipeline.open_run(taught))] == ["dark"]


def test_learning_touches_no_other_part_of_the_run(fitted, taught):
    def parts(folder):
        return {n: sha for n, sha in digest_files(folder).items() if not n.startswith("concepts")}

    assert parts(fitted) == parts(taught)


def test_images_of_a_concept_are_derived_and_the_same_again(taught, tmp_path):
    run = pipeline.open_run(taught)
    cohort = pipeline.sample_concept(run, "dark", tmp_path / "a", images=5)
    again = pipeline.sample_concept(run, "dark", tmp_path / "b", images=3)
    np.testing.assert_array_equal(np.asarray(cohort.pixels)[:3], np.asarray(again.pixels))
    assert {record.origin for record in cohort.records} == {"derived"}
    assert {record.labels["finding"] for record in cohort.records} == {"dark"}
    assert len(list((tmp_path / "a" / "images").glob("*.png"))) == 5
    assert "no part of a release" in (tmp_path / "a" / "NOTICE.txt").read_text()


def test_concept_of_other_networks_is_stale(copy, tmp_path):
    stage = copy / "diffusion" / "stage.json"
    told = read_json(stage)
    stage.write_text(json.dumps({**told, "digest": "0" * 64}))
    run = pipeline.open_run(copy)
    assert [row["stale"] for row in pipeline.list_concepts(run)] == [True]
    with pytest.raises(StaleError, match="learn it again"):
        pipeline.sample_concept(run, "dark", tmp_path / "out", images=1)


def test_what_can_not_be_taught_or_drawn_is_refused(copy, shown, tmp_path):
    run = pipeline.open_run(copy)
    for name, start, match in (
        ("../x", None, "a-z"),
        ("normal", "finding", "known already"),
        ("new", "view=PA", "the vocabulary has"),
    ):
        with pytest.raises(DataError, match=match):
            pipeline.learn_concept(run, shown, name, start=start)
    with pytest.raises(DataError, match="leave that label out"):
        pipeline.sample_concept(run, "dark", tmp_path / "o", images=1, labels={"finding": "normal"})
    with pytest.raises(StageError, match="in the run's folder"):
        pipeline.sample_concept(run, "dark", copy / "synthetic", images=1)
    with pytest.raises(StageError, match="something else"):
        pipeline.sample_concept(run, "dark", shown, images=1)
    with pytest.raises(StageError, match="something else"):  # another run's stage
        pipeline.sample_concept(run, "dark", stage_of_another(tmp_path), images=1)
    with pytest.raises(StageError, match="it has: dark"):
        pipeline.sample_concept(run, "light", tmp_path / "o", images=1)
    with pytest.raises(ProtocolError, match=r"only concept\.\*"):
        pipeline.with_changes(run.protocol, "concept", {"sample.images": 3})
    pipeline.remove_concept(run, "dark")
    assert not (copy / "concepts" / "dark").exists()
    with pytest.raises(StageError, match="no concept dark"):
        pipeline.remove_concept(run, "dark")


def test_no_concept_is_learned_beside_a_privacy_budget(copy, shown):
    run = pipeline.Run(copy, study(**PRIVATE))
    with pytest.raises(StageError, match="epsilon would hold for nothing"):
        pipeline.learn_concept(run, shown, "light")


# Variations --------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands in for SIGKILL."""


def test_children_are_derived_and_say_whose_they_are(copy):
    found = augmented(copy, measured=4)
    derived, real = Cohort.read(copy / "derived"), Cohort.read(copy / "intake")
    _, parts = pipeline.parts_of(pipeline.open_run(copy))
    train = {real.records[i].id: real.records[i] for i in parts["train"]}
    assert len(derived) == 4 * len(train)
    for record in derived.records:
        parent = train[record.parent]
        assert record.origin == "derived"
        assert (record.patient, record.labels) == (parent.patient, parent.labels)
    rows = table(copy)
    assert [row["id"] for row in rows] == [record.id for record in derived.records]
    assert [int(row["seed"]) for row in rows] == [record.seed for record in derived.records]
    for name in train:
        assert {r["strength"] for r in rows if r["parent"] == name} == {"1", "0.75", "0.5", "0.25"}
    names = {f.name for f in found}
    assert names == {f"augment.{kind}.{percent}" for kind in ("match", "likeness")
                     for percent in (0, 25, 50, 75, 100)}  # fmt: skip
    assert read_findings(copy / "derived" / "findings.jsonl").keys() == names


def test_killed_augmenting_goes_on_to_the_same_children(copy, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(copy, whole)
    augmented(whole)

    def dies(what, share):
        if what == "sample" and share >= 0.5:
            raise Killed

    with pytest.raises(Killed):
        augmented(copy, progress=dies)
    augmented(copy)
    made = [digest_files(folder / "derived", skip=["stage.json", "key.json"])
            for folder in (copy, whole)]  # fmt: skip
    assert made[0] == made[1]


def test_only_images_with_a_mask_are_varied_and_the_rest_of_them_stays(copy, tmp_path):
    real = Cohort.read(copy / "intake")
    _, parts = pipeline.parts_of(pipeline.open_run(copy))
    name = real.records[int(parts["train"][0])].id
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(half).save(tmp_path / "masks" / f"{name}.png")
    augmented(copy, concept="dark", masks=pipeline.ChildMasks(tmp_path / "masks"))
    derived = Cohort.read(copy / "derived")
    assert {record.parent for record in derived.records} == {name}
    assert {record.labels["finding"] for record in derived.records} == {"dark"}
    parent = real.floats([int(parts["train"][0])])
    off = abs(derived.floats() - parent).mean((0, 1, 2))
    assert off[:12].mean() < 0.5 * off[20:].mean()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no training image has a mask"):
        augmented(copy, masks=pipeline.ChildMasks(tmp_path / "none"))


# Nothing of it leaves ----------------------------------------------------------------------------


@pytest.mark.parametrize("marks", [{"origin": "derived"}, {"parent": "real-000001"}])
def test_release_refuses_what_is_derived_even_where_the_gate_passed_it(marks, tmp_path):
    settings, findings = parse(PROTOCOL), make_findings()
    cohort = make_cohort()
    first = replace(cohort.records[0], **marks)
    cohort = replace(cohort, records=(first, *cohort.records[1:]))
    with pytest.raises(
        RefusedError, match=r"1 of 24 records (are not synthetic|point to a parent)"
    ):
        export.write_release(tmp_path, **judged(settings, cohort, findings))
    assert not list(tmp_path.iterdir())


def test_derived_images_in_the_place_of_the_cohort_are_stale(copy):
    augmented(copy)
    shutil.copytree(copy / "derived", copy / "synthetic")
    with pytest.raises(StaleError):
        pipeline.validate(pipeline.open_run(copy))


# The command line --------------------------------------------------------------------------------


def call(*words: object):
    result = CliRunner().invoke(cli.app, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_commands_do_what_their_help_says(copy, shown, tmp_path):
    said = call("concept", "learn", copy, "--images", shown, "--name", "two", "--vectors", 1,
                "--start", "finding=normal", "--set", "concept.training.images=16")  # fmt: skip
    assert (said["name"], said["vectors"], said["start"]) == ("two", 1, "normal")
    assert [row["name"] for row in call("concept", "list", copy)["concepts"]] == ["dark", "two"]
    call("concept", "sample", copy, "two", tmp_path / "out", "--images", 2, "--guidance", 1)
    assert len(Cohort.read(tmp_path / "out")) == 2
    call("concept", "remove", copy, "two")
    assert [row["name"] for row in call("concept", "list", copy)["concepts"]] == ["dark"]
    made = call("augment", copy, "--strengths", "0.5 0", "--children", 1,
                "--set", "augment.measured=0")  # fmt: skip
    assert made["findings"] == []
    rows = table(copy)
    assert {row["strength"] for row in rows} == {"0.5", "0"}
