"""Duplicates: copies are found however they are changed, different people are left alone."""

from __future__ import annotations

import csv
import hashlib
import io
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import study, write_raw

from medsynth.cohort import Record
from medsynth.data import phantoms
from medsynth.data.duplicates import find_links, link_duplicates, write_links
from medsynth.data.intake import ingest
from medsynth.data.likeness import symmetries
from medsynth.protocol import Data

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "chest_xray"
THRESHOLD = Data().duplicate_correlation
SIDE = 64


@cache
def people(domain: str, count: int) -> np.ndarray:
    return np.stack([phantoms.draw(domain, p, 0, 3, SIDE)[0] for p in range(count)])


def as_jpeg(image: np.ndarray, quality: int = 30) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def resized(image: np.ndarray, factor: float) -> np.ndarray:
    small = Image.fromarray(image.squeeze()).resize((round(SIDE * factor),) * 2, Image.BICUBIC)
    return np.asarray(small.resize((SIDE, SIDE), Image.BOX)).reshape(image.shape)


def exposed(image: np.ndarray, gamma: float) -> np.ndarray:
    return np.rint(255 * (image / 255) ** gamma).astype(np.uint8)


def windowed(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint((image / 255 - 0.05) / 0.8 * 255), 0, 255).astype(np.uint8)


CHANGES = {
    "jpeg": as_jpeg,
    "smaller": lambda image: resized(image, 0.7),
    "larger": lambda image: resized(image, 2),
    "darker": lambda image: exposed(image, 1.4),
    "brighter": lambda image: exposed(image, 0.7),
    "windowed": windowed,
    "negative": lambda image: 255 - image,
    "turned": np.rot90,
    "mirrored, negative, jpeg": lambda image: as_jpeg(255 - image[:, ::-1], 60),
}


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_different_people_are_not_linked(domain):
    assert set(link_duplicates(people(domain, 60), correlation=THRESHOLD)) == {-1}


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_exact_copies_are_linked_under_all_eight_symmetries(domain):
    images = people(domain, 6)
    for view in symmetries(images[2:3]):
        links = find_links(np.concatenate([images, view]), correlation=1.0)
        assert links.groups.tolist() == [-1, -1, 0, -1, -1, -1, 0]
        assert links.kinds == ["exact"]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("domain", ["chest_xray", "histology"])
def test_copies_that_were_changed_a_little_are_linked(domain, change):
    images = people(domain, 20)
    copies = np.stack([CHANGES[change](image) for image in images[:10]])
    links = find_links(np.concatenate([images, copies]), correlation=THRESHOLD)
    assert links.groups[20:].tolist() == links.groups[:10].tolist() == list(range(10))
    assert set(links.groups[10:20]) == {-1}
    kind = "exact" if change == "turned" else "negative" if "negative" in change else "near"
    assert links.kinds == [kind] * 10


def test_near_copies_are_left_alone_where_only_exact_ones_are_asked_for():
    images = people("chest_xray", 4)
    twice = np.concatenate([images, CHANGES["jpeg"](images[0])[None]])
    assert set(link_duplicates(twice, correlation=1.0)) == {-1}


def test_links_are_passed_on_and_numbered_by_first_image():
    a, b = people("chest_xray", 2)
    chain = np.stack([b, a, a[::-1], b[:, ::-1], np.rot90(a)])
    assert link_duplicates(chain, correlation=THRESHOLD).tolist() == [0, 1, 1, 0, 1]


def test_pairs_join_each_group_without_a_ring():
    a, b = people("chest_xray", 2)
    links = find_links(np.stack([a, b, as_jpeg(a), 255 - a, a, b]), correlation=THRESHOLD)
    assert links.groups.tolist() == [0, 1, 0, 0, 0, 1]
    assert len(links.pairs) == 4
    assert Counter(links.kinds) == {"exact": 2, "near": 1, "negative": 1}
    assert (links.correlations[[kind == "negative" for kind in links.kinds]] < -THRESHOLD).all()
    assert (links.pairs[:, 0] < links.pairs[:, 1]).all()


def test_sixteen_bits_are_as_good_as_eight():
    images = people("chest_xray", 4)[[0, 1, 2, 1, 3]]
    links = link_duplicates(images.astype(np.uint16) * 257, correlation=THRESHOLD)
    assert links.tolist() == [-1, 0, -1, 0, -1]


def test_images_without_detail_are_linked_only_where_they_are_equal():
    flat = np.full((3, SIDE, SIDE, 1), 10, np.uint8)
    flat[2] += 1
    links = find_links(flat, correlation=0.5)
    assert links.groups.tolist() == [0, 0, -1]
    assert links.featureless == 3


def marked(noise: np.random.Generator) -> np.ndarray:
    """A blank exposure with the marker that all of a department's radiographs carry."""
    image = 120 + noise.normal(0, 1, (SIDE, SIDE, 1))
    image[8:20, 50:54] = image[16:20, 50:60] = 250
    return image


def shaded(noise: np.random.Generator) -> np.ndarray:
    """Glass: white, a little darker towards a corner."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    return (245 - noise.uniform(2, 8) * (x + y) ** 2)[..., None]


def grainy(noise: np.random.Generator) -> np.ndarray:
    return noise.normal(128, 30, (SIDE, SIDE, 1))


@pytest.mark.parametrize("picture", [marked, shaded, grainy])
@pytest.mark.parametrize("saved", [lambda image: image, as_jpeg])
def test_featureless_images_do_not_flood_the_list(picture, saved):
    noise = np.random.default_rng(0)
    made = [np.clip(np.rint(picture(noise)), 0, 255).astype(np.uint8) for _ in range(80)]
    images = np.unique(np.stack([saved(image) for image in made]), axis=0)
    assert set(link_duplicates(images, correlation=THRESHOLD)) == {-1}
    assert find_links(images, correlation=1).featureless == (
        0 if picture is grainy else len(images)
    )


def test_no_image_and_one_image_have_no_duplicates():
    assert link_duplicates(np.zeros((0, 8, 8, 1), np.uint8), correlation=0.9).shape == (0,)
    assert link_duplicates(np.ones((1, 8, 8, 1), np.uint8), correlation=0.9).tolist() == [-1]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)))
def test_who_is_linked_does_not_depend_on_the_order(order):
    images = people("chest_xray", 4)
    images = np.concatenate([images, images[:2, ::-1], 255 - images[:2, :, ::-1]])
    whole = link_duplicates(images, correlation=THRESHOLD)
    mixed = np.empty(8, np.int64)
    mixed[list(order)] = link_duplicates(images[list(order)], correlation=THRESHOLD)
    np.testing.assert_array_equal(whole[:, None] == whole, mixed[:, None] == mixed)


def test_the_list_names_pairs_and_says_whether_patients_differ(tmp_path):
    a, b = people("chest_xray", 2)
    links = find_links(np.stack([a, b, as_jpeg(a), b, 255 - b]), correlation=THRESHOLD)
    patients = ["p1", "p2", "p3", "p2", ""]
    records = [Record(f"real-{i}", "real", patient=patients[i]) for i in range(5)]
    write_links(tmp_path / "duplicates.csv", records, links)
    text = (tmp_path / "duplicates.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    found = [(r["group"], r["first"], r["second"], r["kind"], r["other_patient"]) for r in rows]
    assert found == [
        ("0", "real-0", "real-2", "near", "yes"),
        ("1", "real-1", "real-3", "exact", "no"),
        ("1", "real-1", "real-4", "negative", "unknown"),
    ]
    assert THRESHOLD <= float(rows[0]["correlation"]) < 1
    assert not {"p1", "p2", "p3"} & set(text.split(","))


def test_ingest_lists_the_picture_that_two_patients_have(tmp_path):
    raw = write_raw(tmp_path / "raw", patients=6, bad_files=0)
    table = pd.read_csv(raw / "labels.csv")
    first = table.iloc[0].copy()
    shutil.copyfile(raw / first["path"], (raw / first["path"]).with_name("again.png"))
    first["path"] = str(Path(first["path"]).with_name("again.png"))
    first["patient_id"] = "another person"
    pd.concat([table, first.to_frame().T]).to_csv(raw / "labels.csv", index=False)
    (tmp_path / "intake").mkdir()
    taken = ingest(raw, tmp_path / "intake", study(), b"secret", workers=0)
    rows = (tmp_path / "intake" / "duplicates.csv").read_text().splitlines()
    assert rows[0] == "group,first,second,kind,correlation,other_patient"
    assert [row.split(",", 3)[3] for row in rows[1:]] == ["exact,1.000,yes"]
    assert (taken.duplicate_images, taken.featureless_images) == (2, 0)


def grey_files(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("L")) for path in sorted(folder.rglob("*.*g"))]


@pytest.mark.skipif(not REAL.exists(), reason="real images are not here")
def test_real_radiographs_of_different_people_are_not_linked():
    pixels = np.stack(grey_files(REAL / "nih64" / "images"))[..., None]
    assert set(link_duplicates(pixels, correlation=THRESHOLD)) == {-1}


@pytest.mark.skipif(not REAL.exists(), reason="real images are not here")
def test_the_exact_duplicates_of_a_real_set_are_found_and_nothing_else():
    images = grey_files(REAL / "kermany224" / "images")
    sums = [hashlib.md5(image).hexdigest() for image in images]  # bytes as they were decoded
    counts = Counter(sums)
    small = np.stack([np.asarray(Image.fromarray(i).resize((64, 64), Image.BOX)) for i in images])
    groups = link_duplicates(small[..., None], correlation=THRESHOLD)
    assert ((groups >= 0) == [counts[key] > 1 for key in sums]).all()
    assert groups.max() + 1 == sum(count > 1 for count in counts.values()) == 22
