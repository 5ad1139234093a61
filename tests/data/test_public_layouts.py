"""Public data sets, in the layout they are handed out in: recognised, read exactly, and honest."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from public_sets import ODIR_HEADER, ODIR_ROWS, VINDR, WRITERS, odir_entries, put, table

from medsynth.cohort import Cohort, Record
from medsynth.data.intake import ingest
from medsynth.data.layouts import Entry, find_images, named
from medsynth.data.layouts.folder import Folder
from medsynth.data.layouts.listing import is_kept
from medsynth.data.split import describe, split_patients
from medsynth.errors import DataError
from medsynth.pipeline.first_look import init
from medsynth.protocol import Data, Split, parse
from medsynth.release import gate

NAMES = [one.name for one in named.LAYOUTS]
PATIENTS_KNOWN = {"eyepacs", "odir", "chase_db1", "nih_chestxray14", "chexpert", "mimic_cxr_jpg"}


def everything(raw, name):
    """All entries of a set with all their attributes."""
    entries = named.read(Folder.open(raw), named.layout(name))
    return sorted(entries, key=lambda entry: (entry.path, entry.member or 0))


def there(raw, entries):
    return [entry for entry in entries if (raw / entry.path).exists()]


def test_every_layout_has_a_copy_to_be_tested_on():
    assert sorted(NAMES) == sorted(WRITERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_recognised_and_no_other_is(tmp_path, name):
    WRITERS[name](tmp_path)
    assert [one.name for one in named.detect(Folder.open(tmp_path))] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_recognised_from_the_folder_above(tmp_path, name):
    (tmp_path / "download").mkdir()
    WRITERS[name](tmp_path / "download")
    assert [one.name for one in named.detect(Folder.open(tmp_path))] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_exactly_its_images_come_out_with_patient_labels_and_member(tmp_path, name):
    expected = WRITERS[name](tmp_path)
    found = everything(tmp_path, name)
    assert there(tmp_path, found) == sorted(expected, key=lambda e: (e.path, e.member or 0))


@pytest.mark.parametrize("name", NAMES)
def test_find_images_goes_by_the_name_and_takes_no_label_unasked(tmp_path, name):
    expected = WRITERS[name](tmp_path)
    listing = find_images(tmp_path, Data(layout=name))
    assert listing.layout == name
    assert [(e.path, e.patient, e.member) for e in listing.entries] == [
        (e.path, e.patient, e.member)
        for e in sorted(expected, key=lambda e: (e.path, e.member or 0))
    ]
    assert all(entry.labels == {} for entry in listing.entries)
    assert listing.patients_known == (name in PATIENTS_KNOWN)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_set_does_not_know_is_said(name):
    one = named.layout(name)
    assert one.source
    assert one.licence
    text = " ".join(one.limits)
    assert one.patients or "no patient" in text
    assert one.site or "hospital" in text
    assert all(sentence.endswith(".") for sentence in (*one.limits, *one.notes))


@pytest.mark.parametrize("name", NAMES)
def test_proposed_labels_and_rows_are_there(tmp_path, name):
    expected, one = WRITERS[name](tmp_path), named.layout(name)
    has = {attribute for entry in expected for attribute in entry.labels}
    assert not has or set(one.propose) & has
    assert set(one.keep) <= has
    assert set(one.propose) <= set(one.attributes)


def test_an_unknown_name_is_answered_with_all_there_are(tmp_path):
    with pytest.raises(DataError, match="no layout 'chexpret'; there are airogs, ") as caught:
        find_images(tmp_path, Data(layout="chexpret"))
    assert all(name in str(caught.value) for name in NAMES)


def test_a_folder_that_is_another_set_is_refused(tmp_path):
    WRITERS["hrf"](tmp_path)
    with pytest.raises(DataError, match=r"data.layout is chexpert, but .* does not look like"):
        find_images(tmp_path, Data(layout="chexpert"))


def test_labels_are_picked_rows_kept_and_words_changed(tmp_path):
    WRITERS["chexpert"](tmp_path)
    data = Data(
        layout="chexpert",
        label_columns=("Edema", "view"),
        keep={"view": ("PA", "AP"), "Edema": ("uncertain", "not mentioned")},
        rename={"Edema": {"not mentioned": "", "uncertain": "maybe"}},
    )
    listing = find_images(tmp_path, data)
    assert [entry.labels for entry in listing.entries] == [
        {"view": "AP"},
        {"Edema": "maybe", "view": "PA"},
    ]
    assert listing.unlisted == 0  # two are left out by the protocol, not forgotten by a table


def test_labels_that_a_set_does_not_have_are_named_with_those_it_has(tmp_path):
    WRITERS["rsna_pneumonia"](tmp_path)
    data = Data(layout="rsna_pneumonia", label_columns=("Edema",), keep={"sex": ("female",)},
                rename={"age": {"a": "b"}})  # fmt: skip
    with pytest.raises(DataError, match=r"rsna_pneumonia has opacity, class, .*3 faults") as caught:
        find_images(tmp_path, data)
    for part in ("'Edema' that data.label_columns", "'sex' that data.keep", "words for 'age'"):
        assert part in str(caught.value)


def test_a_set_s_dicom_headers_may_give_labels_too(tmp_path):
    WRITERS["rsna_pneumonia"](tmp_path)
    data = Data(layout="rsna_pneumonia", label_columns=("opacity", "ViewPosition"))
    assert [e.labels.keys() for e in find_images(tmp_path, data).entries] == [{"opacity"}] * 2
    with pytest.raises(DataError, match=r"'ViewPosition' that data\.keep"):
        find_images(tmp_path, Data(layout="rsna_pneumonia", keep={"ViewPosition": ("PA",)}))


def test_a_part_of_a_set_will_do_and_what_is_not_there_is_counted(tmp_path):
    WRITERS["nih_chestxray14"](tmp_path)
    listing = find_images(tmp_path, Data(layout="nih_chestxray14"))
    assert len(listing.entries) == 3
    assert listing.missing == ("00030806_000.png",)


def test_two_copies_of_a_set_are_refused(tmp_path):
    WRITERS["nih_chestxray14"](tmp_path)
    put(tmp_path, "chest", "images-224/00000001_000.png")
    with pytest.raises(DataError, match="more than one copy of the set"):
        find_images(tmp_path, Data(layout="nih_chestxray14"))


def test_a_set_s_table_must_not_be_there_twice(tmp_path):
    WRITERS["airogs"](tmp_path)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "train_labels.csv").write_bytes(
        (tmp_path / "train_labels.csv").read_bytes()
    )
    with pytest.raises(DataError, match=r"TRAIN000000.jpg is listed 2 times: .*more than one copy"):
        find_images(tmp_path, Data(layout="airogs"))


def test_tables_that_are_not_as_published_are_refused(tmp_path):
    WRITERS["chexpert"](tmp_path)
    path = tmp_path / "CheXpert-v1.0-small" / "train.csv"
    path.write_text(path.read_text().replace("Sex,", "Gender,"))
    with pytest.raises(DataError, match="not as they were published, 'Sex' is missing"):
        find_images(tmp_path, Data(layout="chexpert"))
    path.write_text(path.read_text().replace("Gender,", "Sex,").replace("-1.0", "Doe"))
    with pytest.raises(DataError, match="not as they were published") as caught:
        find_images(tmp_path, Data(layout="chexpert"))
    assert "Doe" not in str(caught.value)


# From a folder to the verdict's words ------------------------------------------------------------


def take_in(raw, folder):
    """Draft a protocol as `init` does, leave the gate to a person, and ingest by it."""
    init(raw, folder / "protocol.yaml")
    head, gate = (folder / "protocol.yaml").read_text().split("# gate:")
    study = parse(head + "gate:" + re.sub(r"(?m)^# ", "", gate))
    (folder / "intake").mkdir()
    return ingest(raw, folder / "intake", study, secret=b"s" * 32, workers=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_is_taken_in_by_the_protocol_that_init_drafts(tmp_path, name):
    raw = tmp_path / "raw"
    raw.mkdir()
    kept = [e for e in WRITERS[name](raw) if is_kept(e.labels, named.layout(name).keep)]
    taken = take_in(raw, tmp_path)
    assert (taken.files, taken.bad) == (len(kept), 0)
    assert taken.images == len(kept)
    assert taken.patients == (len({e.patient for e in kept} - {""}) or None)
    assert taken.images_of_unknown_patients == sum(not e.patient for e in kept)
    assert (taken.layout, taken.caveats) == (name, named.layout(name).limits)
    written = (tmp_path / "intake" / "intake.json").read_text()
    assert all(json.dumps(caveat) in written for caveat in taken.caveats)


def claims_of(folder, domain):
    cohort = Cohort.read(folder / "intake")
    caveats = json.loads((folder / "intake" / "intake.json").read_text())["caveats"]
    parts = split_patients(cohort, Split(), 0)
    return gate.claims(describe(cohort, parts, caveats=caveats), domain=domain)


def test_where_a_set_s_patient_is_an_image_the_verdict_is_about_images(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    WRITERS["rsna_pneumonia"](raw)
    names = [f"image-{n}" for n in range(8)]
    rows = [f"{name},,,,,0" for name in names]
    table(raw, "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", *rows)
    put(raw, "chest", *(f"stage_2_train_images/{name}.dcm" for name in names))
    assert take_in(raw, tmp_path).patients is None  # though every header names one
    text = " ".join(claims_of(tmp_path, "chest_xray"))
    assert "what can be said is about images, not about people" in text
    assert "patientId is an image's number and no person's" in text
    assert "leakage is about patients" not in text


def test_where_slides_stand_for_patients_the_verdict_says_so():
    records = [Record(id=f"r{n}", origin="real", patient=f"slide {n // 2}") for n in range(16)]
    cohort = Cohort("histology", tuple(records), np.zeros((16, 8, 8, 3), np.uint8))
    caveats = named.layout("patch_camelyon").limits
    said = describe(cohort, split_patients(cohort, Split(), 0), caveats=caveats)
    text = " ".join(gate.claims(said, domain="histology"))
    assert "about patients, as far as the data set tells them apart" in text
    assert "a slide counts as a patient" in text


# Other forms of the same sets -------------------------------------------------------------------


def test_nih_s_second_table_names_sex_otherwise_and_wins_over_the_first(tmp_path):
    expected = WRITERS["nih_chestxray14"](tmp_path)
    first = (tmp_path / "Data_Entry_2017.csv").read_text()
    second = first.replace("Patient Gender", "Patient Sex").replace("414,M", "41,M")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(second.replace(",\n", "\n"))
    expected[1].labels["age"] = "40-49"
    assert there(tmp_path, everything(tmp_path, "nih_chestxray14")) == expected


def test_odir_s_csv_has_a_row_for_each_eye_and_a_second_copy_of_each_image(tmp_path):
    originals = "ODIR-5K/ODIR-5K/Training Images"
    rows = [
        ",".join([*map(str, row), f"../input/{eye}.jpg", "['N']", "[1 0 0]", f"{eye}.jpg"])
        for row in ODIR_ROWS
        for eye in (f"{row[0]}_left", f"{row[0]}_right")
    ]
    table(tmp_path, "full_df.csv", ",".join([*ODIR_HEADER, "filepath,labels,target,filename"]),
          *rows)  # fmt: skip
    for row in ODIR_ROWS:
        for side in ("left", "right"):
            name = f"{row[0]}_{side}.jpg"
            put(tmp_path, "fundus", f"{originals}/{name}", f"preprocessed_images/{name}")
    assert everything(tmp_path, "odir") == odir_entries(originals)


def test_chexpert_in_full_has_another_first_folder(tmp_path):
    expected = WRITERS["chexpert"](tmp_path)
    (tmp_path / "CheXpert-v1.0-small").rename(tmp_path / "here")
    found = everything(tmp_path, "chexpert")
    assert [e.path for e in found] == [
        e.path.replace("CheXpert-v1.0-small", "here") for e in expected
    ]
    assert [e.labels for e in found] == [e.labels for e in expected]


def test_vindr_in_kaggle_s_form_counts_readers_and_not_boxes(tmp_path):
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
    table(tmp_path, "train.csv", header,
          "a,No finding,14,R1,,,,", "a,No finding,14,R2,,,,", "a,Nodule/Mass,8,R3,1,2,3,4",
          "b,Nodule/Mass,8,R3,1,2,3,4", "b,Nodule/Mass,8,R3,5,6,7,8", "b,No finding,14,R1,,,,",
          "b,No finding,14,R2,,,,")  # fmt: skip
    put(tmp_path, "chest", "train/a.png", "train/b.png")
    assert everything(tmp_path, "vindr_cxr") == [
        Entry(f"train/{name}.png", "", {"No finding": "positive", "Nodule/Mass": "negative"})
        for name in "ab"
    ]
    assert set(VINDR) >= {"No finding", "Nodule/Mass"}


def test_crc_msi_s_second_version_has_its_own_words(tmp_path):
    names = [f"TRAIN/{label}/blk-AA-TCGA-D5-6924-01Z-00-DX1.png" for label in ("MSIH", "nonMSIH")]
    put(tmp_path, "tissue", *names)
    assert everything(tmp_path, "crc_msi") == [
        Entry(names[0], "TCGA-D5-6924", {"msi": "MSIH"}),
        Entry(names[1], "TCGA-D5-6924", {"msi": "nonMSIH"}),
    ]


def test_nct_s_normalised_and_raw_tiles_are_not_taken_together(tmp_path):
    WRITERS["nct_crc_he"](tmp_path)
    put(tmp_path, "tissue", "NCT-CRC-HE-100K-NONORM/ADI/ADI-AAAFLCLY.tif")
    with pytest.raises(DataError, match="more than one copy"):
        find_images(tmp_path, Data(layout="nct_crc_he"))


def test_patch_camelyon_must_be_unpacked_and_have_its_labels(tmp_path):
    (tmp_path / "camelyonpatch_level_2_split_test_x.h5.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="unpack them first"):
        find_images(tmp_path, Data(layout="patch_camelyon"))
    (tmp_path / "camelyonpatch_level_2_split_test_x.h5").write_bytes(b"x")
    with pytest.raises(DataError, match=r"its labels, \S+_test_y.h5, are not beside it"):
        find_images(tmp_path, Data(layout="patch_camelyon"))
    (tmp_path / "camelyonpatch_level_2_split_test_y.h5").write_bytes(b"x")
    with pytest.raises(DataError, match="no array 'y' can be read"):
        find_images(tmp_path, Data(layout="patch_camelyon"))


@pytest.mark.parametrize(
    ("flag", "domain", "labels", "words"),
    [
        ("chestmnist", "chest_xray", [0, 1] + [0] * 12, {"cardiomegaly": "positive"}),
        ("pneumoniamnist", "chest_xray", [1], {"diagnosis": "pneumonia"}),
        ("pathmnist_64", "histology", [8], {"tissue": "colorectal adenocarcinoma epithelium"}),
        ("retinamnist_224", "fundus", [4], {"retinopathy": "4"}),
    ],
)
def test_each_medmnist_set_has_its_domain_and_its_words(tmp_path, flag, domain, labels, words):
    part = np.array([labels], np.uint8)
    np.savez(tmp_path / f"{flag}.npz", train_labels=part, val_labels=part, test_labels=part)
    one, folder = named.layout("medmnist"), Folder.open(tmp_path)
    assert one.domain_of(folder) == domain
    assert [entry.member for entry in everything(tmp_path, "medmnist")] == [0, 1, 2]
    for entry in everything(tmp_path, "medmnist"):
        assert words.items() <= entry.labels.items()
        assert sum(value != "negative" for value in entry.labels.values()) == 1


def test_medmnist_sets_are_taken_one_at_a_time(tmp_path):
    (tmp_path / "pathmnist.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="not as MedMNIST publishes it"):
        find_images(tmp_path, Data(layout="medmnist"))
    (tmp_path / "pathmnist_64.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="more than one copy"):
        find_images(tmp_path, Data(layout="medmnist"))
    (tmp_path / "chestmnist.npz").write_bytes(b"x")
    with pytest.raises(DataError, match="chestmnist and pathmnist are different sets"):
        find_images(tmp_path, Data(layout="medmnist"))


def test_a_few_files_of_such_names_are_no_public_set(tmp_path):
    put(tmp_path, "fundus", "eyes/01_dr.jpg", *(f"eyes/{n:04d}.jpg" for n in range(9)))
    assert named.detect(Folder.open(tmp_path)) == ()
