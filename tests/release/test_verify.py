import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from medsynth.finding import write_findings
from medsynth.release import gate
from medsynth.release.export import sums
from medsynth.release.report import PrivateReport, private_report
from medsynth.release.verify import verify
from medsynth.runtime import digest_file, read_json, write_json


def reseal(folder: Path) -> None:
    """Make manifest and checksums agree with whatever lies there, as a forger would."""
    manifest = read_json(folder / "manifest.json")
    manifest["findings"] = digest_file(folder / "findings.jsonl")
    manifest["verdict"] = digest_file(folder / "verdict.json")
    manifest["images"] = {
        f"images/{path.name}": digest_file(path) for path in sorted(folder.glob("images/*.png"))
    }
    write_json(folder / "manifest.json", manifest)
    (folder / "SHA256SUMS").write_text(sums(folder))


def faults(folder: Path) -> str:
    result = verify(folder)
    assert not result.ok
    return "; ".join(result.faults)


def test_a_whole_release_has_no_fault(released, study):
    result = verify(released)
    assert (result.ok, result.faults, result.images) == (True, (), 24)
    assert result.verdict == study["verdict"]
    assert result.fingerprint == digest_file(released / "SHA256SUMS")


def test_it_verifies_from_anywhere_and_read_only(released, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    paths = [released, *released.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: path.stat().st_mtime_ns for path in paths}
    try:
        assert verify(Path(os.path.relpath(released))).ok
        assert {
            path: path.stat().st_mtime_ns for path in [released, *released.rglob("*")]
        } == before
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


NAMES = ["README.md", "report.html", "findings.jsonl", "verdict.json", "protocol.yaml",
         "manifest.json", "images/metadata.csv", "images/syn-000007.png"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_byte_is_found(released, name):
    path = released / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert f"{name}: was changed" in faults(released)


@pytest.mark.parametrize("name", [*NAMES, "SHA256SUMS"])
def test_a_missing_file_is_found(released, name):
    (released / name).unlink()
    assert f"{name}: is missing" in faults(released)


@pytest.mark.parametrize("name", ["extra.txt", "images/syn-000099.png", "real/patient.png", ".x"])
def test_an_added_file_is_found(released, name):
    (released / name).parent.mkdir(exist_ok=True)
    shutil.copy(released / "images" / "syn-000001.png", released / name)
    assert f"{name}: was added" in faults(released)


def test_a_link_is_found(released, tmp_path):
    target = tmp_path / "target.md"
    (released / "README.md").rename(target)
    (released / "README.md").symlink_to(target)
    assert "README.md: is a link" in faults(released)


def test_an_image_that_lost_its_mark_is_found_even_resealed(released):
    path = released / "images" / "syn-000003.png"
    with Image.open(path) as image:
        image.load()
        image.info.clear()
        image.save(path)
    reseal(released)
    assert faults(released) == "images/syn-000003.png: does not say that it is synthetic"


def test_an_image_without_a_row_is_found_even_resealed(released):
    path = released / "images" / "metadata.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    reseal(released)
    assert "its 23 rows are not the images" in faults(released)


def test_an_image_of_another_size_is_found_even_resealed(released):
    path = released / "images" / "syn-000003.png"
    data = bytearray(path.read_bytes())
    data[16:20] = (65).to_bytes(4, "big")
    path.write_bytes(data)
    reseal(released)
    assert "syn-000003.png: is not 64 x 64 pixels" in faults(released)


def test_the_report_for_inside_the_hospital_is_never_taken_for_the_public_one(released, study):
    data = {key: study[key] for key in ("protocol", "verdict", "findings", "split")}
    (released / "report.html").write_text(private_report(PrivateReport(**data)))
    reseal(released)
    assert "report.html: is not the public one" in faults(released)


def test_a_verdict_that_was_turned_to_passed_is_found_even_resealed(released, with_findings):
    bad = with_findings(copy_rate={"value": 0.5, "high": 0.6})
    write_findings(released / "findings.jsonl", bad["findings"].values())
    write_json(released / "verdict.json", replace(bad["verdict"], outcome="passed").to_dict())
    reseal(released)
    assert "judged again it is refused" in faults(released)


def test_findings_that_were_embellished_are_found_even_resealed(released):
    path = released / "findings.jsonl"
    path.write_text(path.read_text().replace("12.4", "2.4"))
    reseal(released)
    assert "was given for another evidence" in faults(released)


def test_a_refused_verdict_is_a_fault_even_resealed(released, with_findings):
    bad = with_findings(copy_rate={"high": 0.6})
    write_json(released / "verdict.json", bad["verdict"].to_dict())
    reseal(released)
    assert "the gate did not pass this cohort: inconclusive" in faults(released)


def test_a_lowered_bar_is_found_even_resealed(released):
    path = released / "protocol.yaml"
    path.write_text(path.read_text().replace("at_most: 0.03", "at_most: 0.9"))
    reseal(released)
    assert "protocol.yaml: is not the protocol of manifest.json" in faults(released)


def test_an_earlier_attempt_number_is_found_where_it_would_matter(released, study, with_findings):
    late = with_findings(p_value={"value": 0.02, "low": 0.02, "high": 0.02})
    verdict = gate.decide(
        late["findings"],
        study["protocol"].gate.rules,
        attempt=2,
        claim=(),
        digests=late["verdict"].digests,
    )
    assert verdict.passed
    write_json(released / "verdict.json", replace(verdict, attempt=1).to_dict())
    reseal(released)
    assert not verify(released).ok


@pytest.mark.parametrize("name", ["SHA256SUMS", "manifest.json", "verdict.json", "protocol.yaml",
                                  "findings.jsonl", "images/metadata.csv"])  # fmt: skip
@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe\0", b"[]", b"{}", b"null", b"[" * 300])
def test_rubbish_is_a_fault_and_never_a_crash(released, name, rubbish):
    (released / name).write_bytes(rubbish)
    assert name in faults(released)


def test_checksums_that_point_outside_are_refused(released):
    line = f"{'0' * 64}  ../../etc/passwd\n"
    (released / "SHA256SUMS").write_text((released / "SHA256SUMS").read_text() + line)
    assert "SHA256SUMS: can't be read" in faults(released)


def test_a_manifest_that_points_outside_is_refused(released):
    manifest = read_json(released / "manifest.json")
    manifest["images"]["../x.png"] = "0" * 64
    (released / "manifest.json").write_text(json.dumps(manifest))
    assert "../x.png" in faults(released)


def test_an_empty_and_an_absent_folder_are_no_release(tmp_path):
    assert "SHA256SUMS: is missing" in faults(tmp_path)
    assert "SHA256SUMS: is missing" in faults(tmp_path / "nowhere")
