"""The survey: what it says of a folder is true, and its draft waits for a person."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsynth.data import phantoms
from medsynth.data.survey import draft_protocol, survey
from medsynth.errors import DataError, ProtocolError
from medsynth.protocol import load, parse

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"


def folder(tmp_path, domain="fundus", **options):
    given = {"patients": 6, "seed": 1, "size_px": 96, "images_each": 2, **options}
    phantoms.write_folder(tmp_path, domain=domain, **given)
    return tmp_path


def decided(draft):
    """Take the comment marks off the gate, as a person does."""
    head, gate = draft.split("# gate:")
    return head + "gate:" + re.sub(r"(?m)^# ", "", gate)


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_it_says_what_is_there_and_guesses_the_domain(tmp_path, domain):
    seen = survey(folder(tmp_path, domain, formats=("png", "dicom")))
    assert (seen.images, seen.headers, seen.unreadable) == (12, 12, 0)
    assert seen.formats == {"PNG": 6, "DICOM": 6}
    assert (seen.height_px, seen.width_px, seen.bits) == ((96, 96, 96), (96, 96, 96), (8,))
    assert (seen.patients, seen.patients_from) == (6, "tables")
    assert seen.domain == domain
    text = "\n".join(seen.sentences())
    assert "A guess" in text
    assert "12 images" in text
    assert "6 patients" in text


def test_columns_are_recognised_by_their_name_and_by_what_is_in_them(tmp_path):
    raw = folder(tmp_path)
    table = (raw / "labels.csv").read_text().replace("path,patient_id", "Image Index,Subject No")
    rows = [line + f",Dr {n % 2},note {n}" for n, line in enumerate(table.splitlines())]
    rows[0] = table.splitlines()[0] + ",doctor_name,note"
    (raw / "labels.csv").unlink()
    (raw / "all.csv").write_text("\n".join(rows) + "\n")
    guess = survey(raw).listing
    assert (guess.path, guess.path_column, guess.patient_column) == (
        "all.csv", "Image Index", "Subject No",
    )  # fmt: skip
    assert set(guess.label_columns) == {"disease", "laterality"}


def test_a_value_for_each_patient_is_no_label(tmp_path):
    raw = folder(tmp_path)
    lines = (raw / "labels.csv").read_text().splitlines()
    rows = [lines[0] + ",nickname_of", *(line + "," + line.split(",")[1] for line in lines[1:])]
    (raw / "labels.csv").write_text("\n".join(rows) + "\n")
    assert "nickname_of" not in survey(raw).labels


def test_without_a_table_folders_are_labels_and_patients_are_unknown(tmp_path):
    raw = folder(tmp_path, "chest_xray")
    (raw / "labels.csv").unlink()
    (raw / "other").mkdir()
    for path in sorted((raw / "images").iterdir())[:5]:
        path.rename(raw / "other" / path.name)
    seen = survey(raw)
    assert seen.labels == {"label": {"images": 7, "other": 5}}
    assert seen.patients is None
    assert any("No patient is known" in line for line in seen.sentences())
    assert parse(decided(draft_protocol(seen, "x"))).data.patient_column is None


def test_files_that_no_table_names_are_counted_and_not_looked_at(tmp_path):
    raw = folder(tmp_path, "chest_xray")
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(raw / "images" / "logo.png")
    seen = survey(raw)
    assert (seen.images, seen.unlisted, seen.domain) == (12, 1, "chest_xray")
    assert seen.width_px == (96, 96, 96)


def test_damaged_files_are_counted(tmp_path):
    seen = survey(folder(tmp_path, bad_files=3))
    assert seen.unreadable == 2  # the truncated one has a header; empty and text have none


def test_no_patient_is_named(tmp_path):
    raw = folder(tmp_path, "chest_xray", formats=("dicom",))
    (raw / "labels.csv").unlink()
    seen = survey(raw)
    assert (seen.patients, seen.patients_from) == (12, "DICOM headers")
    text = "\n".join([*seen.sentences(), draft_protocol(seen, "x"), repr(seen)])
    assert "MRN" not in text
    assert "Phantom" not in text
    assert seen.modalities == {"CR": 12}


def test_the_draft_waits_for_a_gate_and_loads_once_a_person_decided(tmp_path):
    draft = draft_protocol(survey(folder(tmp_path / "raw")), "my_study")
    (tmp_path / "draft.yaml").write_text(draft)
    with pytest.raises(ProtocolError, match="1 fault\n  gate: is required") as caught:
        load(tmp_path / "draft.yaml")
    assert len(caught.value.faults) == 1
    loaded = parse(decided(draft))
    assert (loaded.name, loaded.domain, loaded.image.size_px) == ("my_study", "fundus", 64)
    assert loaded.data.label_columns == ("disease", "laterality")
    assert loaded.gate.rules[0].finding.startswith("memorization")
    assert "the gate can see copies" in draft or "no number of copies" in draft


def test_a_recipe_s_sections_and_rules_are_taken_as_they_are(tmp_path):
    base = {
        "name": "other", "domain": "histology", "image": {"size_px": 32},
        "autoencoder": {"widths": [8, 16], "kl_weight": 0.5},
        "diffusion": {"widths": [32], "attention": [True]},
        "gate": {"rules": [{"finding": "memorization.mine", "at_most": 0.5}]},
    }  # fmt: skip
    loaded = parse(decided(draft_protocol(survey(folder(tmp_path)), "x", base)))
    assert (loaded.name, loaded.domain, loaded.image.size_px) == ("x", "fundus", 32)
    assert loaded.autoencoder.widths == (8, 16)
    assert [rule.finding for rule in loaded.gate.rules] == ["memorization.mine"]


def test_strange_words_in_a_table_stay_words_in_the_draft(tmp_path):
    raw = folder(tmp_path)
    lines = (raw / "labels.csv").read_text().replace("disease", 'no: "#yes"')
    (raw / "labels.csv").write_text(lines.replace('no: "#yes"', '"no: ""#yes"""'))
    loaded = parse(decided(draft_protocol(survey(raw), "x")))
    assert 'no: "#yes"' in loaded.data.label_columns


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no image in"):
        survey(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        survey(tmp_path / "absent")


@pytest.mark.skipif(not REAL.exists(), reason="real images are not here")
@pytest.mark.parametrize(
    ("name", "domain", "images", "patients"),
    [
        ("chest_xray/nih64", "chest_xray", 1000, 264),
        ("fundus", "fundus", 73, 59),
        ("histology/monuseg", "histology", 30, 30),
        ("dicom", "chest_xray", 3, 2),
    ],
)
def test_real_folders_are_recognised(name, domain, images, patients):
    seen = survey(REAL / name)
    assert (seen.domain, seen.images, seen.patients) == (domain, images, patients)
    assert parse(decided(draft_protocol(seen, "x"))).domain == domain
