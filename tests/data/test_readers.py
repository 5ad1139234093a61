"""Reading: what comes out is what a person sees, and a bad file says what is wrong with it."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from made_images import LIMIT, H, W, chunk, ramp, read, reason, save
from PIL import Image

from medsynth.data.badimage import BadImage
from medsynth.data.options import ReadOptions
from medsynth.data.readers import to_channels

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="real images are not here")


def test_the_content_decides_and_not_the_name(tmp_path):
    path = save(tmp_path, ramp(), "a.png").rename(tmp_path / "a.dcm")
    assert read(path).shape == (1, H, W)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"%PDF-1.7 and so on", "not an image: a PDF"),
        (b"PK\x03\x04 and so on", "not an image: a zip archive"),
        (b"\x1f\x8b and so on", "not an image: a gzip archive"),
        (b"\0" * 5000, "not an image: nothing but zeros"),
        (b"path,patient_id\na.png,1\n", "not an image: unknown content"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
    ],
)
def test_what_is_no_image_is_named(tmp_path, content, expected):
    (tmp_path / "secret_name.png").write_bytes(content)
    assert reason(tmp_path / "secret_name.png").startswith(expected)


def test_an_absent_file_is_missing(tmp_path):
    assert reason(tmp_path / "absent.png").startswith("missing file")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_a_file_cut_anywhere_never_passes_as_whole(tmp_path, name):
    rng = np.random.default_rng(0)
    whole = save(tmp_path, rng.integers(0, 255, (H, W, 3), np.uint8), name).read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99, 1 - 1 / len(whole)):
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share)])
        assert reason(tmp_path / name).startswith(("truncated", "not an image"))


def test_a_bomb_is_refused_by_its_header_alone(tmp_path):
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    message = reason(tmp_path / "bomb.png")
    assert message.startswith("decompression bomb: 50000 x 50000")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_the_limit_on_pixels_is_exact_in_every_format(tmp_path, name):
    path = save(tmp_path, ramp(), name)
    assert read(path, max_pixels=H * W).shape == (1, H, W)
    assert reason(path, max_pixels=H * W - 1).startswith("decompression bomb")


def test_pillow_s_own_limit_does_not_stand_in_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read(save(tmp_path, ramp())).shape == (1, H, W)
    assert read(save(tmp_path, ramp(), "a.tif", compression="tiff_lzw")).shape == (1, H, W)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_blank_image_is_refused(tmp_path):
    assert reason(save(tmp_path, np.full((H, W), 77, np.uint8))).startswith("blank image")


# Channels ---------------------------------------------------------------------------------------


def test_grey_stored_as_rgb_becomes_grey_also_after_a_jpeg(tmp_path):
    image = read(save(tmp_path, np.repeat(ramp()[..., None], 3, -1), "a.jpg", quality=60))
    grey = to_channels(image, 1)
    assert grey.shape == (1, H, W)
    np.testing.assert_allclose(grey[0], ramp() / 255, atol=0.06)


def test_colour_never_becomes_grey_nor_grey_colour():
    colour = ramp(channels=3).transpose(2, 0, 1).astype(np.float32) / 255
    with pytest.raises(BadImage, match="colour image where grey is expected"):
        to_channels(colour, 1)
    with pytest.raises(BadImage, match="grey image where colour is expected"):
        to_channels(colour[:1], 3)
    assert to_channels(colour, 3) is colour


# MONAI ------------------------------------------------------------------------------------------


def test_monai_gets_the_same_rows_and_nothing_but_the_shape(tmp_path):
    from medsynth.data.monai_reader import MedImageReader

    path = save(tmp_path, ramp(channels=3), "jane_doe.png")
    reader = MedImageReader(ReadOptions(LIMIT))
    assert reader.verify_suffix(path)
    image, meta = reader.get_data(reader.read(path))
    np.testing.assert_array_equal(image, read(path))
    assert set(meta) == {"spatial_shape", "original_channel_dim"}
    assert tuple(meta["spatial_shape"]) == (H, W)
    assert "jane" not in repr(meta)


# Real files -------------------------------------------------------------------------------------


@needs_real
def test_a_real_jpeg_of_grey_is_grey():
    path = next((REAL / "chest_xray" / "kermany224" / "images").rglob("*.jpeg"))
    assert to_channels(read(path), 1).shape == (1, 224, 224)


def test_bad_images_survive_the_way_from_another_process():
    import pickle

    error = pickle.loads(pickle.dumps(BadImage("blank image", "all the same")))
    assert (error.reason, error.detail) == ("blank image", "all the same")


def test_nothing_is_left_open(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(ramp()).save(buffer, "TIFF", compression="tiff_lzw")
    (tmp_path / "a.tif").write_bytes(buffer.getvalue()[:-200])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        reason(tmp_path / "a.tif")
