"""An audit of anyone's images: copies are refused, fresh images pass, what overlaps is told."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from medsynth import cli, pipeline
from medsynth.cohort import Cohort
from medsynth.data import phantoms
from medsynth.errors import DataError, ProtocolError, StageError
from medsynth.finding import read_findings
from medsynth.runtime import read_json

TINY = {
    "lens.width": 8,
    "lens.features": 16,
    "lens.training": {"images": 256, "batch": 32, "learning_rate": 1e-3},
    "validate": {"permutations": 199, "bootstrap": 50, "candidates": 5, "planted": 10},
}
RULES = """
- {finding: memorization.p_value, not_rejected_at: 0.05}
- {finding: memorization.exact_copies, at_most: 0}
- {finding: memorization.copy_rate, at_most: 0.2}
- {finding: audit.synthetic_in_holdout, at_most: 0}
- {finding: audit.split_auc, at_most: 0.85}
"""
KEY = "5" * 64 + "\n"


def draw(person: int, image: int = 0, size_px: int = 32) -> np.ndarray:
    return phantoms.draw("fundus", person, image, 1, size_px)[0]


def put(folder: Path, images: dict[str, np.ndarray]) -> Path:
    for name, pixels in images.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, pixels.astype(np.uint16) * 257)
        else:
            Image.fromarray(pixels).save(path)
    return folder


def scans(people: range, images: int = 2) -> dict[str, np.ndarray]:
    """Each person's images in a folder of that person's."""
    return {f"{p}/{i}.png": draw(p, i) for p in people for i in range(images)}


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> pipeline.Folders:
    """Two real sides in 60 folders each, and a table that says who is who."""
    root = tmp_path_factory.mktemp("real")
    sides = {"train": scans(range(60), 1), "held": scans(range(100, 160), 1)}
    for name, images in sides.items():
        put(root / name, images)
    rows = [f"{n}/{path},{path.split('/')[0]}" for n, side in sides.items() for path in side]
    (root / "who.csv").write_text("\n".join(["path,patient_id", *rows, "other/1.png,9"]) + "\n")
    return pipeline.Folders(root / "train", root / "held", root / "none", root / "who.csv")


@pytest.fixture(scope="module")
def mixed(real) -> pipeline.Folders:
    """Fresh people in several formats, depths and sizes."""
    kinds = (".png", ".jpeg", ".tif")
    images = {f"x{n}{kinds[n % 3]}": draw(200 + n, 0, (32, 48, 64)[n % 3]) for n in range(60)}
    synthetic = put(real.train.parent / "fresh", images)
    return pipeline.Folders(real.train, real.holdout, synthetic, real.patients)


@pytest.fixture(scope="module")
def overlapping(tmp_path_factory) -> pipeline.Folders:
    """Copies of training images, two of them among the held-out ones, too; nobody is known."""
    root = tmp_path_factory.mktemp("overlapping")
    train = put(root / "train", scans(range(20)))
    held = put(root / "held", scans(range(100, 118)) | {"a.png": draw(3), "b.png": draw(4, 1)})
    copies = scans(range(12)) | {"fresh.png": draw(300), "held.png": draw(101)}
    return pipeline.Folders(train, held, put(root / "made", copies))


def study_of(folders: pipeline.Folders, **changes):
    return pipeline.draft_audit(folders, size_px=32, changes={**TINY, **changes})[0]


def run_audit(folders: pipeline.Folders, out: Path, rules: Path | None = None, **options):
    """Audit with pseudonyms that are those of every other test's audit."""
    out.mkdir(exist_ok=True)
    (out / "site.key").write_text(KEY)
    (out / "site.key").chmod(0o600)
    study = pipeline.draft_audit(folders, size_px=32, rules=rules, changes=TINY)[0]
    (out / "audit.yaml").touch()
    return pipeline.audit(folders, out, study, **options)[1]


@pytest.fixture(scope="module")
def rules(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture(scope="module")
def fresh(mixed, rules, tmp_path_factory):
    out = tmp_path_factory.mktemp("fresh")
    return out, run_audit(mixed, out, rules)


@pytest.fixture(scope="module")
def copied(overlapping, tmp_path_factory):
    out, said = tmp_path_factory.mktemp("copied"), []
    return out, run_audit(overlapping, out, say=said.append), said


# What the gate says -----------------------------------------------------------------------------


def test_fresh_images_of_any_format_and_size_pass(fresh):
    out, verdict = fresh
    assert verdict.outcome == "passed", verdict.reasons
    cohorts = [Cohort.read(out / part) for part in ("train", "holdout", "synthetic")]
    assert {cohort.pixels.shape for cohort in cohorts} == {(60, 32, 32, 3)}
    assert {record.origin for record in cohorts[2].records} == {"synthetic"}


def test_copies_are_refused(copied):
    _, verdict, _ = copied
    refused = {item.finding for item in verdict.judgements if item.outcome == "refused"}
    assert {"memorization.p_value", "memorization.exact_copies"} <= refused
    assert "memorization.copy_rate" in refused


def test_quarantined_images_are_named_and_are_not_what_the_verdict_is_about(copied):
    out, verdict, said = copied
    private = out / "evidence" / "private"
    paths = (private / "quarantined_files.csv").read_text().splitlines()[1:]
    assert "synthetic/3/1.png" in paths
    assert "synthetic/fresh.png" not in paths
    share = read_findings(out / "evidence" / "findings.jsonl")["memorization.quarantined"]
    assert share.value == pytest.approx(len(paths) / share.n)
    assert any(f"{len(paths)} of {share.n} synthetic images" in line for line in said)
    assert verdict.digests["synthetic"] != Cohort.read(out / "synthetic").digest


def test_held_out_images_among_the_synthetic_ones_are_refused(copied):
    out, verdict, _ = copied
    judged = {item.finding: item.outcome for item in verdict.judgements}
    assert judged["audit.synthetic_in_holdout"] == "refused"
    assert (
        read_findings(out / "evidence" / "findings.jsonl")["audit.synthetic_in_holdout"].value == 1
    )


def test_all_black_box_measures_are_there_and_none_that_needs_the_generator(fresh):
    families = {name.split(".")[0] for name in read_findings(fresh[0] / "evidence/findings.jsonl")}
    assert {"memorization", "fidelity", "audit"} <= families
    assert "reconstruction" not in families


def test_every_finding_of_an_audit_stands_on_its_page(fresh):
    page = (Path(__file__).parents[1] / "docs" / "audit.md").read_text()
    rows = dict(re.findall(r"^\| `(audit\.(?!yaml)[^`]+)` \|(.*)\|$", page, re.MULTILINE))
    found = read_findings(fresh[0] / "evidence" / "findings.jsonl")
    own = {name: item for name, item in found.items() if name.startswith("audit.")}
    assert own.keys() == rows.keys()
    assert all(item.direction.split()[0] in rows[name] for name, item in own.items())


def test_claim_says_what_an_audit_can_not_know(fresh, copied):
    known, unknown = " ".join(fresh[1].claim), " ".join(copied[1].claim)
    for text in (known, unknown):
        assert "exact only if training and held-out patients were divided at random" in text
        assert "Attempts were counted" in text
    assert "Every image's patient is known" in known
    assert "no classifier told the two apart" in known
    assert "No patient is known: each" in unknown


# Overlap ----------------------------------------------------------------------------------------


def test_overlap_is_counted_told_and_named(copied):
    out, _, said = copied
    facts = read_json(out / "overlap" / "overlap.json")
    assert facts["holdout_in_train"] == {"exact": 2, "near": 0}
    assert facts["synthetic_in_train"]["exact"] == 24
    assert facts["synthetic_in_holdout"]["exact"] == 1
    assert any("2 (2 exactly, 0 nearly) of 38 held-out images" in line for line in said)
    with (out / "overlap" / "overlap.csv").open() as file:
        rows = list(csv.DictReader(file))
    held = {row["first"]: row["second"] for row in rows if "held-out image in" in row["what"]}
    assert held == {"holdout/a.png": "train/3/0.png", "holdout/b.png": "train/4/1.png"}


def test_training_images_among_the_held_out_ones_are_not_compared(copied):
    out, verdict, _ = copied
    findings = read_findings(out / "evidence" / "findings.jsonl")
    assert findings["audit.holdout_in_train"].value == 2
    assert findings["audit.split_auc"].n == 40 + 36
    assert any("2 (2 exactly" in sentence for sentence in verdict.claim)


def test_overlap_is_the_first_thing_on_the_page(copied):
    page = (copied[0] / "report.html").read_text()
    assert page.index("synthetic images show the same picture") < page.index("Refused</h2>")
    assert "must not leave the hospital" in page
    assert "divided at random by patient" not in page


def test_a_patient_on_both_sides_stops_the_audit_and_is_named_by_file(mixed, tmp_path):
    table = tmp_path / "who.csv"
    table.write_text("path,patient_id\n3/0.png,Smith\n107/0.png,Smith\n")
    folders = pipeline.Folders(mixed.train, mixed.holdout, mixed.synthetic, table)
    with pytest.raises(DataError, match="1 patients have images in both") as error:
        run_audit(folders, tmp_path / "out")
    assert "Smith" not in str(error.value)
    text = (tmp_path / "out" / "overlap" / "overlap.csv").read_text()
    assert "train/3/0.png" in text
    assert "holdout/107/0.png" in text
    assert "Smith" not in text
    assert not (tmp_path / "out" / "evidence").exists()


# Stages and privacy -----------------------------------------------------------------------------


def test_audit_goes_on_after_a_kill_and_comes_to_the_same(mixed, rules, fresh, tmp_path):
    def killed(what: str, share: float) -> None:
        if what == "lens" and share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(mixed, tmp_path / "out", rules, progress=killed)
    shutil.rmtree(tmp_path / "out" / "overlap")
    verdict = run_audit(mixed, tmp_path / "out", rules)
    assert verdict == fresh[1]
    same = "evidence/findings.jsonl"
    assert (tmp_path / "out" / same).read_bytes() == (fresh[0] / same).read_bytes()


def test_the_same_command_again_measures_nothing_anew_and_counts_no_attempt(mixed, rules, fresh):
    before = {path: path.stat().st_mtime_ns for path in fresh[0].glob("*/stage.json")}
    assert run_audit(mixed, fresh[0], rules) == fresh[1]
    assert before == {path: path.stat().st_mtime_ns for path in fresh[0].glob("*/stage.json")}
    assert len((fresh[0] / "attempts.jsonl").read_text().splitlines()) == 1


def test_a_rejection_stays_with_the_folder_whatever_is_audited_next(overlapping, copied, tmp_path):
    out = shutil.copytree(copied[0], tmp_path / "out")
    folders = pipeline.Folders(
        overlapping.train,
        overlapping.holdout,
        put(tmp_path / "next", scans(range(400, 410))),
    )
    verdict = run_audit(folders, out)
    assert verdict.attempt == 2
    assert verdict.outcome == "refused"
    assert [i.finding for i in verdict.judgements if i.finding == "earlier attempts"]


def test_nothing_written_names_a_patient(mixed, fresh):
    names = {line.split(",")[1] for line in mixed.patients.read_text().splitlines()[1:]}
    for path in fresh[0].rglob("records.csv"):
        with path.open() as file:
            assert not names & {row["patient"] for row in csv.DictReader(file)}
    assert (fresh[0] / "site.key").stat().st_mode & 0o077 == 0


# The command ------------------------------------------------------------------------------------


def command(folders: pipeline.Folders, out: Path, *more: str):
    words = ["audit", "--train", folders.train, "--holdout", folders.holdout]
    words += ["--synthetic", folders.synthetic, "--out", out, *more]
    return CliRunner().invoke(cli.app, list(map(str, words)))


def test_command_states_its_defaults_and_exits_with_3_where_refused(overlapping, copied):
    sets = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items()]
    result = command(overlapping, copied[0], "--size", "32", *sets)
    assert result.exit_code == 3
    text = " ".join(result.output.split())
    assert "A guess, for the images are coloured with black corners: fundus" in text
    assert "Rule: memorization.p_value not rejected at 0.05 (--rules FILE)." in text
    assert text.index("show the same picture") < text.index("The gate refused.")
    assert "keep it inside" in text
    result = command(overlapping, copied[0], "--size", "32", "--json", *sets)
    said = json.loads(result.stdout)
    assert said["outcome"] == "refused"
    assert Path(said["report"]).exists()


def test_size_is_at_most_that_of_the_smallest_folder_and_that_is_said(mixed):
    study, said = pipeline.draft_audit(mixed, changes=TINY)
    assert study.image.size_px == 32
    assert any("brought to 32 and not to 64" in sentence for sentence in said)
    study, _ = pipeline.draft_audit(mixed, size_px=24, domain="histology")
    assert (study.image.size_px, study.domain) == (24, "histology")


def test_folders_must_be_three_and_share_no_file(mixed, tmp_path):
    twice = pipeline.Folders(mixed.train, mixed.train, mixed.synthetic)
    inside = pipeline.Folders(mixed.train, mixed.holdout, mixed.synthetic)
    study = study_of(mixed)
    with pytest.raises(DataError, match="lies in"):
        pipeline.audit(twice, tmp_path / "out", study)
    with pytest.raises(DataError, match="--out lies in --train"):
        pipeline.audit(inside, mixed.train / "out", study)
    with pytest.raises(DataError, match="none for --synthetic"):
        pipeline.draft_audit(pipeline.Folders(mixed.train, mixed.holdout, tmp_path / "no"))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(StageError, match="holds something else"):
        pipeline.audit(inside, tmp_path, study)


@pytest.mark.parametrize("text", ["rules: 3", "- {finding: [", "gate: {rules: []}"])
def test_rules_that_are_none_are_told(mixed, tmp_path, text):
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(ProtocolError):
        pipeline.draft_audit(mixed, rules=tmp_path / "rules.yaml")
