"""Preparation: one file becomes squares, and reducing it on the way changes next to nothing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from made_images import noise, save
from made_slides import SIDE, canvas, write_pyramid
from PIL import Image

from medsynth.data import phantoms, preparation
from medsynth.data.confidentiality import Audit
from medsynth.data.layouts import Entry
from medsynth.data.preparation import Reading
from medsynth.data.text import Screened
from medsynth.protocol import parse

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="real images are not here")


def study(domain="chest_xray", image=None, **sections):
    document = {
        "name": "test", "domain": domain, "image": {"size_px": 64, **(image or {})}, **sections,
        "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.05}]},
    }  # fmt: skip
    return parse(json.dumps(document))


def prepare(path, domain="chest_xray", member=None, patient=None, **sections):
    entry = Entry(path.name, patient, member=member)
    return Reading(path.parent, study(domain, **sections))(entry)


def in_full(monkeypatch, *args, **options):
    """The same, with every pixel unpacked."""
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "_least_px", lambda protocol: None)
        return prepare(*args, **options)


def difference(a, b):
    """Mean and largest absolute difference in grey levels of 255."""
    apart = np.abs(a.pixels.astype(float) - b.pixels)
    return apart.mean(), apart.max()


def a_disc(size, radius):
    """A coloured disc with a soft pattern on black, as a retina is photographed."""
    y, x = np.mgrid[:size, :size] - size / 2
    waves = 150 + 60 * np.sin(x / 40) * np.cos(y / 30)
    disc = np.where(x**2 + y**2 < radius**2, waves, 0)
    return np.stack([disc, disc * 0.6, disc * 0.3], -1).astype(np.uint8)


# Reduced on the way -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_reducing_on_the_way_changes_few_grey_levels(tmp_path, monkeypatch, name):
    pixels, _ = phantoms.draw("fundus", 1, 0, 1, 640)  # with a film's grain, harder than a retina
    path = save(tmp_path, pixels, name, **({"quality": 92} if name == "a.jpg" else {}))
    quick, slow = prepare(path, "fundus"), in_full(monkeypatch, path, "fundus")
    mean, most = difference(quick, slow)
    assert quick.size == slow.size == (640, 640)
    assert 0 < mean < 2.5
    assert most < 60  # at the rim of the disc, whose place is known to a reduced pixel


def test_sixteen_bits_are_reduced_without_being_rounded(tmp_path, monkeypatch):
    path = save(tmp_path, noise(512, 512, dtype=np.uint16))
    quick = prepare(path, image={"bits": 16})
    np.testing.assert_allclose(
        quick.pixels, in_full(monkeypatch, path, image={"bits": 16}).pixels, atol=1
    )


def test_a_crop_that_leaves_little_is_made_from_every_pixel(tmp_path, monkeypatch):
    path = save(tmp_path, a_disc(640, 60), "a.jpg", quality=92)
    np.testing.assert_array_equal(
        prepare(path, "fundus").pixels, in_full(monkeypatch, path, "fundus").pixels
    )


def test_small_images_are_not_reduced(tmp_path, monkeypatch):
    path = save(tmp_path, noise(190, 190), "a.jpg")
    np.testing.assert_array_equal(prepare(path).pixels, in_full(monkeypatch, path).pixels)


@needs_real
def test_real_photographs_differ_by_less_than_a_grey_level_in_the_mean(monkeypatch):
    paths = sorted((REAL / "fundus" / "hrf").rglob("*.jpg"))[:4]
    paths += sorted((REAL / "fundus" / "chasedb1").rglob("*.jpg"))[:4]
    means = [
        difference(prepare(path, "fundus"), in_full(monkeypatch, path, "fundus"))[0]
        for path in paths
    ]
    assert max(means) < 1.5
    assert 0 < np.mean(means) < 1


# Text -------------------------------------------------------------------------------------------


def test_text_is_looked_for_in_every_pixel_and_counted(tmp_path, monkeypatch):
    seen = []

    def screen(image, settings):
        seen.append(image.shape)
        return image * 0.5, Screened(boxes=2, masked=2)

    monkeypatch.setattr(preparation, "screen", screen)
    path = save(tmp_path, noise(640, 640))
    file = prepare(path, deidentify={"text_screen": "mask"})
    assert seen == [(1, 640, 640)]
    assert file.audit == Audit(regions=2, masked=2)
    assert file.pixels.max() < 100
    monkeypatch.undo()
    assert prepare(path).audit is None


# Headers ----------------------------------------------------------------------------------------


def test_a_header_gives_labels_a_patient_and_an_audit_unless_a_table_names_the_patient(tmp_path):
    phantoms.write_folder(
        tmp_path, domain="chest_xray", patients=1, seed=1, size_px=96, formats=("dicom",)
    )
    path = sorted((tmp_path / "images").iterdir())[0]
    file = prepare(path, data={"label_columns": ["Modality"]})
    assert file.labels == {"Modality": "CR"}
    assert file.patient
    assert file.audit.emptied + file.audit.removed + file.audit.replaced > 0
    assert prepare(path, patient="P7").patient == "P7"
    assert prepare(path).labels == {}
    assert prepare(save(tmp_path, noise(96, 96)), patient="P7").patient == "P7"


# Files of several -------------------------------------------------------------------------------


def test_a_member_is_read_and_not_its_neighbour(tmp_path):
    images = noise(5, 64, 64)
    np.savez_compressed(tmp_path / "a.npz", train_images=images[:3], test_images=images[3:])
    for number in (4, 0):
        file = prepare(tmp_path / "a.npz", member=number)
        np.testing.assert_array_equal(file.pixels[0, ..., 0], images[number])


def test_a_slice_is_read_in_the_protocol_s_plane_and_window(tmp_path):
    volume = noise(64, 64, 64).astype(np.int16) * 4 - 200
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    data = {"slice_plane": "coronal", "window": [-200, 820]}
    file = prepare(tmp_path / "a.nii", member=5, data=data)
    expected = (volume[::-1, 5, ::-1].T + 200) / 4
    np.testing.assert_allclose(file.pixels[0, ..., 0], expected, atol=0.51)


# Tiles ------------------------------------------------------------------------------------------


def test_a_slide_s_tiles_are_brought_to_their_size_and_keep_their_numbers(tmp_path):
    pytest.importorskip("openslide")
    pixels = canvas(["t.t", "ttt"])
    write_pyramid(tmp_path / "a.tif", pixels)
    made = prepare(tmp_path / "a.tif", "histology", image={"tile_px": SIDE}, slides={"tiles": 3})
    assert made.reason == ""
    assert made.pixels.shape == (3, 64, 64, 3)
    assert made.size == pixels.shape[:2]
    for number, tile in zip(made.tiles, made.pixels, strict=True):
        y, x = (SIDE * n for n in divmod(number - 1, 3))
        cut = pixels[y : y + SIDE, x : x + SIDE].reshape(64, 2, 64, 2, 3).mean((1, 3))
        np.testing.assert_allclose(tile, cut, atol=0.51)


@needs_real
def test_a_real_slide_gives_tiles_of_tissue():
    pytest.importorskip("openslide")
    path = next((REAL / "histology" / "whole_slide").glob("*.svs"))
    made = prepare(path, "histology", image={"tile_px": 256}, slides={"um_per_px": 1.0, "tiles": 4})
    assert made.pixels.shape == (4, 64, 64, 3)
    assert made.size == (2967, 2220)
    assert all(tile.std() > 20 for tile in made.pixels)


def test_without_tiles_the_largest_page_of_a_slide_is_an_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(noise(256, 256, 3), tile=(64, 64), photometric="rgb")
        file.write(noise(64, 64, 3), photometric="rgb", subfiletype=1)
    assert prepare(tmp_path / "a.tif", "histology").size == (256, 256)


def test_too_small_is_said_of_the_file_and_not_of_what_was_reduced(tmp_path):
    file = prepare(save(tmp_path, noise(31, 400)))
    assert (file.reason, file.detail) == ("too small", "400 x 31 pixels")


def test_an_absent_file_is_a_reason_and_no_error(tmp_path):
    assert prepare(tmp_path / "absent.png").reason == "missing file"


def test_a_blank_field_of_view_is_refused(tmp_path):
    dark = Image.fromarray((np.arange(200 * 200) % 12).astype(np.uint8).reshape(200, 200))
    assert prepare(save(tmp_path, dark.convert("RGB")), "fundus").reason == "blank image"
