"""No value of an identifying tag survives anywhere: not in the run folder, not in what is said.

What identifies is taken from the profile's own table, not from the code under test, and is looked
for in every byte of every file, as text of several encodings and inside of packed streams.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import named_images
import pydicom
import pytest
import tiny
from dicomanonymizer.simpledicomanonymizer import initialize_actions_2024b
from named_images import NAME, NUMBER, names_in
from pydicom.data import get_testdata_file

from medsynth import protocol
from medsynth.data import intake
from medsynth.data.badimage import REASONS, silence

HOLDING = (  # of pydicom's files, those with most to lose
    "RG1_UNCI", "RG1_J2KR", "RG3_UNCI", "CT_small", "MR_small", "MR_small_RLE", "JPEG2000",
    "JPEG-lossy", "JPEG-LL", "examples_overlay", "examples_palette", "examples_rgb_color",
    "SC_rgb_jpeg_dcmtk", "color-pl", "rtdose_1frame", "test-SR", "waveform_ecg", "badVR",
    "MR_truncated", "liver_1frame",
)  # fmt: skip
TABLE = {tag for tag in initialize_actions_2024b() if len(tag) == 2}
TEXTS = {"AE", "AS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}


def dicom(name: str) -> Path:
    return Path(get_testdata_file(f"{name}.dcm", download=False))


@cache
def identifying_words(path: Path) -> frozenset[str]:
    """Words of three and more letters and digits in all tags of the table and private ones."""
    with silence():
        dataset = pydicom.dcmread(path, force=True)
        elements = [*dataset.file_meta, *dataset.iterall()]
        words = set()
        for element in elements:
            listed = (element.tag.group, element.tag.element) in TABLE or element.tag.is_private
            if listed and element.VR == "UI":
                words |= {str(element.value)}
            elif listed and element.VR in TEXTS:
                words |= set(re.findall(r"[a-z0-9]{3,}", str(element.value).lower()))
    return frozenset(word for word in words if not word.startswith("1.2.840.10008") and word)


def whole_words(data: bytes) -> set[str]:
    """All words of three and more letters and digits, and all UIDs, in bytes of any encoding."""
    found = set()
    for code in ("latin-1", "utf-16-le", "utf-16-be", "utf-32-le"):
        text = data.decode(code, "ignore").lower()
        found |= set(re.findall(r"[a-z0-9]{3,}", text)) | set(re.findall(r"[0-9.]{12,}", text))
    return found


def everything(folder: Path) -> dict[str, bytes]:
    """All files under a folder, and what is packed in them."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = data
        if zipfile.is_zipfile(BytesIO(data)):
            with zipfile.ZipFile(BytesIO(data)) as packed:
                found |= {f"{path.name}!{name}": packed.read(name) for name in packed.namelist()}
        if data.startswith(b"\x1f\x8b"):
            found[f"{path.name}!"] = gzip.decompress(data)
    return found


def write_raw(folder: Path, *, table: bool) -> None:
    """A folder of files that name patients in every way, whose paths name nobody."""
    folder.mkdir()
    for number, name in enumerate(HOLDING):
        shutil.copy(dicom(name), folder / f"{number:02d}.dcm")
    (folder / "20.dcm").write_bytes(dicom("CT_small").read_bytes()[:1200])
    (folder / "21.dcm").write_bytes(dicom("RG1_UNCI").read_bytes()[:9000])
    for number in range(4):
        image = named_images.pixels(seed=number)
        named_images.write_png(folder / f"p{number}.png", image)
        named_images.write_jpeg(folder / f"j{number}.jpg", image + 3)
        named_images.write_tiff(folder / f"t{number}.tif", image + 6)
    (folder / "p9.png").write_bytes((folder / "p0.png").read_bytes()[:700])
    if table:
        rows = [
            f"{path.name},{NUMBER}-{path.stem},{NAME},normal" for path in sorted(folder.iterdir())
        ]
        text = "path,patient_id,name,finding\n" + "\n".join(rows) + f"\ngone.png,1,{NAME},normal\n"
        (folder / "labels.csv").write_text(text)


def study(*, table: bool, **changes) -> protocol.Protocol:
    labels = ["finding"] if table else ["Modality", "BodyPartExamined", "ViewPosition"]
    settings = {"data.label_columns": labels, "data.max_bad_share": 0.9}
    return tiny.study(**{**settings, **changes})


@pytest.fixture(scope="module")
def usual_words(tmp_path_factory) -> set[str]:
    """Words that a run holds anyway: those of a run on images that know nobody, and reasons."""
    folder = tmp_path_factory.mktemp("phantoms")
    raw = tiny.write_raw(folder / "raw", patients=6, bad_files=1)
    (folder / "run").mkdir()
    intake.ingest(
        raw, folder / "run", tiny.study(**{"data.max_bad_share": 0.9}), bytes(32), workers=0
    )
    said = whole_words(" ".join(REASONS).encode())
    return said.union(*map(whole_words, everything(folder / "run").values()))


# Words of the standard, of code strings that a protocol may ask for as labels, and of medsynth's
# own reasons: a description that shares one of them names nobody by it.
COMMON = {
    "abdomen", "body", "whole", "chest", "knee", "head", "lossy", "uncompressed", "compression",
    "segmentation", "jpeg", "type", "version", "private", "anonymized", "and", "for", "the", "not",
    "one",
}  # fmt: skip


def leaked(data: bytes, words: frozenset[str], usual: set[str]) -> set[str]:
    """Words of a patient in bytes that are neither usual nor so short that chance writes them."""
    found = (words & whole_words(data)) - usual - COMMON
    try:
        data.decode()
        shortest = 3
    except UnicodeDecodeError:  # pixels: any three bytes turn up among a hundred thousand
        shortest = 5
    return {word for word in found if len(word) >= (6 if word.isdigit() else shortest)}


@pytest.mark.parametrize("table", [False, True])
def test_no_identifying_word_survives_an_intake(table, tmp_path, usual_words, capfd, caplog):
    write_raw(tmp_path / "raw", table=table)
    run = tmp_path / "run"
    run.mkdir()
    with caplog.at_level(0):
        told = intake.ingest(tmp_path / "raw", run, study(table=table), bytes(32), workers=0)
    assert told.images >= 12
    assert told.bad >= 5
    words = frozenset().union(*(identifying_words(dicom(name)) for name in HOLDING))
    assert len(words) > 300
    said = capfd.readouterr()
    spoken = {"stdout": said.out, "stderr": said.err, "log": caplog.text, "told": told.summary}
    written = everything(run)
    assert {"quarantine.csv", "audit.csv", "intake.json"} <= written.keys()
    for name, data in {**written, **{key: text.encode() for key, text in spoken.items()}}.items():
        assert not leaked(data, words, usual_words), name
        assert not names_in(data), name


def test_the_search_finds_what_is_there(tmp_path, usual_words):
    words = identifying_words(dicom("RG1_UNCI"))
    assert {"compressedsamples", "9rg1", "19400305", "thoravision", "hamburg"} <= words
    for code in ("latin-1", "utf-16-le", "utf-32-le"):
        assert leaked("x CompressedSamples^RG1 y".encode(code), words, usual_words)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("b.npy", "Thoravision")
    assert any(leaked(data, words, usual_words) for data in everything(tmp_path).values())


@pytest.mark.parametrize("broken", ["raises", "retained"])
def test_an_error_of_a_decoder_quotes_nobody(broken, tmp_path, monkeypatch, capfd):
    write_raw(tmp_path / "raw", table=False)
    run = tmp_path / "run"
    run.mkdir()

    def fail(*_args, **_options):
        raise ValueError(f"can't decode {named_images.TEXT} of /home/{NAME}")

    changes = {}
    if broken == "raises":
        monkeypatch.setattr("medsynth.data.dicom.display", fail)
        monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", fail)
        monkeypatch.setattr("tifffile.TiffPage.asarray", fail)
    else:
        changes = {"deidentify.retain": ["patient characteristics", "full dates"]}
    intake.ingest(tmp_path / "raw", run, study(table=False, **changes), bytes(32), workers=0)
    said = capfd.readouterr()
    for data in [*everything(run).values(), said.out.encode(), said.err.encode()]:
        assert not names_in(data)


def test_a_path_is_written_to_the_list_of_refused_files_and_nowhere_else(tmp_path, capfd):
    raw, run = tmp_path / "raw", tmp_path / "run"
    write_raw(tmp_path / "plain", table=False)
    (raw / f"{NAME} Marie").mkdir(parents=True)
    for path in (tmp_path / "plain").iterdir():
        shutil.copy(path, raw / f"{NAME} Marie" / f"{NUMBER} {path.name}")
    run.mkdir()
    intake.ingest(raw, run, study(table=False), bytes(32), workers=0)
    said = capfd.readouterr()
    found = {name for name, data in everything(run).items() if names_in(data)}
    assert found == {"quarantine.csv"}
    assert not names_in((said.out + said.err).encode())


@pytest.mark.slow
def test_the_command_with_its_processes_says_and_writes_no_name(tmp_path, usual_words):
    write_raw(tmp_path / "raw", table=False)
    (tmp_path / "study.yaml").write_text(protocol.to_yaml(study(table=False)))
    command = [sys.executable, "-m", "medsynth", "ingest", "study.yaml", "raw", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=250)
    assert done.returncode == 0, done.stderr.decode()
    words = frozenset().union(*(identifying_words(dicom(name)) for name in HOLDING))
    written = everything(tmp_path / "run")
    usual_words |= whole_words(written["protocol.yaml"])
    for name, data in {**written, "stdout": done.stdout, "stderr": done.stderr}.items():
        assert not leaked(data, words, usual_words), name
        assert not names_in(data), name
