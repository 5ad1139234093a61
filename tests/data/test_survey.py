"""The survey: what it says of a folder is true, and its draft waits for a person."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from public_sets import WRITERS, put

from medsynth.data import phantoms
from medsynth.data.draft import draft_protocol
from medsynth.data.layouts import find_images, named
from medsynth.data.layouts.listing import is_kept
from medsynth.data.survey import survey
from medsynth.errors import DataError, ProtocolError
from medsynth.pipeline.first_look import init
from medsynth.protocol import load, parse, shipped

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
    assert (len(seen.found.entries), seen.look.headers, seen.look.unreadable) == (12, 12, 0)
    assert seen.look.formats == {"PNG": 6, "DICOM": 6}
    assert (seen.look.height_px, seen.look.width_px) == ((96, 96, 96), (96, 96, 96))
    assert seen.look.bits == (8,)
    assert (seen.patients, seen.found.patients_from) == (6, "the tables")
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
    assert "nickname_of" not in survey(raw).found.labels


def test_without_a_table_folders_are_labels_and_patients_are_unknown(tmp_path):
    raw = folder(tmp_path, "chest_xray")
    (raw / "labels.csv").unlink()
    (raw / "other").mkdir()
    for path in sorted((raw / "images").iterdir())[:5]:
        path.rename(raw / "other" / path.name)
    seen = survey(raw)
    assert seen.found.labels == {"label": {"images": 7, "other": 5}}
    assert seen.patients is None
    assert any("No patient is known" in line for line in seen.sentences())
    assert parse(decided(draft_protocol(seen, "x"))).data.patient_column is None


def test_files_that_no_table_names_are_counted_and_not_looked_at(tmp_path):
    raw = folder(tmp_path, "chest_xray")
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(raw / "images" / "logo.png")
    seen = survey(raw)
    assert (len(seen.found.entries), seen.found.unlisted) == (12, 1)
    assert (seen.domain, seen.look.width_px) == ("chest_xray", (96, 96, 96))


def test_damaged_files_are_counted(tmp_path):
    seen = survey(folder(tmp_path, bad_files=3))
    assert seen.look.unreadable == 2  # the truncated one has a header; empty and text have none


def test_no_patient_is_named(tmp_path):
    raw = folder(tmp_path, "chest_xray", formats=("dicom",))
    (raw / "labels.csv").unlink()
    seen = survey(raw)
    assert (seen.patients, seen.found.patients) == (12, None)
    text = "\n".join([*seen.sentences(), draft_protocol(seen, "x"), repr(seen)])
    assert "MRN" not in text
    assert "Phantom" not in text
    assert seen.look.modalities == {"CR": 12}


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


def test_a_small_folder_s_draft_keeps_the_network_from_learning_it_by_heart(tmp_path, monkeypatch):
    def drafted(name):
        said = init(raw, tmp_path / name)
        loaded = parse(decided((tmp_path / name).read_text()))
        return loaded, any("by heart (docs/few.md)" in line for line in said)

    raw = folder(tmp_path / "raw", "chest_xray")
    few, warned = drafted("few.yaml")
    recipe = load(shipped("chest_xray"), profile="few")
    assert warned
    assert few.diffusion == recipe.diffusion
    assert few.diffusion.choose
    assert few.split.validation == recipe.split.validation
    monkeypatch.setattr("medsynth.data.survey.SMALL", 12)  # as many as there are
    many, warned = drafted("many.yaml")
    assert not warned
    assert many.diffusion == load(shipped("chest_xray")).diffusion
    assert not many.diffusion.choose


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


# Public data sets and other tables --------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_public_set_is_named_and_its_draft_lists_it_once_a_person_decided(tmp_path, name):
    raw = tmp_path / name
    raw.mkdir()
    entries = WRITERS[name](raw)
    said = init(raw, tmp_path / "protocol.yaml")
    layout = named.layout(name)
    assert said[0] == f"{name}/ is {layout.title} (data.layout: {name})."
    assert set(layout.limits) <= set(said)
    assert any("No patient is known" in line for line in said) == (not any(
        entry.patient for entry in entries
    ))  # fmt: skip
    draft = (tmp_path / "protocol.yaml").read_text()
    assert max(map(len, draft.splitlines())) <= 160
    study = parse(decided(draft))
    listing = find_images(raw, study.data)
    kept = [e for e in entries if is_kept(e.labels, study.data.keep)]
    assert {(e.path, e.member) for e in listing.entries} == {(e.path, e.member) for e in kept}
    assert listing.layout == name
    assert all(entry.labels.keys() <= set(study.data.label_columns) for entry in listing.entries)


def test_a_person_s_own_table_goes_before_a_public_set(tmp_path):
    WRITERS["hrf"](tmp_path)
    rows = ["path,patient_id", *(f"images/01_{c}.jpg,{c}" for c in "gh")]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    seen = survey(tmp_path)
    assert seen.found.layout is None
    assert (len(seen.found.entries), seen.patients) == (2, 2)


def test_two_public_sets_in_one_folder_are_not_guessed_between(tmp_path):
    for name in ("nih_chestxray14", "rsna_pneumonia"):
        (tmp_path / name).mkdir()
        WRITERS[name](tmp_path / name)
    with pytest.raises(DataError, match="looks like NIH ChestX-ray14 and RSNA"):
        survey(tmp_path)


@pytest.mark.parametrize("name", ["cases.csv", "cases.tsv", "cases.xlsx", "cases.parquet"])
def test_any_table_is_mapped_by_its_names_and_bare_file_names_by_a_format(tmp_path, name):
    rows = [["Image", "Case No", "grade"]]
    rows += [[f"{n:03d}", f"C{n // 2}", ["mild", "severe"][n % 3 == 0]] for n in range(8)]
    put(tmp_path, "fundus", *(f"scans/{row[0]}.jpg" for row in rows[1:]))
    write_table(tmp_path / name, rows)
    draft = draft_protocol(survey(tmp_path), "x")
    study = parse(decided(draft))
    assert (study.data.tables, study.data.path_column) == (name, "Image")
    assert study.data.path_format == "scans/{}.jpg"
    listing = find_images(tmp_path, study.data)
    assert [(e.path, e.patient, e.labels["grade"]) for e in listing.entries] == [
        (f"scans/{image}.jpg", case, grade) for image, case, grade in rows[1:]
    ]


def write_table(path, rows):
    import pandas as pd

    frame = pd.DataFrame(rows[1:], columns=rows[0])
    writers = {
        ".csv": lambda: frame.to_csv(path, index=False),
        ".tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
        ".xlsx": lambda: frame.to_excel(path, index=False),
        ".parquet": lambda: frame.to_parquet(path),
    }
    writers[path.suffix]()


def test_what_ingest_would_stop_at_is_said(tmp_path):
    raw = folder(tmp_path, "chest_xray")
    lines = (raw / "labels.csv").read_text().splitlines()
    (raw / "labels.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    text = "\n".join(survey(raw).sentences())
    assert "As they are, ingest would stop: the tables have 1 fault" in text
    assert "is listed twice" in text


def test_whole_slides_are_told_by_their_ending_and_are_histology(tmp_path):
    put(tmp_path, "chest", "one.tif")
    (tmp_path / "one.tif").rename(tmp_path / "one.svs")
    seen = survey(tmp_path)
    assert (seen.look.formats, seen.domain) == ({"whole slide": 1}, "histology")
    assert any("tiles of tissue would be taken" in line for line in seen.sentences())


def test_volumes_without_a_range_of_values_are_told_what_they_need(tmp_path):
    import nibabel

    values = np.random.default_rng(1).integers(-900, 900, (20, 30, 10)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    seen = survey(tmp_path)
    assert (seen.look.unreadable, seen.look.height_px[1], seen.look.width_px[1]) == (0, 30, 20)
    assert "refused until data.window says" in " ".join(seen.sentences())


def test_small_images_get_a_smaller_size_and_no_tiles(tmp_path):
    put(tmp_path, "tissue", "a/1.png", "a/2.png", "b/3.png")
    base = {"image": {"size_px": 256, "tile_px": 250}}
    image = parse(decided(draft_protocol(survey(tmp_path), "x", base))).image
    assert (image.size_px, image.tile_px) == (64, None)  # of 48 px


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
    assert (seen.domain, len(seen.found.entries), seen.patients) == (domain, images, patients)
    assert parse(decided(draft_protocol(seen, "x"))).domain == domain
