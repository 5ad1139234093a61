"""One copy among the drawn images: it is taken out, and nothing of it leaves."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import study

from medsynth import pipeline
from medsynth.cohort import Cohort
from medsynth.errors import RefusedError, StaleError
from medsynth.pipeline import drawn as drawing
from medsynth.pipeline import judge
from medsynth.rarity import RAREST, LeftOut
from medsynth.release.pictures import encode_png
from medsynth.release.verify import verify
from medsynth.runtime import digest_files, read_json

COPIED = 5  # the number of the image that is a copy
OPEN = {"gate.rules": [{"finding": "memorization.p_value", "at_least": 0.0}]}


def copying_sampler(run: pipeline.Run):
    """The run's own sampler, but one image is a training image, a little darker."""
    draw = SAMPLER(run)
    cohort, parts = pipeline.parts_of(run)
    original = cohort.floats(parts["train"][:1])[0]

    def drawn(numbers, conditions, seeds):
        images = np.array(draw(numbers, conditions, seeds))
        images[numbers == COPIED] = 0.95 * original - 0.05
        return images

    return drawn


SAMPLER = drawing._sampler


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run = pipeline.start(study(**OPEN), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_sampler", copying_sampler)
        assert pipeline.run_all(run, raw).passed
    return folder


def taken(folder: Path) -> set[str]:
    """The ids of the images that were quarantined."""
    text = (folder / "evidence" / "private" / "quarantine.csv").read_text()
    return {
        row["synthetic"] for row in csv.DictReader(text.splitlines()) if row["quarantined"] != "0"
    }


def test_the_copy_is_quarantined_and_most_others_are_not(finished):
    assert f"syn-{COPIED + 1:06d}" in taken(finished)
    assert len(taken(finished)) <= 4


def test_what_leaves_is_what_remains(finished):
    drawn = Cohort.read(finished / "synthetic")
    with (finished / "release" / "images" / "metadata.csv").open(newline="") as file:
        left = [row["id"] for row in csv.DictReader(file)]
    assert left == [r.id for r in drawn.records if r.id not in taken(finished)]
    assert verify(finished / "release").ok
    assert read_json(finished / "verdict.json")["digests"]["synthetic"] != drawn.digest


def test_a_quarantined_image_is_nowhere_in_the_release(finished):
    drawn = Cohort.read(finished / "synthetic")
    gone = [drawn.pixels[i] for i, r in enumerate(drawn.records) if r.id in taken(finished)]
    files = [path.read_bytes() for path in (finished / "release").rglob("*") if path.is_file()]
    released = {
        np.asarray(Image.open(path)).tobytes() for path in (finished / "release").rglob("*.png")
    }
    for image in gone:
        assert image.tobytes() not in released
        assert not any(encode_png(image, synthetic=True) in data for data in files)
    assert not any(name.encode() in data for name in taken(finished) for data in files)


def test_a_quarantined_image_is_not_in_the_public_report(finished):
    page = (finished / "release" / "report.html").read_text()
    sheet = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)[1]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet))))[..., 0]
    places = [(y, x) for y in range(0, len(shown), 100) for x in range(0, shown.shape[1], 100)]
    images = {
        shown[y : y + 96 : 3, x : x + 96 : 3].tobytes() for y, x in places
    }  # 3 times enlarged
    drawn = Cohort.read(finished / "synthetic")
    on_page = {r.id for r, image in zip(drawn.records, drawn.pixels, strict=True)
               if image.tobytes() in images}  # fmt: skip
    assert on_page == {record.id for record in drawn.records} - taken(finished)


def test_evidence_that_was_interrupted_is_the_same_in_the_end(run):
    before = digest_files(run.folder / "evidence", skip=["stage.json"])
    shutil.rmtree(run.folder / "evidence")

    def stop(what: str, share: float) -> None:
        if what == "planted copies":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.validate(run, stop)
    pipeline.validate(run)
    assert digest_files(run.folder / "evidence", skip=["stage.json"]) == before


def test_taking_an_image_back_out_of_quarantine_shuts_the_gate(run):
    path = run.folder / "evidence" / "private" / "quarantine.csv"
    path.write_text(path.read_text().replace(",1\n", ",0\n"))
    with pytest.raises(StaleError, match="changed after it was made"):
        pipeline.release(run)


def test_the_cohort_is_judged_before_anything_is_taken_out(run):
    found = judge.findings_of(run)
    assert found["memorization.p_value"].n == 24
    assert found["memorization.copy_rate"].n == 24
    assert found["memorization.remaining.copy_rate"].n == 24 - len(taken(run.folder))
    assert found["memorization.quarantined"].value == len(taken(run.folder)) / 24


def test_a_cohort_of_copies_leaves_nothing(run, raw):
    copying = pipeline.start(study(**OPEN, **{"sample.generator": "memorize"}), run.folder)
    verdict = pipeline.run_all(copying, raw)
    assert len(taken(run.folder)) == 24
    assert verdict.outcome == "refused"
    assert "nothing to leave" in verdict.reasons[-1]
    with pytest.raises(RefusedError):
        pipeline.release(copying)


def test_another_run_on_the_same_patients_is_another_attempt_where_a_site_counts(
    run, tmp_path, monkeypatch
):
    alone = judge.decide(run)
    assert alone.attempt == 1
    assert any("counted in this folder alone" in sentence for sentence in alone.claim)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setenv("MEDSYNTH_SITE", str(site))
    assert judge.decide(run).attempt == 1
    other = tmp_path / "other"
    shutil.copytree(run.folder, other, ignore=shutil.ignore_patterns("attempts.jsonl", "evidence"))
    again = pipeline.start(study(**OPEN, **{"validate.permutations": 99}), other)
    pipeline.validate(again)
    verdict = judge.decide(again)
    assert verdict.attempt == 2
    assert any("all runs of this site" in sentence for sentence in verdict.claim)
    assert len((other / "attempts.jsonl").read_text().splitlines()) == 1


# What leaves, whatever its form -----------------------------------------------------------------

PIXELS = 64
EMBEDDED = re.compile(rb"base64,([A-Za-z0-9+/=]+)")
WEIGHTS = np.random.default_rng(0).integers(1, 2**63, PIXELS, dtype=np.uint64) * 2 + 1
EVERY_FORMAT = ("parquet", "webdataset", "npz", "dicom")


def windows(data: bytes) -> np.ndarray:
    """(N, 64) uint8: every run of 64 bytes."""
    values = np.frombuffer(data, np.uint8)
    return (
        np.lib.stride_tricks.sliding_window_view(values, PIXELS)
        if len(values) >= PIXELS
        else (np.empty((0, PIXELS), np.uint8))
    )


def hashes(data: bytes) -> np.ndarray:
    """(N,) uint64: a hash of every run of 64 bytes; equal runs have equal hashes."""
    runs = windows(data)
    parts = [runs[i : i + 65536] @ WEIGHTS for i in range(0, len(runs), 65536)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def runs_of_patients(images: np.ndarray) -> np.ndarray:
    """Hashes of every run of 64 pixels of the images (N, H, W, 1), along rows and along columns,
    but for flat ones, which are anybody's."""
    found = []
    for image in images[..., 0]:
        for data in (image.tobytes(), np.ascontiguousarray(image.T).tobytes()):
            lively = np.ptp(windows(data), axis=1) > 8
            found.append(hashes(data)[lively])
    return np.unique(np.concatenate(found))


def contents(folder: Path):
    """Every file's bytes, and the pixels of every picture in it, also of those in a page."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield path.name, data
        pictures = [data] if path.suffix == ".png" else []
        pictures += [
            base64.b64decode(text) for text in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data)
        ]
        for picture in pictures:
            pixels = np.asarray(Image.open(io.BytesIO(picture)))
            planes = pixels[..., None] if pixels.ndim == 2 else pixels
            for channel in range(planes.shape[2]):
                yield path.name, np.ascontiguousarray(planes[..., channel]).tobytes()
        if path.suffix == ".npz":
            yield from ((path.name, array.tobytes()) for array in np.load(path).values())


def leaks(folder: Path, known: np.ndarray) -> set[str]:
    return {name for name, data in contents(folder) if np.isin(hashes(data), known).any()}


def test_no_64_pixels_of_any_patient_are_in_a_release_in_any_format(run):
    folder = pipeline.release(run, also=EVERY_FORMAT)
    cohort = Cohort.read(run.folder / "intake")
    known = runs_of_patients(cohort.pixels)
    assert len(known) > 50_000
    assert {path.parent.name for path in folder.rglob("*")} >= set(EVERY_FORMAT)
    assert leaks(folder, known) == set()
    # The search is not blind: part of one image, as a picture, in a page and among other bytes.
    image = cohort.pixels[0]
    strip = np.repeat(image[8:14], 5, axis=0)[::5]
    (folder / "strip.png").write_bytes(encode_png(strip, synthetic=True))
    page = base64.b64encode(encode_png(image, synthetic=False))
    (folder / "page.html").write_bytes(b'<img src="data:image/png;base64,' + page + b'">')
    (folder / "bytes.bin").write_bytes(b"x" * 99 + image.tobytes()[300:380] + b"y" * 9)
    np.savez_compressed(folder / "more.npz", image=image)
    hidden = {"strip.png", "page.html", "bytes.bin", "more.npz"}
    assert leaks(folder, known) == hidden


def test_a_second_run_leaves_a_whole_release_as_it_is_and_mends_a_broken_one(run, raw):
    folder = pipeline.release(run, also=("npz",))
    pipeline.run_all(run, raw)
    assert (folder / "npz").is_dir()  # asked for by hand, and still there
    (folder / "README.md").write_text("changed")
    pipeline.run_all(run, raw)
    assert verify(folder).ok


def test_the_verdict_says_how_many_rare_combinations_of_labels_were_left_out(finished):
    told = LeftOut(**read_json(finished / "synthetic" / "labels.json"))
    assert told.rarest == RAREST
    assert told.sentence in read_json(finished / "verdict.json")["claim"]
    assert told.sentence in (finished / "release" / "README.md").read_text()
    cohort, parts = pipeline.parts_of(pipeline.open_run(finished))
    train = cohort.take(parts["train"])
    for labels in {tuple(r.labels.items()) for r in Cohort.read(finished / "synthetic").records}:
        has = [all(r.labels.get(k) == v for k, v in labels) for r in train.records]
        assert not labels or len(set(train.patients[has].tolist())) >= RAREST


def test_weights_leave_where_the_protocol_says_so_and_their_rule_passed(run):
    rules = [*OPEN["gate.rules"], {"finding": "membership.model.p_value", "at_least": 0.0}]
    changed = pipeline.start(study(**{"gate.rules": rules, "card.weights": True}), run.folder)
    assert pipeline.decide(changed).passed
    folder = pipeline.release(changed)
    assert verify(folder).faults == ()
    assert (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert "membership.model" in (folder / "model" / "README.md").read_text()
    kept = read_json(folder / "model" / "model.json")["tokens"]
    cohort, parts = pipeline.parts_of(run)
    train = cohort.take(parts["train"])
    for name, value in kept:
        has = np.array([r.labels.get(name) == value for r in train.records])
        assert len(set(train.patients[has].tolist())) >= RAREST
