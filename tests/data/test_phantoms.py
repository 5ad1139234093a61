"""Phantoms: the same again, different people, a folder as a hospital hands it over."""

from __future__ import annotations

import csv
import time

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from medsynth import domains
from medsynth.data import phantoms
from medsynth.errors import DataError, ProtocolError

SIZE = 64
VALUES = {
    "fundus": {"disease": {"healthy", "diabetic_retinopathy"}, "laterality": {"left", "right"}},
    "chest_xray": {"finding": {"normal", "opacity"}},
    "histology": {"tissue": {"stroma", "gland"}},
}


def draw_many(domain, patients, images=2, seed=0, size_px=SIZE):
    drawn = [
        phantoms.draw(domain, p, i, seed, size_px) for p in range(patients) for i in range(images)
    ]
    return np.stack([pixels for pixels, _ in drawn]).astype(float), [labels for _, labels in drawn]


def read_table(folder):
    with (folder / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def correlation(a, b):
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_there_is_a_phantom_of_every_domain():
    assert domains.names() == phantoms.NAMES


@pytest.mark.parametrize("domain", phantoms.NAMES)
@pytest.mark.parametrize("size_px", [16, 64, 200])
def test_image_has_the_domains_channels_and_the_size_asked_for(domain, size_px):
    pixels, _ = phantoms.draw(domain, 0, 0, 0, size_px)
    assert pixels.shape == (size_px, size_px, domains.domain(domain).channels)
    assert pixels.dtype == np.uint8
    assert np.ptp(pixels) > 100


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_same_arguments_give_the_same_image_and_others_another(domain):
    first, labels = phantoms.draw(domain, 3, 1, 7, SIZE)
    again, same = phantoms.draw(domain, 3, 1, 7, SIZE)
    assert np.array_equal(first, again)
    assert labels == same
    for other in ((4, 1, 7), (3, 0, 7), (3, 1, 8)):
        assert not np.array_equal(first, phantoms.draw(domain, *other, SIZE)[0])


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_size_changes_the_grain_and_not_the_scene(domain):
    small, labels = phantoms.draw(domain, 2, 0, 0, 64)
    large, same = phantoms.draw(domain, 2, 0, 0, 128)
    halved = large.astype(float).reshape(64, 2, 64, 2, -1).mean((1, 3))
    assert labels == same
    assert correlation(small, halved) > 0.95


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_every_label_value_occurs_and_none_is_rare(domain):
    _, labels = draw_many(domain, 60, size_px=16)
    assert {name for row in labels for name in row} == VALUES[domain].keys()
    for name, values in VALUES[domain].items():
        counts = [sum(row[name] == value for row in labels) for value in values]
        assert min(counts) > 0.3 * len(labels)


def test_two_visits_are_more_alike_than_two_chests():
    images = draw_many("chest_xray", 24)[0][..., 0]
    first, second = images[::2] - images[::2].mean(0), images[1::2] - images[1::2].mean(0)
    visits = [correlation(a, b) for a, b in zip(first, second, strict=True)]
    people = [correlation(a, b) for a, b in zip(first, np.roll(second, 1, 0), strict=True)]
    assert np.median(visits) > np.median(people) + 0.3


def test_tiles_of_one_slide_share_their_stain():
    colours = np.median(draw_many("histology", 24)[0], axis=(1, 2))
    first, second = colours[::2], colours[1::2]
    same = np.abs(first - second).mean()
    others = np.abs(first - np.roll(second, 1, 0)).mean()
    assert same < 0.6 * others


def test_second_visit_shows_the_same_vessels_and_the_other_eye_its_own():
    people = [[phantoms.draw("fundus", p, i, 0, SIZE)[0] for i in range(3)] for p in range(8)]
    green = np.array(people, float)[..., 1]
    right, left, later = (green[:, i] - green[:, i].mean(0) for i in range(3))
    visits = [correlation(a, b) for a, b in zip(right, later, strict=True)]
    eyes = [correlation(a, b[:, ::-1]) for a, b in zip(right, left, strict=True)]
    assert np.mean(visits) > np.mean(eyes) + 0.1


def test_disc_is_on_the_nasal_side_of_either_eye():
    images, labels = draw_many("fundus", 12)
    for image, row in zip(images, labels, strict=True):
        blue = image[22:42, :, 2]  # nothing else in a healthy retina is bright in blue
        column = np.mean(np.argsort(blue.ravel())[-8:] % SIZE)
        if row["disease"] == "healthy":
            assert (column > SIZE / 2) == (row["laterality"] == "right")


def test_heart_lies_to_the_patients_left_which_is_the_images_right():
    images, _ = draw_many("chest_xray", 10)
    lower = images[:, 30:46, :, 0]
    assert (lower[:, :, 36:46].mean((1, 2)) > lower[:, :, 18:28].mean((1, 2)) + 10).mean() > 0.8


def test_lesions_show_at_64_pixels():
    """Small bright and dark spots raise the energy of what is smaller than 3 pixels."""
    images, labels = draw_many("fundus", 40)
    green = images[:, 20:44, 20:44, 1]
    rough = np.abs(
        green[:, 1:-1, 1:-1] * 4
        - green[:, :-2, 1:-1]
        - green[:, 2:, 1:-1]
        - green[:, 1:-1, :-2]
        - green[:, 1:-1, 2:]
    ).mean((1, 2))
    sick = np.array([row["disease"] != "healthy" for row in labels])
    assert np.median(rough[sick]) > 1.5 * np.median(rough[~sick])


def test_unknown_domain_is_refused_with_those_there_are():
    with pytest.raises(ProtocolError, match=r"no phantom 'mri': expected chest_xray, fundus"):
        phantoms.draw("mri", 0, 0, 0, SIZE)


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_drawing_is_quick(domain):
    """The demo draws hundreds: the bar is generous, so that a busy machine passes."""
    started = time.process_time()
    for patient in range(20):
        phantoms.draw(domain, patient, 0, 0, SIZE)
    assert (time.process_time() - started) / 20 < 0.06


def test_folder_lists_every_image_once_with_its_patient_and_labels(tmp_path):
    phantoms.write_folder(tmp_path, domain="fundus", patients=3, seed=1, size_px=32)
    rows = read_table(tmp_path)
    assert list(rows[0]) == ["path", "patient_id", "disease", "laterality"]
    assert [row["patient_id"] for row in rows] == ["P0000"] * 2 + ["P0001"] * 2 + ["P0002"] * 2
    files = {p.relative_to(tmp_path).as_posix() for p in (tmp_path / "images").iterdir()}
    assert {row["path"] for row in rows} == files
    with Image.open(tmp_path / rows[3]["path"]) as image:
        assert np.array_equal(np.asarray(image), phantoms.draw("fundus", 1, 1, 1, 32)[0])


def test_folder_is_the_same_again_byte_for_byte(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        phantoms.write_folder(
            folder,
            domain="chest_xray",
            patients=4,
            seed=1,
            size_px=32,
            bad_files=4,
            formats=("png", "jpeg", "tiff", "dicom"),
        )
    a, b = ({p.name: p.read_bytes() for p in (f / "images").iterdir()} for f in folders)
    assert a == b
    assert read_table(folders[0]) == read_table(folders[1])


@pytest.mark.parametrize("domain", ["chest_xray", "fundus"])
def test_every_lossless_format_holds_the_same_pixels(domain, tmp_path):
    import pydicom
    import tifffile

    phantoms.write_folder(
        tmp_path, domain=domain, patients=6, seed=0, size_px=33, formats=("png", "tiff", "dicom")
    )
    photometric = set()
    for number, row in enumerate(read_table(tmp_path)):
        path, expected = (
            tmp_path / row["path"],
            phantoms.draw(domain, number // 2, number % 2, 0, 33)[0],
        )
        if path.suffix == ".dcm":
            dataset = pydicom.dcmread(path)
            photometric.add(dataset.PhotometricInterpretation)
            got = dataset.pixel_array
            got = 255 - got if dataset.PhotometricInterpretation == "MONOCHROME1" else got
        else:
            got = tifffile.imread(path) if path.suffix == ".tif" else np.asarray(Image.open(path))
        assert np.array_equal(got.reshape(expected.shape), expected)
    assert photometric == ({"MONOCHROME1", "MONOCHROME2"} if domain == "chest_xray" else {"RGB"})


def test_bad_files_are_listed_and_cannot_be_used(tmp_path):
    import tifffile

    phantoms.write_folder(tmp_path, domain="histology", patients=2, seed=0, size_px=32, bad_files=4)
    bad = [tmp_path / row["path"] for row in read_table(tmp_path) if "bad" in row["path"]]
    assert len(bad) == 4
    for path in bad[:3]:
        with pytest.raises((UnidentifiedImageError, OSError)), Image.open(path) as image:
            image.load()
    assert tifffile.imread(bad[3]).shape == (32, 32, 2)


def test_unknown_format_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"expected some of png, jpeg, tiff, dicom, got bmp"):
        phantoms.write_folder(
            tmp_path, domain="fundus", patients=1, seed=0, size_px=16, formats=("bmp",)
        )


# Masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", phantoms.NAMES)
@pytest.mark.parametrize("image", [0, 1])
def test_a_mask_lies_where_its_image_shows_the_structure(domain, image):
    pixels, _ = phantoms.draw(domain, 2, image, 0, SIZE)
    mask = phantoms.draw_mask(domain, 2, image, 0, SIZE)
    assert set(np.unique(mask)) == set(range(len(phantoms.structures(domain)) + 1))
    bright = pixels[..., min(1, pixels.shape[2] - 1)].astype(float)
    lit = bright > 10  # not the black around a field of view
    assert bright[(mask == 1) & lit].mean() < 0.9 * bright[(mask == 0) & lit].mean()
    elsewhere = np.roll(mask, SIZE // 2, 1)
    assert bright[mask == 1].mean() < bright[(elsewhere == 1) & lit].mean() - 10


def test_masks_are_written_under_their_images_names(tmp_path):
    masks = tmp_path / "masks"
    phantoms.write_folder(
        tmp_path / "raw", domain="fundus", patients=2, seed=3, size_px=32, masks=masks
    )
    images = {path.name for path in (tmp_path / "raw" / "images").iterdir()}
    assert {path.name for path in masks.iterdir()} == images
    with Image.open(masks / "p0001_1.png") as image:
        assert np.array_equal(image, phantoms.draw_mask("fundus", 1, 1, 3, 32))
