"""Intake: a raw folder becomes a cohort without names, and bad files are told, not hidden."""

from __future__ import annotations

import csv
import json
import os
import socket
import time
from collections import Counter
from contextlib import chdir, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth.cohort import Cohort
from medsynth.data import phantoms
from medsynth.data.deidentify import pseudonym
from medsynth.data.intake import ingest
from medsynth.data.layouts import Entry
from medsynth.data.original import Steady, look_at
from medsynth.data.preparation import File
from medsynth.errors import DataError
from medsynth.protocol import parse

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
SECRET = b"k" * 32
posix = pytest.mark.skipif(os.name != "posix", reason="links and names of POSIX")
needs_real = pytest.mark.skipif(not REAL.exists(), reason="real images are not here")


def protocol(domain="chest_xray", image=None, **data):
    document = {
        "name": "test", "domain": domain, "image": {"size_px": 64, **(image or {})}, "data": data,
        "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.05}]},
    }  # fmt: skip
    return parse(json.dumps(document))


def folder(tmp_path, domain="chest_xray", **options):
    raw = tmp_path / "raw"
    given = {"patients": 6, "seed": 1, "size_px": 96, "images_each": 2, **options}
    phantoms.write_folder(raw, domain=domain, **given)
    return raw


def workspace(tmp_path, name="intake.tmp"):
    (tmp_path / name).mkdir()
    return tmp_path / name


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def quarantine(space):
    return rows(space / "quarantine.csv")


def test_a_folder_becomes_a_cohort_with_keyed_patients(tmp_path):
    raw, space = folder(tmp_path), workspace(tmp_path)
    told = []
    taken = ingest(
        raw, space, protocol(label_columns=["finding"]), SECRET, lambda *a: told.append(a)
    )
    cohort = Cohort.read(space)
    assert (taken.images, taken.bad, taken.patients) == (12, 0, 6)
    assert cohort.pixels.shape == (12, 64, 64, 1)
    assert cohort.records[0].id == "real-000001"
    assert cohort.records[0].patient == pseudonym(SECRET, "patient", "P0000")
    assert cohort.records[0].source == pseudonym(SECRET, "source", "images/p0000_0.png")
    assert len(set(cohort.patients)) == 6
    assert taken.labels["finding"].keys() <= {"normal", "opacity"}
    assert told[-1] == (12, 12)
    assert json.loads((space / "intake.json").read_text())["height_px"] == [96, 96, 96]


def test_pixels_are_those_of_the_file_reduced_by_area(tmp_path):
    raw, space = folder(tmp_path, size_px=128), workspace(tmp_path)
    ingest(raw, space, protocol(), SECRET)
    stored = np.asarray(Image.open(raw / "images" / "p0003_1.png"), np.float64)
    expected = stored.reshape(64, 2, 64, 2).mean((1, 3))
    np.testing.assert_allclose(Cohort.read(space).pixels[7, ..., 0], expected, atol=0.51)


def test_sixteen_bits_stay_sixteen(tmp_path):
    raw, space = folder(tmp_path), workspace(tmp_path)
    ingest(raw, space, protocol(image={"bits": 16}), SECRET)
    assert Cohort.read(space).pixels.dtype == np.uint16


@pytest.mark.parametrize("domain", ["chest_xray", "fundus"])
def test_every_format_gives_the_same_pixels(tmp_path, domain):
    spaces = []
    for name in ("png", "tiff", "dicom"):
        (tmp_path / name).mkdir()
        raw = folder(tmp_path / name, domain, formats=(name,))
        spaces.append(workspace(tmp_path / name))
        ingest(raw, spaces[-1], protocol(domain), SECRET)
    first, *others = (Cohort.read(space).pixels for space in spaces)
    for pixels in others:
        np.testing.assert_array_equal(pixels, first)


def test_bad_files_are_listed_with_their_reason_and_the_rest_goes_on(tmp_path):
    raw, space = folder(tmp_path, bad_files=4), workspace(tmp_path)
    (raw / "images" / "p0000_0.png").unlink()
    taken = ingest(raw, space, protocol(max_bad_share=0.4), SECRET)
    assert {row["path"].split("/")[1]: row["reason"] for row in quarantine(space)} == {
        "bad00_empty.png": "empty file",
        "bad01_truncated.png": "truncated or damaged",
        "bad02_text.png": "not an image",
        "bad03_channels.tif": "wrong channels",
        "p0000_0.png": "missing file",
    }
    assert (taken.files, taken.bad, taken.images, taken.missing) == (16, 5, 11, 1)
    assert "5 files were refused" in taken.summary


def test_too_many_bad_files_stop_the_run_after_the_list_is_written(tmp_path):
    raw, space = folder(tmp_path, bad_files=4), workspace(tmp_path)
    with pytest.raises(DataError, match=r"4 of 16 files can't be used .*intake.tmp/quarantine.csv"):
        ingest(raw, space, protocol(max_bad_share=0.24), SECRET)
    assert len(quarantine(space)) == 4
    assert not (space / "cohort.json").exists()


def test_no_good_file_at_all_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="no image is left"):
        ingest(tmp_path / "raw", workspace(tmp_path), protocol(max_bad_share=1.0), SECRET)


def test_the_same_folder_gives_the_same_bytes_however_many_processes_read(tmp_path):
    raw = folder(tmp_path, bad_files=2)
    once, again, many = (workspace(tmp_path, name) for name in ("once", "again", "many"))
    settings = protocol(max_bad_share=0.5)
    ingest(raw, once, settings, SECRET)
    ingest(raw, again, settings, SECRET)
    ingest(raw, many, settings, SECRET, workers=2)
    for path in once.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()
        assert (many / path.name).read_bytes() == path.read_bytes()


def test_no_name_of_a_patient_or_file_is_written_but_in_the_quarantine(tmp_path):
    raw, space = folder(tmp_path, formats=("dicom",)), workspace(tmp_path)
    (raw / "labels.csv").unlink()
    (raw / "images").rename(raw / "Doe_Jane")
    taken = ingest(raw, space, protocol(patient_column=None), SECRET)
    assert taken.labels == {}
    assert taken.patients == 12  # each file's own PatientID
    for path in space.iterdir():
        assert not any(word in path.read_bytes() for word in (b"MRN0000", b"Phantom", b"Doe_Jane"))


def test_where_no_patient_is_known_intake_says_so(tmp_path):
    raw = folder(tmp_path)
    taken = ingest(raw, workspace(tmp_path), protocol(patient_column=None), SECRET)
    assert taken.patients is None
    assert taken.images_of_unknown_patients == 12
    assert "no patient known" in taken.summary


def test_copies_are_linked_and_count_as_one_patient(tmp_path):
    raw, space = folder(tmp_path, images_each=1), workspace(tmp_path)
    with Image.open(raw / "images" / "p0001_0.png") as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(raw / "images" / "p0004_0.png")
    taken = ingest(raw, space, protocol(), SECRET)
    cohort = Cohort.read(space)
    assert [record.link for record in cohort.records] == [-1, 0, -1, -1, 0, -1]
    assert cohort.patients[1] == cohort.patients[4]
    assert (taken.duplicate_groups, taken.duplicate_images) == (1, 2)
    assert taken.patients_joined_by_duplicates == 2


def test_tiles_are_cut_in_the_file_s_own_pixels_and_glass_is_dropped(tmp_path):
    raw, space = tmp_path / "raw", workspace(tmp_path)
    raw.mkdir()
    field = np.full((140, 200, 3), 240, np.uint8)
    field[:64, 64:128] = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    field[64:128, 128:192] = field[:64, 64:128, ::-1]
    Image.fromarray(field).save(raw / "a.png")
    taken = ingest(raw, space, protocol("histology", {"tile_px": 64}), SECRET)
    cohort = Cohort.read(space)
    assert [record.id for record in cohort.records] == ["real-000001-002", "real-000001-006"]
    assert taken.flat_tiles == 4
    np.testing.assert_array_equal(cohort.pixels[0], field[:64, 64:128])


@pytest.mark.parametrize(
    ("pixels", "domain", "expected"),
    [
        ((np.arange(20 * 20) % 200).reshape(20, 20), "chest_xray", "too small"),
        (
            (np.arange(80 * 80) % 12).reshape(80, 80).repeat(3).reshape(80, 80, 3),
            "fundus",
            "blank image",
        ),
        ((np.arange(80 * 80) % 200).reshape(80, 80), "fundus", "wrong channels"),
    ],
)
def test_an_image_that_the_domain_can_t_use_is_refused(tmp_path, pixels, domain, expected):
    raw, space = tmp_path / "raw", workspace(tmp_path)
    raw.mkdir()
    Image.fromarray(pixels.astype(np.uint8)).save(raw / "a.png")
    with pytest.raises(DataError, match=f"1 of 1 files can't be used .1 {expected}"):
        ingest(raw, space, protocol(domain), SECRET)


# Files that must not be opened, and names that are hard to write -------------------------------


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 255, (64, 64))
    Image.fromarray(pixels.astype(np.uint8)).save(path, format="png")
    return path


def refused(raw, tmp_path, **data):
    """Take in all that a folder holds; return the reasons by path."""
    settings = protocol(max_bad_share=1.0, patient_column=None, **data)
    ingest(raw, workspace(tmp_path), settings, SECRET, workers=1)
    return {row["path"]: row["reason"] for row in quarantine(tmp_path / "intake.tmp")}


@posix
def test_links_that_lead_out_of_the_folder_are_refused_and_not_followed(tmp_path):
    raw, outside = tmp_path / "raw", picture(tmp_path / "elsewhere" / "secret.png")
    picture(raw / "sub" / "a.png")
    (raw / "out.png").symlink_to(outside)
    (raw / "folder").symlink_to(outside.parent)
    (raw / "up").symlink_to("..")
    (raw / "twin.png").symlink_to("sub/a.png")
    (raw / "round").symlink_to("sub")
    (raw / "loop.png").symlink_to("loop.png")
    (raw / "broken.png").symlink_to("nothing.png")
    assert refused(raw, tmp_path) == {
        "out.png": "outside the folder",
        "folder": "outside the folder",
        "up": "outside the folder",
        "loop.png": "missing file",
        "broken.png": "missing file",
    }
    assert len(Cohort.read(tmp_path / "intake.tmp")) == 2


@posix
def test_a_table_leads_nowhere_but_into_the_folder(tmp_path):
    raw = tmp_path / "raw"
    picture(raw / "a.png")
    picture(tmp_path / "elsewhere" / "b.png")
    (raw / "linked").symlink_to(tmp_path / "elsewhere")
    (raw / "labels.csv").write_text('path\na.png\nlinked/b.png\n"x\0y.png"\n.\n')
    assert refused(raw, tmp_path) == {
        "linked/b.png": "outside the folder",
        "x\0y.png": "missing file",
        ".": "not an image",
    }


@posix
def test_what_is_no_file_is_never_opened(tmp_path):
    raw = tmp_path / "raw"
    picture(raw / "a.png")
    os.mkfifo(raw / "pipe.png")
    os.mkfifo(raw / "pipe")  # might be DICOM, by its name
    (raw / "folder.png").mkdir()
    (raw / "device.png").symlink_to("/dev/zero")
    with closing(socket.socket(socket.AF_UNIX)) as listener, chdir(raw):
        listener.bind("socket.png")
        assert refused(raw, tmp_path) == {
            "pipe.png": "not an image",
            "device.png": "outside the folder",
            "socket.png": "not an image",
        }
    details = {row["path"]: row["detail"] for row in quarantine(tmp_path / "intake.tmp")}
    assert (details["pipe.png"], details["socket.png"]) == ("a pipe", "a socket")


@posix
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    picture(tmp_path / "raw" / "a.png")
    picture(tmp_path / "raw" / "b.png").chmod(0)
    assert refused(tmp_path / "raw", tmp_path) == {"b.png": "missing file"}


@posix
def test_any_name_comes_back_from_the_quarantine(tmp_path):
    names = [
        "line\nbreak.png", "return\rand both\r\n.png", 'quote".png', "comma, .png", "𝒟🫀.png",
        "back\\slash.png", os.fsdecode(b"latin\xe4.png"), " .png", "-.png", "=1+1.png",
    ]  # fmt: skip
    for name in names:
        picture(tmp_path / "raw" / name).write_bytes(b"")
        picture(tmp_path / "raw" / f"folder of {name[:-4]}" / "a.png")
    found = refused(tmp_path / "raw", tmp_path)
    assert set(found.values()) == {"empty file"}
    assert {name.encode().decode("unicode_escape") if "udc" in name else name.replace(
        "\\\\", "\\") for name in found} == set(names)  # fmt: skip
    assert len(Cohort.read(tmp_path / "intake.tmp")) == len(names)


def test_a_file_that_changes_while_it_is_read_is_read_once_more_and_then_refused(tmp_path):
    path = picture(tmp_path / "raw" / "a.png")
    calls = []

    def read(entry):
        calls.append(entry.path)
        if len(calls) <= changes:
            os.utime(path, (1, len(calls)))
        return File(size=(1, 1))

    changes = 1
    assert Steady(path.parent, read)(Entry("a.png")) == (
        look_at(path.parent, "a.png"), File(size=(1, 1)),
    )  # fmt: skip
    changes = 9
    look, file = Steady(path.parent, read)(Entry("a.png"))
    assert (look, file.reason, len(calls)) == (None, "truncated or damaged", 4)


def test_who_takes_too_much_memory_is_left_to_a_fresh_process(tmp_path):
    path = picture(tmp_path / "raw" / "a.png")
    with pytest.raises(MemoryError):
        Steady(path.parent, lambda entry: File("took too much memory"))(Entry("a.png"))


def test_a_file_that_goes_away_while_others_are_read_is_missing(tmp_path):
    raw, space = folder(tmp_path), workspace(tmp_path)

    def remove(done, total):
        (raw / "images" / "p0005_1.png").unlink(missing_ok=True)

    ingest(raw, space, protocol(max_bad_share=0.5), SECRET, remove, workers=0)
    assert [(row["path"], row["reason"]) for row in quarantine(space)] == [
        ("images/p0005_1.png", "missing file")
    ]


# What is said of it -----------------------------------------------------------------------------


def test_the_audit_has_a_line_for_every_file_and_no_name(tmp_path):
    raw, space = folder(tmp_path, formats=("png", "dicom"), bad_files=1), workspace(tmp_path)
    taken = ingest(raw, space, protocol(max_bad_share=0.5), SECRET)
    audit = rows(space / "audit.csv")
    cohort = Cohort.read(space)
    assert len(audit) == taken.files == 13
    assert {row["source"] for row in audit if row["outcome"] == "read"} == {
        record.source for record in cohort.records
    }
    assert Counter(row["outcome"] for row in audit) == {"read": 12, "empty file": 1}
    assert taken.formats == {".dcm": 6, ".png": 7}
    headers = [row for row in audit if row["methods"]]
    assert len(headers) == 6
    for name, count in taken.deidentified.items():
        assert count == sum(int(row[name]) for row in headers)
    assert taken.deidentified["replaced"] + taken.deidentified["emptied"] > 0


def test_what_the_data_set_does_not_know_is_said_aloud(tmp_path):
    taken = ingest(folder(tmp_path), workspace(tmp_path), protocol(), SECRET)
    assert taken.layout == "tables"
    said = replace(taken, caveats=("Nobody knows the site.",)).summary
    assert said.endswith("Nobody knows the site.")


@needs_real
def test_real_dicom_radiographs_come_in(tmp_path):
    space = workspace(tmp_path)
    taken = ingest(REAL / "dicom", space, protocol(patient_column=None), SECRET)
    assert (taken.files, taken.bad, taken.images) == (3, 0, 3)
    assert taken.patients == 2
    assert Cohort.read(space).records[1].link == Cohort.read(space).records[2].link == 0


@needs_real
def test_real_fundus_photographs_of_two_tables_come_in(tmp_path):
    space, start = workspace(tmp_path), time.monotonic()
    settings = protocol("fundus", label_columns=["label", "laterality"])
    taken = ingest(REAL / "fundus", space, settings, SECRET)
    assert (taken.images, taken.patients, taken.unlisted) == (73, 59, 56)
    assert taken.duplicate_images == 0
    assert time.monotonic() - start < 60
