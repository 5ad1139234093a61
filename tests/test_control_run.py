"""A control of a tiny run: fitted, resumed, drawn from, and never released."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from diffusers import ControlNetModel
from PIL import Image
from release.made_up import make_findings
from tiny import study, torchrun, write_raw
from typer.testing import CliRunner

from medsynth import pipeline
from medsynth.cli import app
from medsynth.cohort import Cohort
from medsynth.errors import (
    DataError,
    MedsynthError,
    ProtocolError,
    RefusedError,
    StageError,
    StaleError,
)
from medsynth.finding import write_findings
from medsynth.release.export import write_release
from medsynth.runtime import digest_files, read_json, read_stage
from medsynth.validation.obedience import ignored

KNOBS = {
    "control.training.images": 48,
    "control.training.batch": 8,
    "control.training.warmup_images": 0,
    "control.images": 8,
}


KINDS = ("canny", "soft_edges", "keypoints", "hough")


class Killed(Exception):
    """Stands in for SIGKILL."""


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory):
    """A run up to its denoiser."""
    run = pipeline.start(study(), tmp_path_factory.mktemp("run"))
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    return run.folder


@pytest.fixture(scope="module")
def controlled(finished):
    """A control for a free combination of kinds, fitted in the module's run; so little trained that
    it is ignored."""
    run = asking(finished, *KINDS)
    base = digest_files(finished / "diffusion")
    found = pipeline.fit_control(run, "edges")
    assert digest_files(finished / "diffusion") == base
    return finished, found


def asking(folder, *kinds, **changes) -> pipeline.Run:
    run = pipeline.open_run(folder)
    return replace(run, protocol=pipeline.with_control(run.protocol, kinds, KNOBS | changes))


def extract(raw, out, *, nobody: bool):
    pipeline.extract_controls(
        raw / "images", out, KINDS, domain="chest_xray", size_px=32, nobody=nobody
    )
    return out


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder with four images of two phantoms."""
    return write_raw(tmp_path_factory.mktemp("few"), patients=2, bad_files=0)


def test_a_fitted_control_is_a_diffusers_folder_and_its_obedience_is_found(controlled):
    folder, found = controlled
    net = ControlNetModel.from_pretrained(folder / "control" / "edges")
    assert net.config.conditioning_channels == len(KINDS)
    known = {finding.name: finding for finding in found}
    for kind, name in (("canny", "boundary_f1"), ("soft_edges", "correlation"),
                       ("keypoints", "point_error"), ("hough", "boundary_f1")):  # fmt: skip
        own, best, chance = (known[f"control.{kind}.{name}{floor}"].value
                             for floor in ("", "_reconstructed", "_shuffled"))  # fmt: skip
        better = best < chance if name == "point_error" else best > chance
        assert better
        assert np.isfinite(own)
    log = (folder / "control" / "edges" / "log.jsonl").read_text().splitlines()
    assert {"validation_loss", "validation_loss_shuffled"} <= json.loads(log[-1]).keys()


def test_killed_and_started_again_a_control_is_the_same(controlled, tmp_path):
    folder, _ = controlled
    run = asking(folder, *KINDS)

    def dies(what, share):
        if what == "control" and share >= 0.5:
            raise Killed

    with pytest.raises(Killed):
        pipeline.fit_control(run, "again", progress=dies)
    pipeline.fit_control(run, "again")
    weights = "diffusion_pytorch_model.safetensors"
    one, two = (digest_files(folder / "control" / name)[weights] for name in ("edges", "again"))
    assert one == two
    findings = [(folder / "obedience" / name / "findings.jsonl").read_text()
                for name in ("edges", "again")]  # fmt: skip
    assert findings[0] == findings[1]


def test_the_same_command_again_does_nothing(controlled):
    folder, _ = controlled
    before = [read_stage(folder / part / "edges").finished for part in ("control", "obedience")]
    pipeline.fit_control(asking(folder, *KINDS), "edges")
    after = [read_stage(folder / part / "edges").finished for part in ("control", "obedience")]
    assert before == after


def test_images_under_patients_maps_are_derived_and_never_released(controlled, few, tmp_path):
    folder, _ = controlled
    maps = extract(few, tmp_path / "maps", nobody=False)
    run = pipeline.open_run(folder)
    cohort = draw(run, maps, tmp_path / "out", {})
    assert {record.origin for record in cohort.records} == {"derived"}
    assert all(record.parent for record in cohort.records)
    assert not list(folder.glob("release*"))
    verdict = pipeline_verdict()
    with pytest.raises(RefusedError, match=r"4 of 4 records are not synthetic"):
        write_release(
            tmp_path / "release", cohort=cohort, protocol=run.protocol, findings={},
            verdict=verdict, split={}, models={},
        )  # fmt: skip
    assert not (tmp_path / "release").exists()


def draw(run, maps, out, labels):
    return pipeline.sample_controlled(run, "edges", maps, out, labels=labels, ignored=True)


def pipeline_verdict():
    from medsynth.finding import Verdict

    return Verdict("passed", 1, (), ())


def test_images_under_nobodys_maps_are_synthetic_pairs(controlled, few, tmp_path):
    folder, _ = controlled
    maps, out = extract(few, tmp_path / "maps", nobody=True), tmp_path / "out"
    run = pipeline.open_run(folder)
    cohort = draw(run, maps, out, {"finding": "normal"})
    assert {record.origin for record in cohort.records} == {"synthetic"}
    assert not any(record.parent for record in cohort.records)
    names = {path.name for path in (out / "images").iterdir()}
    assert len(names) == 4
    assert all({p.name for p in (out / "maps" / k).iterdir()} == names
               for k in KINDS)  # fmt: skip
    drawn = np.asarray(Image.open(out / "maps" / "canny" / "control-000001.png"))
    first = sorted((maps / "canny").iterdir())[0]
    assert np.array_equal(drawn, np.asarray(Image.open(first)))
    assert Cohort.read(out).digest == cohort.digest


def test_a_control_of_another_denoiser_is_stale(controlled, few, tmp_path):
    folder, _ = controlled
    maps = extract(few, tmp_path / "maps", nobody=True)
    other = pipeline.open_run(folder)
    changed = replace(other, protocol=study(**{"diffusion.ema": 0.8}))
    with pytest.raises(StaleError):
        pipeline.sample_controlled(changed, "edges", maps, tmp_path / "out", labels={})


def test_a_control_that_is_ignored_is_not_drawn_from(controlled, few, tmp_path):
    folder, found = controlled
    assert ignored(found)
    maps = extract(few, tmp_path / "maps", nobody=True)
    asked = ["control", "sample", folder, "edges", tmp_path / "out", "--control", maps]
    result = CliRunner().invoke(app, [*map(str, asked)])
    assert isinstance(result.exception, RefusedError)
    assert result.exception.exit_code == 3
    assert "canny is ignored: boundary_f1" in str(result.exception)
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, [*map(str, asked), "--ignored"])
    assert result.exit_code == 0
    assert len(Cohort.read(tmp_path / "out")) == 4


# The gate -----------------------------------------------------------------------------------------

PRIVACY = {"finding": "memorization.p_value", "at_least": 0.0}


@pytest.fixture(scope="module")
def judged(controlled, tmp_path_factory):
    """A copy of the run with made-up evidence on its cohort."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    shutil.copytree(controlled[0], folder, ignore=shutil.ignore_patterns("again", "lungs"))
    run = pipeline.open_run(folder)
    pipeline.sample(run)
    run.build("evidence", made_up)
    return folder


def made_up(folder):
    """Write findings, and a quarantine that took nothing."""
    write_findings(folder / "findings.jsonl", make_findings().values())
    (folder / "private").mkdir()
    (folder / "private" / "quarantine.csv").write_text("synthetic,p,quarantined\n")


def under(folder, *rules: dict) -> pipeline.Run:
    run = pipeline.open_run(folder)
    return pipeline.start(study(**{"gate.rules": [PRIVACY, *rules]}), run.folder)


def test_a_rule_on_a_control_is_judged_beside_the_others(judged):
    alone = pipeline.decide(under(judged))
    assert alone.passed
    shut = pipeline.decide(under(judged, {"finding": "control.canny.gain", "at_least": 2.0}))
    assert shut.outcome == "refused"
    assert any("control.canny.gain" in reason for reason in shut.reasons)
    both = pipeline.decide(under(judged, {"finding": "control.*.gain", "at_least": -99.0}))
    assert both.passed
    assert {item.finding for item in both.judgements} == {
        "memorization.p_value", *(f"control.{kind}.gain" for kind in KINDS)
    }  # fmt: skip
    assert (alone.attempt, shut.attempt, both.attempt) == (1, 1, 1)
    released = pipeline.release(pipeline.open_run(judged))
    assert "control.canny.gain" in (released / "findings.jsonl").read_text()


def test_without_a_control_its_rules_refuse_and_others_are_judged(judged, tmp_path):
    shutil.copytree(judged, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "control")
    shutil.rmtree(tmp_path / "run" / "obedience")
    shut = pipeline.decide(
        under(tmp_path / "run", {"finding": "control.canny.gain", "at_least": 0})
    )
    assert "control.canny.gain: was not measured" in shut.reasons[0]
    assert pipeline.decide(under(tmp_path / "run")).passed


def test_obedience_that_was_touched_or_is_told_twice_is_not_judged(judged, tmp_path):
    shutil.copytree(judged, tmp_path / "run")
    run = under(tmp_path / "run", {"finding": "control.canny.gain", "at_least": -99})
    for part in ("control", "obedience"):
        shutil.copytree(run.folder / part / "edges", run.folder / part / "twice")
    with pytest.raises(StageError, match=r"two controls of this run have a control\.canny"):
        pipeline.decide(run)
    for part in ("control", "obedience"):
        shutil.rmtree(run.folder / part / "twice")
    path = run.folder / "obedience" / "edges" / "findings.jsonl"
    path.write_text(path.read_text().replace('"n": ', '"n": 1'))
    with pytest.raises(StaleError, match="edges/ changed after it was made"):
        pipeline.decide(run)


@pytest.fixture(scope="module")
def masks(raw, tmp_path_factory):
    """Masks of the darker half of each image, named as the images."""
    folder = tmp_path_factory.mktemp("masks")
    for path in sorted((raw / "images").glob("[!b]*.png")):
        image = np.asarray(Image.open(path).convert("L"))
        Image.fromarray((image < np.median(image)).astype(np.uint8) * 2).save(folder / path.name)
    return folder


def test_two_processes_find_masks_again_together(finished, raw, masks, tmp_path):
    own = tmp_path / "run"
    shutil.copytree(finished, own, ignore=shutil.ignore_patterns("control", "obedience"))
    asked = ("control", "fit", own, "--name", "two", "--kind", "mask", "--masks", masks,
             "--images", raw, "--set", "control.training.images=48")  # fmt: skip
    done = torchrun("-m", "medsynth", *map(str, asked))
    assert (own / "obedience" / "two" / "findings.jsonl").exists(), done.stderr[-2000:]


def test_masks_are_named_as_images_and_found_again_by_a_network(finished, raw, masks):
    run = asking(finished, "mask", **{"control.training.images": 400})
    found = pipeline.fit_control(run, "lungs", masks=pipeline.Masks(masks, raw))
    assert read_json(finished / "control" / "lungs" / "control.json")["values"] == [2]
    numbers = {finding.name: finding.value for finding in found}
    assert numbers["control.mask.dice_reconstructed"] > 0.5


def test_masks_and_the_kind_mask_come_together_and_other_knobs_are_refused(finished):
    with pytest.raises(DataError, match="come together"):
        pipeline.fit_control(asking(finished, "mask"), "nothing")
    with pytest.raises(ProtocolError, match=r"only control\.\* can be changed"):
        asking(finished, "canny", **{"diffusion.ema": 0.5})
    with pytest.raises(MedsynthError, match="twice"):
        asking(finished, "canny", "canny")
