import csv
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings
from PIL import Image
from ruamel.yaml import YAML

from medsynth import protocol
from medsynth.cohort import Cohort
from medsynth.errors import DataError, RefusedError
from medsynth.finding import read_findings, read_verdict
from medsynth.release.export import publishable, write_release
from medsynth.release.verify import verify
from medsynth.runtime import digest_file, digest_files, read_json

ROOT = Path(__file__).parents[2]


def test_a_release_holds_what_it_says_and_verifies(released, study):
    names = {path.name for path in released.iterdir()}
    assert names == {"images", "README.md", "PRIVACY.md", "MODEL_CARD.md", "report.html",
                     "findings.jsonl", "verdict.json", "protocol.yaml", "manifest.json",
                     "SHA256SUMS", "croissant.json",
                     "ro-crate-metadata.json", "hashes.csv"}  # fmt: skip
    assert read_findings(released / "findings.jsonl") == study["findings"]
    assert read_verdict(released / "verdict.json") == study["verdict"]
    assert verify(released).ok


def test_images_leave_just_as_they_are_in_the_cohort(released, study):
    paths = sorted((released / "images").glob("*.png"))
    assert paths[0].name == "syn-000001.png"
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
    assert np.array_equal(pixels, study["cohort"].pixels)


def test_metadata_has_a_row_an_image_with_labels_and_without_seed(released, study):
    with (released / "images" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file_name", "id", "disease"]
    assert [row["id"] for row in rows] == [record.id for record in study["cohort"].records]
    assert [row["disease"] for row in rows] == study["cohort"].labels("disease")
    assert all((released / "images" / row["file_name"]).is_file() for row in rows)


def test_a_label_named_like_a_column_does_not_hide_it(tmp_path, study):
    cohort = study["cohort"]
    records = [replace(record, labels={"id": "x"}) for record in cohort.records]
    cohort = Cohort(cohort.domain, tuple(records), cohort.pixels)
    write_release(tmp_path, **judged(study["protocol"], cohort, study["findings"]))
    header = (tmp_path / "images" / "metadata.csv").read_text().splitlines()[0]
    assert header == "file_name,id,label_id"


def test_sha256sum_agrees(released):
    done = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=released,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout
    listed = {line.split("  ")[1] for line in (released / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(digest_files(released)) - {"SHA256SUMS"}


def test_two_releases_of_the_same_are_the_same_byte_for_byte(tmp_path, released, study):
    again = tmp_path / "again"
    again.mkdir()
    write_release(again, **study)
    assert digest_files(again) == digest_files(released)


def test_the_manifest_binds_the_verdict_to_the_images(released, study):
    manifest = read_json(released / "manifest.json")
    assert manifest["cohort"] == study["verdict"].digests["synthetic"]
    assert manifest["protocol"] == study["verdict"].digests["protocol"]
    assert manifest["verdict"] == digest_file(released / "verdict.json")
    for name, digest in manifest["images"].items():
        assert digest_file(released / name) == digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"copy_rate": {"value": 0.5, "high": 0.6}}, "the verdict is refused"),
        ({"copy_rate": {"high": 0.6}}, "the verdict is inconclusive"),
    ],
)
def test_what_the_gate_did_not_pass_stays(tmp_path, with_findings, changes, why):
    with pytest.raises(RefusedError, match=why):
        write_release(tmp_path, **with_findings(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("origin", "real", "1 of 24 records are not synthetic"),
        ("origin", "canary", "1 of 24 records are not synthetic"),
        ("origin", "canary", "1 of 24 records are canaries, which never leave"),
        ("origin", "derived", "1 of 24 records are not synthetic"),
        ("patient", "8f14e45f", "1 of 24 records point to a patient"),
        ("source", "c9f0f895", "1 of 24 records point to a source"),
        ("parent", "real-000001", "1 of 24 records point to a parent"),
    ],
)
def test_a_record_that_is_not_synthetic_or_points_to_a_patient_stays(
    tmp_path, study, field, value, why
):
    first, *rest = study["cohort"].records
    records = (replace(first, **{field: value}), *rest)
    cohort = Cohort("fundus", records, study["cohort"].pixels)
    with pytest.raises(RefusedError, match=why) as caught:
        write_release(tmp_path, **judged(study["protocol"], cohort, study["findings"]))
    assert value not in str(caught.value) or field == "origin"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../syn-1", "a/b", "", "syn 1"])
def test_an_id_that_is_no_name_for_a_file_stays(tmp_path, study, name):
    first, *rest = study["cohort"].records
    cohort = Cohort("fundus", (replace(first, id=name), *rest), study["cohort"].pixels)
    with pytest.raises(RefusedError, match="1 of 24 ids can't be names of files"):
        write_release(tmp_path, **judged(study["protocol"], cohort, study["findings"]))
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_of_which_nothing_remains_stays(tmp_path, study):
    nothing = study["cohort"].take([])
    with pytest.raises(RefusedError, match="no image remains"):
        write_release(tmp_path, **judged(study["protocol"], nothing, study["findings"]))


def test_one_changed_pixel_is_refused(tmp_path, study):
    pixels = study["cohort"].pixels.copy()
    pixels[5, 30, 30, 0] ^= 1
    changed = Cohort("fundus", study["cohort"].records, pixels)
    with pytest.raises(RefusedError, match="cohort: not the same as what was judged"):
        write_release(tmp_path, **(study | {"cohort": changed}))


def test_changed_findings_are_refused(tmp_path, study):
    name = "fidelity.frechet"
    findings = study["findings"] | {name: replace(study["findings"][name], value=11.0)}
    with pytest.raises(RefusedError, match="findings: not the same as what was judged"):
        write_release(tmp_path, **(study | {"findings": findings}))


def test_a_changed_protocol_and_changed_models_are_refused_together(tmp_path, study):
    other = protocol.parse(PROTOCOL, changes={"gate.rules": [
        {"finding": "memorization.copy_rate", "at_most": 0.9}]})  # fmt: skip
    changed = study | {"protocol": other, "models": {"autoencoder": "b" * 64}}
    with pytest.raises(RefusedError) as caught:
        write_release(tmp_path, **changed)
    said = " ".join(caught.value.reasons)
    assert "protocol" in said
    assert "autoencoder" in said


def test_a_verdict_that_says_passed_but_does_not_follow_is_refused(tmp_path, with_findings):
    bad = with_findings(copy_rate={"value": 0.5, "high": 0.6})
    with pytest.raises(RefusedError, match="judged again it is refused"):
        write_release(tmp_path, **(bad | {"verdict": replace(bad["verdict"], outcome="passed")}))


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path, study):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(DataError, match=r"empty folder.*thesis\.docx"):
        write_release(tmp_path, **study)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_no_path_of_the_hospital_leaves(tmp_path, study):
    secret = "/mnt/klinik/augen/lens.safetensors"
    paths = {"lens.weights": secret, "lens.sha256": "e" * 64, "data.tables": "../ward7/list.csv"}
    settings = protocol.parse(PROTOCOL, changes=paths)
    given = judged(settings, study["cohort"], study["findings"])
    write_release(tmp_path, **given)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"klinik" not in written
    assert b"ward7" not in written
    assert read_json(tmp_path / "manifest.json")["protocol_redacted"] == [
        "data.tables", "lens.weights"]  # fmt: skip
    assert verify(tmp_path).ok


def test_a_protocol_without_paths_leaves_whole(study):
    assert publishable(study["protocol"]) == (study["protocol"], [])


def test_counts_of_real_labels_do_not_leave(released):
    for path in released.rglob("*"):
        assert not path.is_file() or b"rarity" not in path.read_bytes()


def test_the_seed_of_an_image_does_not_leave(released):
    text = "".join(
        path.read_text() for path in released.rglob("*") if path.suffix in (".csv", ".json", ".md")
    )
    assert not re.search(r"\b10(0\d|1\d|2[0-3])\b", text)


def test_grey_sixteen_bit_images_leave_as_they_are(tmp_path):
    settings = protocol.parse(PROTOCOL.replace("fundus", "chest_xray"))
    cohort = make_cohort(4, channels=1)
    cohort = Cohort("chest_xray", cohort.records, cohort.pixels.astype(np.uint16) * 257)
    write_release(tmp_path, **judged(settings, cohort, make_findings()))
    image = np.asarray(Image.open(tmp_path / "images" / "syn-000003.png"))
    assert np.array_equal(image, cohort.pixels[2, ..., 0])
    assert verify(tmp_path).ok


def test_the_cards_front_matter_is_yaml_that_hugging_face_knows(released):
    _, front, body = (released / "README.md").read_text().split("---\n", 2)
    values = YAML(typ="safe").load(front)
    assert values["license"] == "cc-by-4.0"
    assert {"synthetic", "medical"} <= set(values["tags"])
    assert values["size_categories"] == ["n<1K"]
    assert values["configs"] == [{"config_name": "default", "data_dir": "images"}]
    assert "# Synthetic retinas, demonstration" in body


def test_the_card_says_verdict_limits_gaps_and_use(released, study):
    text = (released / "README.md").read_text()
    assert "Not for clinical use" in text
    assert "What was not measured" in text
    assert "Can it be told that the candidate was in the training set?" in text
    for sentence in study["verdict"].claim:
        assert sentence in text
    for name in study["findings"]:
        assert f"`{name}`" in text
    assert re.search(r"\| disease \| none \| 12 \|", text)


def test_release_needs_no_torch():
    code = (
        "import sys\n"
        "for name in ('torch', 'monai', 'diffusers', 'accelerate', 'scipy', 'pandas'):\n"
        "    sys.modules[name] = None\n"
        "import medsynth.release.gate, medsynth.release.export, medsynth.release.verify\n"
        "import medsynth.release.report, medsynth.release.cards\n"
        "from made_up import PROTOCOL, judged, make_cohort, make_findings\n"
        "from medsynth import protocol\n"
        "import tempfile, pathlib\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "medsynth.release.export.write_release(folder, **judged("
        "protocol.parse(PROTOCOL), make_cohort(3), make_findings()))\n"
        "assert medsynth.release.verify.verify(folder).ok\n"
    )
    paths = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    environment = os.environ | {"PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_ten_thousand_images_leave_in_seconds(tmp_path):
    import time

    from medsynth.release.pictures import encode_png

    image = make_cohort(1).pixels[0]
    started = time.process_time()
    for _ in range(200):
        encode_png(image, synthetic=True)
    assert (time.process_time() - started) * 50 < 60  # 4 s on an idle core
