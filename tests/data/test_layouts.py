"""Raw folders: tables, folders as labels, and all faults at once."""

from __future__ import annotations

import gzip
import sys

import numpy as np
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


ROWS = [
    {"path": "a.png", "patient_id": 7, "grade": 1, "size": 2.5, "seen": None},
    {"path": "b.png", "patient_id": 12, "grade": None, "size": 3.0, "seen": True},
]
TEXTS = {"grade": "1", "size": "2.5"}, {"size": "3", "seen": "True"}


def write_xlsx(path, rows):
    from openpyxl import Workbook

    book = Workbook()
    for row in [list(rows[0]), *(list(row.values()) for row in rows), [None] * len(rows[0])]:
        book.active.append(row)
    book.save(path)


def write_parquet(path, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


def write_text(path, rows):
    lines = [list(rows[0]), *(row.values() for row in rows)]
    cells = [["" if cell is None else f"{cell:g}" if cell == 3 else str(cell) for cell in line]
             for line in lines]  # fmt: skip
    separator = "\t" if ".tsv" in path.name else ","
    data = "".join(separator.join(line) + "\n" for line in cells).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("labels.csv", write_text), ("labels.tsv", write_text), ("labels.csv.gz", write_text),
        ("labels.parquet", write_parquet), ("labels.xlsx", write_xlsx),
    ],
)  # fmt: skip
def test_every_kind_of_table_gives_the_same_text(tmp_path, name, write):
    write(make(tmp_path, {"a.png": "x", "b.png": "x"}) / name, ROWS)
    data = Data(tables=name, label_columns=("grade", "size", "seen"))
    assert find_images(tmp_path, data).entries == (
        Entry("a.png", "7", TEXTS[0]),
        Entry("b.png", "12", TEXTS[1]),
    )


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz", "labels.parquet", "labels.xlsx"])
def test_a_file_that_is_no_such_table_is_an_error_that_quotes_nothing(tmp_path, name):
    message = faults(make(tmp_path, {name: "Doe\x00,1\n2,3,4", "a.png": "x"}), Data(tables=name))
    assert f"{name}: no table that can be read" in message or "looks like data" in message
    assert "Doe" not in message


def test_a_table_without_column_names_names_nobody(tmp_path):
    message = faults(make(tmp_path, {"labels.csv": "a.png,Doe\nb.png,Roe\n", "a.png": "x"}))
    assert "labels.csv: no column 'path' and 'patient_id'; its first row looks like" in message
    assert "oe" not in message.replace("does", "")


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("t.xlsx", "openpyxl")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path, monkeypatch, name, package
):
    for module in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    message = faults(make(tmp_path, {name: "x", "a.png": "x"}), Data(tables=name))
    assert f"need {package}" in message
    assert "medsynth[formats]" in message


def test_a_format_makes_bare_names_paths(tmp_path):
    raw = make(tmp_path, {
        "t/labels.csv": table("path,patient_id", "1,a", "2,b", "3,c"),
        "t/images/1.png": "x", "t/images/2.PNG": "x", "t/images/3.jpg": "x", "t/masks/1.jpg": "x",
    })  # fmt: skip
    listing = find_images(raw, Data(path_format="images/{}.png"))
    assert listing.missing == ("t/images/2.png", "t/images/3.png")
    listing = find_images(raw, Data(path_format="images/{}.*"))
    assert [(entry.path, entry.patient) for entry in listing.entries] == [
        ("t/images/1.png", "a"), ("t/images/2.PNG", "b"), ("t/images/3.jpg", "c"),
    ]  # fmt: skip
    assert (listing.missing, listing.unlisted) == ((), 1)


def test_a_format_leads_no_path_out_of_the_folder(tmp_path):
    raw = make(tmp_path, {"labels.csv": table("path,patient_id", "../../etc,1"), "a.png": "x"})
    assert "leads out of the folder" in faults(raw, Data(path_format="images/{}.png"))


def test_rows_are_kept_by_their_values_and_values_get_new_words(tmp_path):
    raw = make(tmp_path, {
        "labels.csv": table("path,patient_id,view,level", "a.png,1,PA,0", "b.png,1,LL,0",
                            "c.png,2,AP,4", "d.png,2,,9"),
        **{f"{name}.png": "x" for name in "abcd"},
    })  # fmt: skip
    data = Data(label_columns=("level",), keep={"view": ("PA", "AP", "")},
                rename={"level": {"0": "none", "9": ""}})  # fmt: skip
    listing = find_images(raw, data)
    assert [(entry.path, entry.labels) for entry in listing.entries] == [
        ("a.png", {"level": "none"}), ("c.png", {"level": "4"}), ("d.png", {}),
    ]  # fmt: skip
    assert listing.unlisted == 0
    assert "data.keep leaves none of the 4" in faults(raw, Data(keep={"view": ("XX",)}))


def test_a_row_that_one_table_leaves_out_stays_out(tmp_path):
    raw = make(tmp_path, {
        "labels.csv": table("path,patient_id,view", "one/a.png,1,LL", "one/b.png,1,PA"),
        "one/labels.csv": table("path,patient_id,dx", "a.png,1,ill", "b.png,1,ill"),
        "one/a.png": "x", "one/b.png": "x",
    })  # fmt: skip
    listing = find_images(raw, Data(keep={"view": ("PA",)}))
    assert [entry.path for entry in listing.entries] == ["one/b.png"]


def test_columns_that_nothing_has_are_named_with_the_knob(tmp_path):
    raw = make(tmp_path, {"labels.csv": table("path,patient_id", "a.png,1"), "a.png": "x"})
    message = faults(raw, Data(keep={"view": ("PA",)}, rename={"dx": {"0": "well"}}))
    assert "no table has the column 'view' that data.keep asks for" in message
    assert "data.rename has words for 'dx', which is none of data.label_columns" in message


def test_cells_beyond_the_columns_are_not_dropped_in_silence(tmp_path):
    raw = make(tmp_path, {"labels.csv": "path,patient_id\na.png,1,x\nb.png,2,y\n", "a.png": "x"})
    assert "no table that can be read" in faults(raw)


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


def test_folder_labels_are_kept_and_renamed_too(tmp_path):
    files = dict.fromkeys(["0/a.png", "1/b.png", "2/c.png"], "x")
    data = Data(keep={"label": ("0", "1")}, rename={"label": {"0": "none"}},
                label_columns=("label",))  # fmt: skip
    listing = find_images(make(tmp_path, files), data)
    assert [entry.labels for entry in listing.entries] == [{"label": "none"}, {"label": "1"}]
    assert listing.unlisted == 0


def test_headers_may_give_labels_of_dicom_files_and_of_nothing_else(tmp_path):
    data = Data(label_columns=("ViewPosition",))
    assert "ViewPosition" in faults(make(tmp_path / "a", {"a.png": "x"}), data)
    listing = find_images(make(tmp_path / "b", {"x.dcm": DICOM}), data)
    assert listing.entries == (Entry("x.dcm"),)
    assert "or of DICOM files Modality" in faults(tmp_path / "b", Data(label_columns=("Doe",)))


def test_volumes_and_arrays_are_listed_image_by_image(tmp_path):
    import nibabel as nib

    np.savez(tmp_path / "some.npz", images=np.zeros((3, 8, 8), np.uint8))
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 7), np.uint8), np.eye(4)), tmp_path / "v.nii.gz")
    (tmp_path / "w.nii").write_bytes(b"no volume")

    def members(**knobs):
        entries = find_images(tmp_path, Data(**knobs)).entries
        return [(entry.path, entry.member) for entry in entries]

    arrays = [("some.npz", 0), ("some.npz", 1), ("some.npz", 2)]
    assert members() == [*arrays, ("v.nii.gz", 3), ("w.nii", None)]
    slices = [("v.nii.gz", number) for number in (0, 3)]
    assert members(slice_plane="coronal", slice_step=3) == [*arrays, *slices, ("w.nii", None)]


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
