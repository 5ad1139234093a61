"""Released DICOM files: synthetic by their own word, conforming, and nobody's."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image
from medsynth.release.dicom import EQUIPMENT, REQUIRED, Study, check, write_image

DIGESTS = {"diffusion": "d" * 64, "protocol": "c" * 64, "autoencoder": "a" * 64}


def written(folder, image, *, domain="chest_xray", number=3, cohort="ab" * 32, labels=None):
    path = folder / f"{number}.dcm"
    study = Study(cohort, domain, DIGESTS)
    write_image(path, image, study, number=number, labels=labels or {})
    return path


def some_image(dtype=np.uint8, channels=1):
    high = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, high, (32, 32, channels), dtype, endpoint=True)


@pytest.mark.parametrize(
    ("dtype", "channels", "domain"),
    [(np.uint8, 1, "chest_xray"), (np.uint16, 1, "chest_xray"), (np.uint8, 3, "histology")],
)
def test_pixels_are_kept_to_the_last_bit_and_the_file_conforms(tmp_path, dtype, channels, domain):
    image = some_image(dtype, channels)
    path = written(tmp_path, image, domain=domain)
    assert list(check(path)) == []
    assert np.array_equal(pydicom.dcmread(path).pixel_array.reshape(image.shape), image)


def test_this_house_reads_what_it_wrote(tmp_path):
    image = some_image(np.uint16)
    found = read_image(written(tmp_path, image), ReadOptions(max_pixels=10**6))
    np.testing.assert_allclose(found[0], image[..., 0] / 65535, atol=1e-6)


def test_it_says_that_it_is_synthetic_and_what_made_it(tmp_path):
    dataset = pydicom.dcmread(written(tmp_path, some_image(), labels={"disease": "none"}))
    assert (dataset.SyntheticData, list(dataset.ImageType)) == ("YES", ["DERIVED", "SECONDARY"])
    assert dataset.ConversionType == "SYN"
    purpose = dataset.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0]
    assert (purpose.CodeValue, purpose.CodeMeaning) == ("109100", "Synthesizing Equipment")
    assert all(digest in dataset.DerivationDescription for digest in DIGESTS.values())
    assert dataset.ImageComments == "disease: none"


def test_patients_are_invented_and_uids_follow_from_cohort_and_number_alone(tmp_path):
    first = pydicom.dcmread(written(tmp_path, some_image()))
    again = pydicom.dcmread(written(tmp_path, some_image() // 2))
    other = pydicom.dcmread(written(tmp_path, some_image(), number=4))
    moved = pydicom.dcmread(written(tmp_path, some_image(), cohort="cd" * 32))
    uids = [
        (d.SOPInstanceUID, d.SeriesInstanceUID, d.StudyInstanceUID)
        for d in (first, again, other, moved)
    ]
    assert uids[0] == uids[1]
    assert len({uid for row in uids for uid in row}) == 9
    assert all(uid.startswith("2.25.") and len(uid) <= 64 and uid.is_valid for uid in uids[0])
    assert first.PatientID == "SYN-ABABABAB-3"


def test_labels_in_any_language_are_kept(tmp_path):
    dataset = pydicom.dcmread(written(tmp_path, some_image(), labels={"Befund": "größer 心"}))
    assert str(dataset.ImageComments) == "Befund: größer 心"
    assert dataset.SpecificCharacterSet == "ISO_IR 192"


def test_a_private_attribute_is_found_at_any_depth(tmp_path):
    path = written(tmp_path, some_image())
    dataset = pydicom.dcmread(path)
    equipment = dataset.ContributingEquipmentSequence[0]
    equipment.private_block(0x0011, "SOMEBODY", create=True).add_new(1, "LO", "4711")
    dataset.save_as(path)
    assert "has a private attribute, which medsynth does not write" in list(check(path))


def test_what_contributing_equipment_must_have_is_that_of_the_standards_tables(tmp_path):
    import highdicom

    tables = Path(highdicom.__file__).parent / "_standard"
    module = json.loads((tables / "module_attribute_map.json").read_text())["sop-common"]
    inside = "ContributingEquipmentSequence"
    wanted = [a["keyword"] for a in module if a["path"] == [inside] and a["type"] in ("1", "2")]
    assert sorted(wanted) == sorted(EQUIPMENT)
    path = written(tmp_path, some_image())
    dataset = pydicom.dcmread(path)
    del dataset.ContributingEquipmentSequence[1].Manufacturer
    dataset.save_as(path)
    assert list(check(path)) == [f"has no Manufacturer in its {inside}"]


def test_no_clock_is_read(tmp_path):
    dataset = pydicom.dcmread(written(tmp_path, some_image()))
    times = [e for e in dataset.iterall() if e.VR in ("DA", "TM", "DT") and not e.is_empty]
    assert times == []


def test_required_attributes_are_those_of_the_standards_tables():
    import highdicom

    tables = Path(highdicom.__file__).parent / "_standard"
    iods = json.loads((tables / "iod_module_map.json").read_text())
    attributes = json.loads((tables / "module_attribute_map.json").read_text())
    modules = [m["key"] for m in iods["secondary-capture-image"] if m["usage"] == "M"]
    wanted = {
        a["keyword"]: a["type"]
        for module in modules
        for a in attributes[module]
        if not a["path"] and a["type"] in ("1", "2")
    }
    assert wanted == REQUIRED


@pytest.mark.parametrize(
    ("keyword", "value", "fault"),
    [
        ("SyntheticData", None, "does not say that it is synthetic"),
        ("SyntheticData", "NO", "does not say that it is synthetic"),
        ("ContributingEquipmentSequence", None, "does not say that it is synthetic"),
        ("PatientID", "4711", "a patient who was not invented"),
        ("Modality", "", "has an empty Modality"),
        ("StudyID", None, "has no StudyID"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.1", "is no Secondary Capture"),
        ("ImageType", ["ORIGINAL", "PRIMARY"], "not of the type DERIVED, SECONDARY"),
        ("DerivationDescription", "Edited", "digests of the model and the protocol"),
        ("StudyInstanceUID", "1.2.3.4", "a UID that medsynth did not make"),
        ("PatientName", "Doe^John", "a patient who was not invented"),
        ("PatientBirthDate", "19570302", "tells of a patient"),
        ("InstitutionName", "General Hospital", "has InstitutionName, which medsynth does not"),
        ("PixelData", None, "has no pixels"),
    ],
)
def test_the_check_names_what_was_changed(tmp_path, keyword, value, fault):
    path = written(tmp_path, some_image())
    dataset = pydicom.dcmread(path)
    if value is None:
        delattr(dataset, keyword)
    else:
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    assert any(fault in said for said in check(path))
