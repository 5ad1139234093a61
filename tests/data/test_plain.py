"""Plain folders of anyone's making: no name means anything unless a table says so."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medsynth.data.plain import list_plain, read_patients
from medsynth.errors import DataError
from medsynth.protocol import Data

DATA = Data(label_columns=())


def put(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    return folder


def listed(folder, **options):
    entries = list_plain(folder, DATA, **options).entries
    return {entry.path: (entry.patient, entry.labels) for entry in entries}


def test_folders_are_labels_and_nobody_is_known(tmp_path):
    put(tmp_path, "a.png", "sick/b.png")
    assert listed(tmp_path) == {"a.png": (None, {}), "sick/b.png": (None, {"label": "sick"})}


def test_a_folder_a_patient_is_no_fault_and_no_label(tmp_path):
    put(tmp_path, *(f"person{n}/scan.png" for n in range(60)))
    assert list(listed(tmp_path).values()) == [(None, {})] * 60


def test_a_table_without_patients_lists_the_images(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("path,sex\nb.png,f\n")
    assert listed(tmp_path) == {"b.png": (None, {})}


def test_a_folders_table_names_patients_and_the_table_of_patients_outranks_it(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "labels.csv").write_text("path,patient_id\na.png,P1\nb.png,P2\n")
    assert {who for who, _ in listed(tmp_path).values()} == {"P1", "P2"}
    assert listed(tmp_path, patients={"a.png": "Q"})["a.png"][0] == "Q"
    assert listed(tmp_path, patients={"a.png": "Q"})["b.png"][0] == "P2"


def test_of_synthetic_images_no_patient_is_asked(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_text("path,patient_id\na.png,P1\n")
    assert listed(tmp_path, synthetic=True)["a.png"][0] == ""


# The table of patients --------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    put(tmp_path / "train", "1.png", "deep/2.png")
    put(tmp_path / "held", "3.png")
    return {"train": tmp_path / "train", "holdout": tmp_path / "held"}


def table(path, *rows, head="path,patient_id"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_paths_are_relative_to_the_table_or_to_a_folder(tmp_path, folders):
    rows = ("train/1.png,A", "deep/2.png,B", "held/3.png,C", "elsewhere/4.png,D")
    found = read_patients(table(tmp_path / "who.csv", *rows), folders)
    assert found == {"train": {"1.png": "A", "deep/2.png": "B"}, "holdout": {"3.png": "C"}}


def test_a_table_in_another_place_may_lead_up_and_down(tmp_path, folders):
    found = read_patients(table(tmp_path / "tables" / "who.csv", "../held/3.png,C"), folders)
    assert found["holdout"] == {"3.png": "C"}


def test_a_path_that_is_in_both_folders_is_a_fault_with_its_line(tmp_path, folders):
    put(tmp_path / "held", "1.png")
    where = table(tmp_path / "who.csv", "3.png,A", "1.png,B")
    with pytest.raises(DataError, match="line 3: the path is in train and in holdout"):
        read_patients(where, folders)


def test_two_patients_for_one_image_are_a_fault_that_names_neither(tmp_path, folders):
    where = table(tmp_path / "who.csv", "3.png,Smith", "held/3.png,Jones")
    with pytest.raises(DataError, match="line 3: an image is listed before") as error:
        read_patients(where, folders)
    assert "Smith" not in str(error.value)
    assert "Jones" not in str(error.value)


def test_absent_columns_files_and_matches_are_told(tmp_path, folders):
    with pytest.raises(DataError, match="no column 'patient_id'"):
        read_patients(table(tmp_path / "who.csv", "1.png,A", head="path,mrn"), folders)
    with pytest.raises(DataError, match="names no image of train or held"):
        read_patients(table(tmp_path / "who.csv", "9.png,A"), folders)
    with pytest.raises(DataError, match="does not exist"):
        read_patients(tmp_path / "none.csv", folders)
