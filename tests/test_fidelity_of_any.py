"""Any autoencoder and any folder of images: numbers, pictures, a page, and the better of two."""

from __future__ import annotations

import csv
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import study

from medsynth.data import phantoms
from medsynth.errors import DataError, StageError
from medsynth.finding import read_findings
from medsynth.models.autoencoder import Autoencoder
from medsynth.pipeline.fidelity import Asked, draft_fidelity, fidelity
from medsynth.runtime import read_json

FEW = {"validate.bootstrap": 100}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """An image of each of 12 people, with a table that says who they are."""
    folder = tmp_path_factory.mktemp("raw") / "clinic"
    (folder / "pictures").mkdir(parents=True)
    rows = ["path,patient_id,finding"]
    for person in range(12):
        name = f"pictures/{person}.png"
        pixels = phantoms.draw("chest_xray", person, 0, 5, 64)[0]
        Image.fromarray(pixels[..., 0]).save(folder / name)
        rows.append(f"{name},Mueller-{person},{'sick' if person % 2 else 'well'}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def autoencoder(folder: Path, channels: int) -> Path:
    """A code of the principal components of such images: the more channels, the better."""
    settings = study(**{"autoencoder.latent_channels": channels}).autoencoder
    torch.manual_seed(0)
    net = Autoencoder.build(settings, channels=1)
    drawn = [phantoms.draw("chest_xray", 90 + p, 0, 5, 64)[0] for p in range(8)]
    images = np.stack(drawn).transpose(0, 3, 1, 2) / 127.5 - 1
    net.start_from(torch.from_numpy(images.astype(np.float32)))
    net.save(folder)
    return folder


@pytest.fixture(scope="module")
def asked(raw, tmp_path_factory) -> Asked:
    made = tmp_path_factory.mktemp("coders")
    return Asked(autoencoder(made / "rich", 8), raw, autoencoder(made / "poor", 1))


@pytest.fixture(scope="module")
def done(asked, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "fidelity"
    study, said = draft_fidelity(asked, changes=FEW)
    told: list[str] = []
    return out, fidelity(asked, out, study, say=told.append), [*said, *told]


def test_the_draft_says_what_it_guessed(done):
    said = " ".join(done[2])
    for words in ("chest_xray", "Labels: finding", "are brought to 64 px", "12 images of 12 files"):
        assert words in said


def test_the_better_of_two_is_named(done):
    answer = done[1]
    assert any(s.startswith("Better in reconstruction.ms_ssim: rich, by") for s in answer.said)
    assert answer.better["better.kept.edges"].low > 0


def test_findings_of_both_are_written_with_intervals_over_patients(done):
    out, answer, _ = done
    first = read_findings(out / "evidence" / "findings.jsonl")
    second = read_findings(out / "evidence" / "findings_against.jsonl")
    assert first == answer.findings
    assert first.keys() == second.keys()
    assert first["reconstruction.psnr"].low > second["reconstruction.psnr"].high
    assert "over 12 patients" in first["kept.spots"].method
    assert "classifier.finding.agreement" not in first  # six patients of each are too few
    assert "kept.edges.finding.sick" in first


def test_pictures_and_the_page_are_there_and_hold_all_they_show(done):
    out, answer, _ = done
    for name in ("worst_autoencoder", "details_autoencoder", "worst_against", "details_against"):
        with Image.open(out / "evidence" / f"{name}.png") as picture:
            assert picture.height > 100
    page = answer.report.read_text()
    for words in ("must not leave the hospital", "rich against poor", "Worst ten: rich", "<svg"):
        assert words in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_no_name_of_a_patient_or_a_file_is_in_what_comes_out(done):
    out = done[0]
    texts = [p for p in out.rglob("*") if p.suffix in (".json", ".jsonl", ".csv", ".html")]
    assert len(texts) >= 8
    for path in texts:
        assert "Mueller" not in path.read_text(), path.name
    assert "pictures/" not in (out / "report.html").read_text()


def test_every_image_has_its_line(done):
    text = (done[0] / "evidence" / "images_autoencoder.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 12
    assert all(0 < float(row["reconstruction.ms_ssim"]) <= 1 for row in rows)


def test_the_same_command_again_measures_nothing_again(done, asked, monkeypatch):
    out, answer, _ = done
    monkeypatch.setattr(import_module("medsynth.pipeline.fidelity"), "_measure", None)
    again = fidelity(asked, out, draft_fidelity(asked, changes=FEW)[0])
    assert again.findings == answer.findings


def test_another_autoencoder_is_measured_anew(done, asked, raw):
    out, answer, _ = done
    other = Asked(asked.against, raw)
    again = fidelity(other, out, draft_fidelity(other, changes=FEW)[0])
    assert again.findings["kept.edges"].value < answer.findings["kept.edges"].value
    assert again.better == {}
    assert "against" not in read_json(out / "evidence" / "facts.json")["kinds"]


def test_the_size_is_that_of_the_run_and_never_more_than_the_images_have(asked, raw, tmp_path):
    assert draft_fidelity(asked)[0].image.size_px == 64
    assert draft_fidelity(asked, size_px=32)[0].image.size_px == 32
    assert draft_fidelity(asked, size_px=128)[0].image.size_px == 64
    run = tmp_path / "run"
    (run / "intake").mkdir(parents=True)
    (run / "protocol.yaml").write_text(
        (Path(__file__).parent / "tiny.py").read_text().split('"""')[3]
    )
    coder = autoencoder(run / "autoencoder", 2)
    for path in (run, coder):
        assert draft_fidelity(Asked(path, raw))[0].image.size_px == 32


def test_a_table_says_who_is_who(asked, raw, tmp_path):
    names = sorted(path.name for path in (raw / "pictures").iterdir())
    rows = "\n".join(f"pictures/{name},{i // 6}" for i, name in enumerate(names))
    (tmp_path / "who.csv").write_text(f"path,patient_id\n{rows}\n")
    two = Asked(asked.autoencoder, raw, patients=tmp_path / "who.csv")
    answer = fidelity(two, tmp_path / "out", draft_fidelity(two, changes=FEW)[0])
    assert "12 images of 2 patients at 64 px." in answer.said


def test_names_tell_apart_what_is_called_the_same(asked, raw, tmp_path):
    first, second = tmp_path / "a" / "autoencoder", tmp_path / "b" / "autoencoder"
    names = Asked(first, raw, second).names
    assert names == {"autoencoder": "a/autoencoder", "against": "b/autoencoder"}


def test_what_can_not_be_is_refused_before_anything_is_read(asked, raw, tmp_path):
    study = draft_fidelity(asked)[0]
    with pytest.raises(DataError, match="expected a folder of images"):
        draft_fidelity(Asked(asked.autoencoder, raw / "absent"))
    with pytest.raises(DataError, match="holds no autoencoder"):
        fidelity(Asked(raw, raw), tmp_path / "new", study)
    assert not (tmp_path / "new").exists()
    with pytest.raises(DataError, match="apart from it"):
        fidelity(asked, raw / "fidelity", study)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(StageError, match="holds something else"):
        fidelity(asked, tmp_path, study)


@pytest.fixture(scope="module")
def spotted(raw, tmp_path_factory) -> tuple[Path, Path]:
    """The same people, each with three bright spots of known place; and the spots' masks."""
    folder = tmp_path_factory.mktemp("spotted")
    (folder / "clinic").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    for path in sorted((raw / "pictures").iterdir()):
        pixels = np.asarray(Image.open(path).reduce(2)).astype(int) // 2
        mask = np.zeros_like(pixels)
        for y, x in rng.integers(2, 27, (3, 2)):
            mask[y : y + 3, x : x + 3] = 255
        Image.fromarray((pixels + mask // 2).astype(np.uint8)).save(folder / "clinic" / path.name)
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / path.name)
    return folder / "clinic", folder / "masks"


def test_with_masks_a_segmenter_says_what_is_lost_of_each_class(asked, spotted, tmp_path):
    images, masks = spotted
    knobs = FEW | {"validate.segmenter_images": 200}
    both = Asked(asked.autoencoder, images, asked.against, masks=masks)
    study = draft_fidelity(both, domain="chest_xray", changes=knobs)[0]
    answer = fidelity(both, tmp_path / "out", study)
    dice, lost, agreement = (
        answer.findings[f"segmenter.class_255.{name}"]
        for name in ("dice", "dice_lost", "agreement")
    )
    assert dice.n == lost.n == 12
    assert "over 12 patients" in lost.method
    assert dice.value + lost.value > 0.6  # on originals: it has learned
    assert answer.better["better.segmenter.class_255.dice"].low > 0  # 8 channels against 1
    assert 0 < agreement.value <= 1
    assert any("loses" in sentence and "Dice of class 255" in sentence for sentence in answer.said)
    assert "what it finds in the original" in answer.report.read_text()
    assert not (tmp_path / "out" / "evidence" / "state").exists()


def test_masks_that_can_not_be_used_are_refused(asked, spotted, tmp_path):
    images, masks = spotted
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(masks.iterdir())[:5]:
        (few / path.name).write_bytes(path.read_bytes())

    def look(images: Path, masks: Path, out: str):
        both = Asked(asked.autoencoder, images, masks=masks)
        fidelity(both, tmp_path / out, draft_fidelity(both, domain="chest_xray")[0])

    with pytest.raises(DataError, match="at least 6 patients, got 5"):
        look(images, few, "out")
    with pytest.raises(DataError, match="masks/ was read as images, too"):
        look(images.parent, masks, "other")


def test_too_few_images_are_refused(asked, raw, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((raw / "pictures").iterdir())[:9]:
        (few / path.name).write_bytes(path.read_bytes())
    small = Asked(asked.autoencoder, few)
    with pytest.raises(DataError, match="at least 10 images that can be read, got 9"):
        fidelity(small, tmp_path / "out", draft_fidelity(small, domain="chest_xray")[0])
