"""A DICOM header gives a closed list of facts, after the profile, and nothing that is free text."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import tiny
from pydicom.data import get_testdata_file

from medsynth.data.badimage import BadImage
from medsynth.data.dicom_facts import LABEL_KEYWORDS, check_retained, read_facts
from medsynth.data.intake import ingest
from medsynth.errors import ProtocolError
from medsynth.protocol import Deidentify

KEEP = Deidentify(retain=("patient characteristics",))
SMALL = get_testdata_file("6154", download=False)  # a chest radiograph of 16 x 16


def write(folder, **tags):
    data = pydicom.dcmread(SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the values are meant to be wrong
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(folder / "image.dcm")
    return folder / "image.dcm"


def labels(folder, settings=KEEP, **tags):
    return read_facts(write(folder, **tags), settings).labels


def test_the_facts_are_the_header_s_and_name_nobody(tmp_path):
    path = write(tmp_path, PatientID="MRN-4711", PatientName="Doe^Secret", StudyDescription="Lung")
    facts = read_facts(path)
    assert (facts.patient, facts.modality) == ("MRN-4711", "CR")
    assert (facts.height, facts.width, facts.bits, facts.grey) == (16, 16, 12, True)
    assert facts.audit.removed > 0
    for word in ("Doe", "Secret", "Lung"):
        assert word not in repr(facts)


def test_a_patient_is_one_whether_or_not_a_file_names_the_issuer(tmp_path):
    named = read_facts(write(tmp_path, PatientID=" 7 ", IssuerOfPatientID="North")).patient
    plain = read_facts(write(tmp_path, PatientID="7", IssuerOfPatientID="")).patient
    assert named == plain == "7"
    assert read_facts(write(tmp_path, PatientID="", IssuerOfPatientID="North")).patient is None


def test_labels_are_of_the_closed_list(tmp_path):
    found = labels(
        tmp_path,
        BodyPartExamined="CHEST",
        ViewPosition="PA",
        Laterality="R",
        ImageLaterality="L",
        PatientSex="F",
        PatientAge="045Y",
    )
    assert found == {
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "Laterality": "L",
        "PatientSex": "F",
        "PatientAge": "40-49",
    }
    assert found.keys() == LABEL_KEYWORDS.keys()


def test_sex_and_age_are_labels_only_where_they_are_retained(tmp_path):
    found = labels(tmp_path, Deidentify(), PatientSex="F", PatientAge="045Y", ViewPosition="AP")
    assert found["ViewPosition"] == "AP"
    assert not {"PatientSex", "PatientAge"} & found.keys()


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("000Y", "0-9"), ("009Y", "0-9"), ("010Y", "10-19"), ("089Y", "80-89"), ("090Y", "90+"),
        ("103Y", "90+"), ("011M", "0-9"), ("130M", "10-19"), ("003W", "0-9"), ("045D", "0-9"),
        ("45", None), ("45Y", None), ("old", None), ("", None),
    ],
)  # fmt: skip
def test_an_age_is_a_band_of_ten_years_and_the_last_is_90(tmp_path, age, band):
    assert labels(tmp_path, PatientAge=age).get("PatientAge") == band


@pytest.mark.parametrize(
    "value",
    ["Mrs. Doe, left", "chest", "A" * 17, "CHEST\\ABDOMEN", "DOE^JOHN", "DOE JOHN", "1957-03-02"],
)
def test_what_is_no_term_of_the_standard_is_no_label(tmp_path, value):
    tags = {"BodyPartExamined": value, "ViewPosition": value, "Laterality": value}
    found = labels(tmp_path, PatientSex=value, PatientAge=value, **tags)
    assert found == {"Modality": "CR"}


def test_a_protocol_that_asks_for_what_the_profile_takes_out_is_stopped_at_once():
    check_retained(("Modality", "ViewPosition", "label"), Deidentify())
    check_retained(tuple(LABEL_KEYWORDS), KEEP)
    with pytest.raises(ProtocolError) as caught:
        check_retained(("PatientSex", "PatientAge", "Modality"), Deidentify())
    assert "asks DICOM headers for PatientSex and PatientAge" in str(caught.value)
    assert "deidentify.retain must name 'patient characteristics'" in str(caught.value)


def test_a_damaged_header_is_a_bad_image_or_gives_less(tmp_path):
    whole = Path(get_testdata_file("image_dfl.dcm", download=False)).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 2])  # deflated, in one piece
    with pytest.raises(BadImage, match="truncated or damaged: header"):
        read_facts(tmp_path / "cut.dcm")
    path, rows = write(tmp_path), b"\x28\0\x10\0"
    path.write_bytes(path.read_bytes().replace(rows + b"US", rows + b"IS"))
    assert (read_facts(path).height, read_facts(path).width) == (0, 16)


def test_no_tag_s_value_escapes_by_a_warning_or_a_log(tmp_path, caplog, capfd):
    path = write(tmp_path, PatientName="Doe^Secret", PatientID="MRN-4711")
    path.write_bytes(path.read_bytes().replace(b"Doe^Secret", b"\xffoe^Secre\xfe"))
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        facts = read_facts(path)
    out = capfd.readouterr()
    for text in (caplog.text, out.out, out.err, repr(facts).replace("'MRN-4711'", "")):
        assert "Secre" not in text
        assert "4711" not in text


def test_pixels_are_never_touched(tmp_path):
    path = Path(write(tmp_path))
    whole = read_facts(path)
    path.write_bytes(path.read_bytes()[:-300])  # of 512 bytes of pixels
    assert read_facts(path) == whole


def test_labels_and_patients_of_headers_come_into_a_cohort(tmp_path):
    raw, space = tmp_path / "raw", tmp_path / "intake"
    raw.mkdir()
    space.mkdir()
    whole = pydicom.dcmread(SMALL)
    for number, (view, age) in enumerate([("PA", "045Y"), ("AP", "093Y"), ("Mrs. Doe", "")]):
        rng = np.random.default_rng(number)
        whole.Rows = whole.Columns = 32
        whole.PixelData = rng.integers(0, 4096, (32, 32), np.uint16).tobytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole.ViewPosition, whole.PatientAge, whole.PatientID = view, age, f"MRN-{number // 2}"
            whole.save_as(raw / f"{number}.dcm")
    asked = {"data.label_columns": ["ViewPosition", "PatientAge"], "image.size_px": 32}
    with pytest.raises(ProtocolError, match="asks DICOM headers for PatientAge"):
        ingest(raw, space, tiny.study(**asked), b"k" * 32)
    asked["deidentify.retain"] = ["patient characteristics"]
    taken = ingest(raw, space, tiny.study(**asked), b"k" * 32)
    assert taken.labels == {
        "ViewPosition": {"PA": 1, "AP": 1},
        "PatientAge": {"40-49": 1, "90+": 1},
    }
    assert taken.patients == 2
    written = b"".join(path.read_bytes() for path in space.rglob("*") if path.is_file())
    for word in (b"MRN-", b"Doe", b"045Y", b"093Y"):
        assert word not in written
