"""medsynth deidentify: the same images without identity, once each, and nothing handed out."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import named_images
import numpy as np
import pydicom
import pytest
import tifffile
import tiny
from named_images import names_in
from PIL import Image, ImageDraw, ImageFont
from pydicom.data import get_testdata_file
from test_no_identity import identifying_words, leaked

from medsynth import pipeline
from medsynth.data.badimage import silence
from medsynth.data.deidentify import pseudonym, read_or_make_secret
from medsynth.errors import DataError

DICOM = ("CT_small", "RG1_UNCI", "MR_small_RLE", "JPEG2000", "examples_ybr_color", "color-pl")


def dicom(name: str) -> Path:
    return Path(get_testdata_file(f"{name}.dcm", download=False))


@pytest.fixture
def raw(tmp_path) -> Path:
    """DICOM, PNG, JPEG and TIFF that name patients, a broken file, a report and a text file."""
    folder = tmp_path / "Marie Sklodowska"
    folder.mkdir()
    for name in DICOM:
        (folder / f"{name}.dcm").write_bytes(dicom(name).read_bytes())
    named_images.write_png(folder / "Sklodowska 1.png", named_images.pixels(colour=True))
    named_images.write_jpeg(folder / "Sklodowska 2.jpg", named_images.pixels(seed=1))
    named_images.write_tiff(folder / "Sklodowska 3.tif", named_images.pixels(colour=True, seed=2))
    (folder / "broken.png").write_bytes((folder / "Sklodowska 1.png").read_bytes()[:900])
    (folder / "report.dcm").write_bytes(dicom("test-SR").read_bytes())
    (folder / "letter.txt").write_text(named_images.TEXT)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def deidentify(raw: Path, out: Path, **changes):
    study = tiny.study(**changes) if changes else None
    return pipeline.deidentify(raw, out, study, workers=0)


def test_all_images_come_out_and_no_name_does(raw, tmp_path):
    done = deidentify(raw, tmp_path / "out")
    assert (done.files, done.written, done.new, done.refused, done.ignored) == (11, 9, 9, 2, 1)
    secret = read_or_make_secret(tmp_path / "out.key")
    origin = {pseudonym(secret, "source", f"{name}.dcm"): dicom(name) for name in DICOM}
    for name, data in files(tmp_path / "out").items():
        assert not names_in(data + name.encode()), name
        if name.endswith(".dcm"):
            words = identifying_words(origin[Path(name).stem])
            assert len(words) > 5
            assert not leaked(data, words, set()), name


def test_pixels_are_the_same(raw, tmp_path):
    deidentify(raw, tmp_path / "out")
    after = {}
    for path in (tmp_path / "out").rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        after[dataset.Modality, dataset.Rows, dataset.get("NumberOfFrames")] = dataset
    with silence():
        for name in DICOM:
            before = pydicom.dcmread(dicom(name))
            twin = after[before.Modality, before.Rows, before.get("NumberOfFrames")]
            np.testing.assert_array_equal(twin.pixel_array, before.pixel_array)
    (image,) = (tmp_path / "out").rglob("*.tif")
    np.testing.assert_array_equal(tifffile.imread(image), named_images.pixels(colour=True, seed=2))
    for suffix, original in ((".png", "Sklodowska 1.png"), (".jpg", "Sklodowska 2.jpg")):
        (image,) = (tmp_path / "out").rglob(f"*{suffix}")
        with Image.open(image) as twin, Image.open(raw / original) as before:
            np.testing.assert_array_equal(np.asarray(twin), np.asarray(before))


def test_what_was_refused_is_named_beside_the_folder_and_not_in_it(raw, tmp_path):
    done = deidentify(raw, tmp_path / "out")
    refused = {row["path"]: row["reason"] for row in rows(tmp_path / "out.quarantine.csv")}
    assert refused == {"broken.png": "truncated or damaged", "report.dcm": "not an image"}
    assert done.reasons == {"not an image": 1, "truncated or damaged": 1}
    audit = rows(tmp_path / "out" / "audit.csv")
    assert len(audit) == done.files
    assert sorted(row["outcome"] for row in audit if not row["file"]) == sorted(done.reasons)
    assert all((tmp_path / "out" / row["file"]).is_file() for row in audit if row["file"])
    assert (tmp_path / "out.key").stat().st_mode & 0o777 == 0o600


def test_the_same_command_takes_only_what_is_missing(raw, tmp_path):
    out = tmp_path / "out"
    deidentify(raw, out)
    before = files(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    gone = next(iter(sorted(times)))
    gone.unlink()
    named_images.write_png(raw / "new.png", named_images.pixels(seed=5))
    done = deidentify(raw, out)
    assert (done.written, done.new) == (10, 2)
    assert {p: p.stat().st_mtime_ns for p in times if p != gone}.items() <= times.items()
    after = files(out)
    tables = {"audit.csv", "deidentified.json"}
    assert before.keys() < after.keys()
    assert all(after[name] == data for name, data in before.items() if name not in tables)


def test_in_one_call_or_in_two_the_same_comes_out(raw, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    deidentify(raw, whole)
    late = (raw / "Sklodowska 1.png").read_bytes()
    (raw / "Sklodowska 1.png").unlink()
    key = tmp_path / "whole.key"
    pipeline.deidentify(raw, parts, key=key, workers=0)
    (raw / "Sklodowska 1.png").write_bytes(late)
    pipeline.deidentify(raw, parts, key=key, workers=0)
    one, two = files(whole), files(parts)
    del one["deidentified.json"], two["deidentified.json"]
    assert one == two


def test_another_key_or_setting_does_not_go_on_in_the_same_folder(raw, tmp_path):
    out = tmp_path / "out"
    deidentify(raw, out)
    with pytest.raises(DataError, match="another settings"):
        deidentify(raw, out, **{"deidentify.retain": ["full dates"]})
    with pytest.raises(DataError, match="another key"):
        pipeline.deidentify(raw, out, key=tmp_path / "other", workers=0)


def test_nothing_of_anybody_is_overwritten(raw, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        deidentify(raw, other)
    for inside in (raw, raw / "out", raw.parent):
        with pytest.raises(DataError, match="in the other"):
            deidentify(raw, inside)
    with pytest.raises(DataError, match="expected a folder"):
        deidentify(tmp_path / "absent", tmp_path / "out")


def test_a_label_of_a_slide_is_refused(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    with silence():
        dataset = pydicom.dcmread(dicom("CT_small"))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    dataset.save_as(raw / "label.dcm")
    done = deidentify(raw, tmp_path / "out")
    assert done.reasons == {"burned-in annotation": 1}


def test_whole_slides_and_their_pictures_are_not_taken(tmp_path):
    raw = tmp_path / "raw"
    (raw / "slide").mkdir(parents=True)
    tifffile.imwrite(
        raw / "a.svs", np.zeros((64, 64, 3), np.uint8), description="Aperio Image Library v1",
        tile=(32, 32), metadata=None, photometric="rgb",
    )  # fmt: skip
    for name in ("b.mrxs", "slide/c-macro.jpg"):
        named_images.write_jpeg(raw / name, named_images.pixels(colour=True))
    (raw / "slide" / "c.vms").write_text("[Virtual Microscope Specimen]\nMacroImage=c-macro.jpg\n")
    done = deidentify(raw, tmp_path / "out")
    assert done.written == 0
    assert "slide/c-macro.jpg" not in (tmp_path / "out.quarantine.csv").read_text()


# Burned-in text ---------------------------------------------------------------------------------


def with_text(image: np.ndarray, white: int) -> np.ndarray:
    ink = Image.new("L", image.shape[1::-1])
    ImageDraw.Draw(ink).text((40, 60), "MUELLER ANNA", fill=255, font=ImageFont.load_default(28))
    return np.where(np.asarray(ink) > 100, white, image).astype(image.dtype)


@pytest.fixture
def written_on(tmp_path) -> Path:
    """A JPEG-like chest as DICOM with MONOCHROME1, and as a PNG, both with a name on them."""
    raw = tmp_path / "raw"
    raw.mkdir()
    image = named_images.pixels(size_px=400).astype(np.uint16) * 16
    with silence():
        dataset = pydicom.dcmread(dicom("CT_small"))
    for name in ("RescaleSlope", "RescaleIntercept", "PixelPaddingValue"):
        if name in dataset:
            delattr(dataset, name)
    dataset.set_pixel_data(with_text(image, 0), "MONOCHROME1", 12)
    dataset.save_as(raw / "a.dcm")
    Image.fromarray(with_text((image // 16).astype(np.uint8), 255)).save(raw / "b.png")
    return raw


def test_masked_text_is_gone_from_pixels_and_the_file_says_so(written_on, tmp_path):
    pytest.importorskip("rapidocr_onnxruntime")
    out = tmp_path / "out"
    done = deidentify(written_on, out, **{"deidentify.text_screen": "mask"})
    assert done.written == 2
    assert all(int(row["masked"]) >= 1 for row in rows(out / "audit.csv"))
    before = pydicom.dcmread(written_on / "a.dcm")
    after = pydicom.dcmread(next(out.rglob("*.dcm")))
    codes = [code.CodeValue for code in after.DeidentificationMethodCodeSequence]
    assert (codes, after.BurnedInAnnotation) == (["113100", "113101"], "NO")
    ink = before.pixel_array == 0
    assert not (after.pixel_array[ink] == 0).any()
    changed = after.pixel_array != before.pixel_array
    assert 0 < changed.mean() < 0.4
    assert len(np.unique(after.pixel_array[changed])) == 1
    assert after.PhotometricInterpretation == "MONOCHROME1"
    (picture,) = out.rglob("*.tif")
    assert not (tifffile.imread(picture)[ink] == 255).any()


def test_images_with_text_are_refused_where_the_protocol_says_so(written_on, tmp_path):
    pytest.importorskip("rapidocr_onnxruntime")
    out = tmp_path / "out"
    done = deidentify(written_on, out, **{"deidentify.text_screen": "quarantine"})
    assert done.reasons == {"text in the image": 2}
    assert not list(out.rglob("*.dcm"))
