"""A segmentation cohort leaves: its masks beside its images, in every format, and verified."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings
from PIL import Image

from medsynth import protocol
from medsynth.errors import RefusedError
from medsynth.finding import Finding
from medsynth.release.export import write_release
from medsynth.release.masks import palette
from medsynth.release.pictures import is_marked
from medsynth.release.verify import verify

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
MASKED = (
    PROTOCOL
    + "    - {finding: masks.p_value, not_rejected_at: 0.05}\n"
    + "masks: {classes: {1: vessel, 3: optic disc}}\n"
)
IMAGES = 6


@pytest.fixture(scope="module")
def study():
    """A study that passed, with masks of which the last is empty."""
    random = np.random.default_rng(5)
    masks = random.choice([0, 1, 3], size=(IMAGES, 64, 64), p=[0.8, 0.15, 0.05]).astype(np.uint8)
    masks[-1] = 0
    found = make_findings()
    p = Finding("masks.p_value", 0.4, 0.4, 0.4, IMAGES, "probability", "higher is better", "made")
    cohort = replace(make_cohort(IMAGES), masks=masks)
    return judged(protocol.parse(MASKED), cohort, found | {p.name: p})


@pytest.fixture(scope="module")
def released(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_release(folder, **study, also=("parquet", "webdataset", "npz", "dicom"))
    return folder


def test_masks_leave_as_their_classes_under_their_images_names(released, study):
    assert verify(released).faults == ()
    for record, mask in zip(study["cohort"].records, study["cohort"].masks, strict=True):
        path = released / "masks" / f"{record.id}.png"
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert np.array_equal(picture, mask)
            assert np.array_equal(picture.convert("RGB"), palette()[mask])
        assert is_marked(path)
    classes = json.loads((released / "masks" / "classes.json").read_text())
    assert classes == {"0": "background", "1": "vessel", "3": "optic disc"}
    assert "1 vessel, 3 optic disc." in (released / "README.md").read_text()
    assert "Is a mask a real patient's" in (released / "PRIVACY.md").read_text()


def test_the_table_points_to_the_masks(released):
    with (released / "images" / "metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file_name", "id", "mask", "disease"]
    assert all((released / "images" / row["mask"]).is_file() for row in rows)


def test_a_changed_a_missing_and_an_unmarked_mask_are_found(study, tmp_path):
    write_release(tmp_path, **study)
    name = "masks/syn-000002.png"
    Image.new("L", (64, 64)).save(tmp_path / name)
    faults = verify(tmp_path).faults
    assert f"{name}: was changed" in faults
    assert f"{name}: does not say that it is synthetic" in faults
    (tmp_path / name).unlink()
    assert f"{name}: is missing" in verify(tmp_path).faults


def test_a_mask_less_in_the_manifest_is_found(study, tmp_path):
    write_release(tmp_path, **study)
    path = tmp_path / "manifest.json"
    said = json.loads(path.read_text())
    del said["masks"]["masks/syn-000001.png"]
    path.write_text(json.dumps(said))
    faults = verify(tmp_path).faults
    assert "masks: there is not one mask for each image" in faults
    assert "masks/syn-000001.png: is not in manifest.json" in faults


def test_masks_belong_to_what_was_judged(study, tmp_path):
    other = np.roll(study["cohort"].masks, 1, axis=0)
    changed = {**study, "cohort": replace(study["cohort"], masks=other)}
    with pytest.raises(RefusedError, match="cohort: not the same as what was judged"):
        write_release(tmp_path, **changed)
    without = {**study, "cohort": replace(study["cohort"], masks=None)}
    with pytest.raises(RefusedError, match="the cohort has no masks, and the protocol asks for"):
        write_release(tmp_path, **without)


def test_masks_without_a_rule_on_them_are_no_study():
    with pytest.raises(protocol.ProtocolError, match="at least one rule must be on a masks"):
        protocol.parse(PROTOCOL + "masks: {}\n")


# Formats ------------------------------------------------------------------------------------------


def test_segmentations_open_in_highdicom_over_their_images(released, study):
    import highdicom
    import pydicom

    for record, mask in zip(study["cohort"].records, study["cohort"].masks, strict=True):
        found = highdicom.seg.segread(released / "dicom" / f"{record.id}.seg.dcm")
        image = pydicom.dcmread(released / "dicom" / f"{record.id}.dcm")
        labels = [found.get_segment_description(n).segment_label for n in found.segment_numbers]
        assert labels == ["vessel", "optic disc"]
        planes = found.get_pixels_by_source_instance([image.SOPInstanceUID])[0]
        assert np.array_equal(planes[..., 0], mask == 1)
        assert np.array_equal(planes[..., 1], mask == 3)
        assert (found.SyntheticData, found.PatientID) == ("YES", image.PatientID)
        assert found.StudyInstanceUID == image.StudyInstanceUID
        uids = (found.SOPInstanceUID, found.SeriesInstanceUID)
        assert all(uid.startswith("2.25.") and uid.is_valid for uid in uids)


def test_no_clock_is_in_a_segmentation_and_it_is_the_same_each_time(released, study, tmp_path):
    import pydicom

    write_release(tmp_path, **study, also=("dicom",))
    name = "dicom/syn-000001.seg.dcm"
    assert (tmp_path / name).read_bytes() == (released / name).read_bytes()
    dataset = pydicom.dcmread(tmp_path / name)
    times = {e.value for e in dataset.iterall() if e.VR in ("DA", "TM", "DT") and not e.is_empty}
    assert times == {"19700101", "000000"}


def test_tables_tars_and_arrays_hold_the_masks(released, study):
    import io

    import pandas
    import webdataset

    masks = study["cohort"].masks
    table = pandas.read_parquet(released / "parquet")
    with Image.open(io.BytesIO(table["mask"][2]["bytes"])) as picture:
        assert np.array_equal(picture, masks[2])
    shards = [str(path) for path in (released / "webdataset").glob("*.tar")]
    rows = list(webdataset.WebDataset(shards, shardshuffle=False))
    with Image.open(io.BytesIO(rows[3]["mask.png"])) as picture:
        assert np.array_equal(picture, masks[3])
    with np.load(released / "npz" / "cohort.npz") as arrays:
        assert np.array_equal(arrays["train_masks"], masks)


def test_mlcroissant_reads_images_with_their_masks(released, study):
    import mlcroissant

    described = mlcroissant.Dataset(jsonld=str(released / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = {row["masks/id"].decode(): row for row in described.records("masks")}
    for record, mask in zip(study["cohort"].records, study["cohort"].masks, strict=True):
        shown = np.asarray(rows[record.id]["masks/mask"])  # it looks up the palette
        assert np.array_equal(shown, palette()[mask])
