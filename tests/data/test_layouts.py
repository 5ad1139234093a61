"""Raw folders: tables, folders as labels, and all faults at once."""

from __future__ import annotations

import pytest

from medsynth.data.layouts import Entry, find_images
from medsynth.errors import DataError
from medsynth.protocol import Data

DICOM = b"\0" * 128 + b"DICM"


def make(raw, files):
    """Write {path: content}; images may be anything, for a listing reads none."""
    for name, content in files.items():
        path = raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return raw


def table(*rows):
    return "\n".join(rows) + "\n"


def faults(raw, data=None):
    with pytest.raises(DataError) as caught:
        find_images(raw, data or Data())
    return str(caught.value)


def test_a_table_gives_paths_patients_and_labels_sorted_by_path(tmp_path):
    raw = make(tmp_path, {
        "labels.csv": table("path,patient_id,dx,age", "b.png,P2,ill,70", "a.png,P1,,60"),
        "a.png": "x", "b.png": "x",
    })  # fmt: skip
    listing = find_images(raw, Data(label_columns=("dx",)))
    assert listing.entries == (Entry("a.png", "P1", {}), Entry("b.png", "P2", {"dx": "ill"}))
    assert (listing.unlisted, listing.missing, listing.tables) == (0, (), ("labels.csv",))
    assert listing.patients_known


def test_words_that_pandas_takes_for_nothing_stay_words(tmp_path):
    rows = ["a.png,NA,None", "b.png,007,nan", "c.png,,null"]
    names = {f"{name}.png": "x" for name in "abc"}
    raw = make(tmp_path, {"labels.csv": table("path,patient_id,dx", *rows), **names})
    entries = find_images(raw, Data(label_columns=("dx",))).entries
    assert [entry.patient for entry in entries] == ["NA", "007", None]
    assert [entry.labels["dx"] for entry in entries] == ["None", "nan", "null"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_of_every_country_are_read(tmp_path, separator):
    text = "\ufeff" + table("path,patient_id", " a\\b.png , P1 ").replace(",", separator)
    raw = make(tmp_path, {"labels.csv": text, "a/b.png": "x"})
    assert find_images(raw, Data()).entries == (Entry("a/b.png", "P1"),)


def test_many_tables_are_joined_and_only_one_needs_a_label(tmp_path):
    raw = make(tmp_path, {
        "one/labels.csv": table("path,patient_id,eye", "a.png,1,left"), "one/a.png": "x",
        "two/labels.csv": table("path,patient_id,dx", "a.png,2,ill"), "two/a.png": "x",
        "two/mask.png": "x",
    })  # fmt: skip
    listing = find_images(raw, Data(label_columns=("eye", "dx")))
    assert [entry.labels for entry in listing.entries] == [{"eye": "left"}, {"dx": "ill"}]
    assert listing.unlisted == 1
    assert listing.tables == ("one/labels.csv", "two/labels.csv")


def test_an_image_in_two_tables_gathers_what_both_say(tmp_path):
    raw = make(tmp_path, {
        "labels.csv": table("path,patient_id,eye", "one/a.png,1,left"), "one/a.png": "x",
        "one/labels.csv": table("path,patient_id,dx", "a.png,1,ill"),
    })  # fmt: skip
    listing = find_images(raw, Data(label_columns=("eye", "dx")))
    assert listing.entries == (Entry("one/a.png", "1", {"eye": "left", "dx": "ill"}),)


def test_absent_files_are_named(tmp_path):
    raw = make(
        tmp_path, {"labels.csv": table("path,patient_id", "a.png,1", "b.png,2"), "a.png": ""}
    )
    assert find_images(raw, Data()).missing == ("b.png",)


def test_all_faults_come_at_once_and_without_a_patient(tmp_path):
    raw = make(tmp_path, {
        "labels.csv": table("path,patient_id,dx", "a.png,Doe,x", "a.png,Doe,x", "../b.png,Roe,x",
                            "/etc/passwd,Roe,x", "c/d.png,Doe,x", ",Roe,x"),
        "c/labels.csv": table("path,patient_id,dx", "d.png,Roe,y"),
        "d/labels.csv": table("file,person", "d.png,Roe"),
    })  # fmt: skip
    message = faults(raw, Data(label_columns=("dx", "stage")))
    for part in (
        "8 faults",
        "labels.csv: a.png is listed twice",
        "labels.csv line 4: the path is empty or leads out of the folder",
        "labels.csv line 5:", "labels.csv line 7:",
        "c/d.png: two tables disagree on its patient",
        "c/d.png: two tables disagree on dx",
        "d/labels.csv: no column 'path' and 'patient_id'; it has file, person",
        "no table has the column 'stage'",
    ):  # fmt: skip
        assert part in message
    assert "oe" not in message.replace("does", "")


def test_a_ragged_table_is_an_error_that_quotes_no_row(tmp_path):
    rows = ["path,patient_id", "a.png,1", 'b.png,"Doe,2,3,4']
    message = faults(make(tmp_path, {"labels.csv": table(*rows), "a.png": "x"}))
    assert "no table that can be read" in message
    assert "Doe" not in message


def test_without_a_table_the_folder_is_the_label(tmp_path):
    files = dict.fromkeys(["ill/a.png", "ill/b.JPG", "well/c.tif", "d.jpeg", "notes.txt"], "x")
    listing = find_images(make(tmp_path, files), Data())
    assert [(entry.path, entry.labels) for entry in listing.entries] == [
        ("d.jpeg", {}),
        ("ill/a.png", {"label": "ill"}),
        ("ill/b.JPG", {"label": "ill"}),
        ("well/c.tif", {"label": "well"}),
    ]
    assert not listing.patients_known


def test_dicom_is_found_without_an_ending_and_its_folders_are_no_labels(tmp_path):
    files = {"doe/study/IM0001": DICOM, "doe/1.2.840.7": DICOM, "doe/x.dcm": DICOM}
    raw = make(tmp_path, {**files, "DICOMDIR": DICOM, "README": "hello", "a.7": "x"})
    listing = find_images(raw, Data())
    assert [entry.path for entry in listing.entries] == sorted(files)
    assert all(entry.labels == {} for entry in listing.entries)


def test_hidden_files_are_no_images(tmp_path):
    raw = make(tmp_path, {"a.png": "x", "._a.png": "x", ".trash/b.png": "x", "__MACOSX/a.png": "x"})
    assert [entry.path for entry in find_images(raw, Data()).entries] == ["a.png"]


def test_folders_that_look_like_patients_are_not_taken_for_labels(tmp_path):
    raw = make(tmp_path, {f"p{n}/a.png": "x" for n in range(51)})
    assert "51 folders hold images" in faults(raw)


def test_labels_without_a_table_are_an_error(tmp_path):
    message = faults(make(tmp_path, {"a.png": "x"}), Data(label_columns=("dx",)))
    assert "data.label_columns asks for dx" in message


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    message = faults(make(tmp_path, {"notes.txt": "x"}))
    assert "no image in" in message
    assert "labels.csv" in message
    assert ".dcm" in message
    assert "is no folder" in faults(tmp_path / "absent")
