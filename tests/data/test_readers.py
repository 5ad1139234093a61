"""Reading: what comes out is what a person sees, and a bad file says what is wrong with it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from medsynth.data.badimage import REASONS, BadImage
from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image, to_channels

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
LIMIT = 10_000_000
H, W = 40, 60  # unequal, so that a transposed image is seen
needs_real = pytest.mark.skipif(not REAL.exists(), reason="real images are not here")


def ramp(dtype=np.uint8, channels=None):
    """An image whose every row, column and channel differs."""
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    y, x = np.mgrid[:H, :W]
    grey = (y / (H - 1) * 0.7 + x / (W - 1) * 0.3) * top
    if channels:
        grey = np.stack([grey * (1 - 0.3 * c) for c in range(channels)], axis=-1)
    return grey.astype(dtype)


def save(folder, image, name="image.png", **options):
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(folder / name, **options)
    return folder / name


def read(path, **options):
    return read_image(path, ReadOptions(**{"max_pixels": LIMIT, **options}))


def reason(path, **options):
    with pytest.raises(BadImage) as caught:
        read(path, **options)
    assert caught.value.reason in REASONS
    assert path.name not in str(caught.value)
    return str(caught.value)


# PNG, JPEG, TIFF --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, None), (np.uint16, None), (np.uint8, 3)]
)
def test_a_png_comes_back_to_the_last_bit(tmp_path, dtype, channels):
    pixels = ramp(dtype, channels)
    image = read(save(tmp_path, pixels))
    expected = pixels[None] if channels is None else pixels.transpose(2, 0, 1)
    assert image.dtype == np.float32
    assert image.shape == expected.shape
    np.testing.assert_array_equal(np.rint(image * np.iinfo(dtype).max), expected)


def test_a_jpeg_comes_back_row_by_row(tmp_path):
    image = read(save(tmp_path, ramp(channels=3), "a.jpg", quality=95))
    np.testing.assert_allclose(image, ramp(channels=3).transpose(2, 0, 1) / 255, atol=0.05)


def test_a_palette_gives_colours_and_not_its_indices(tmp_path):
    colours = Image.fromarray(ramp(channels=3)).quantize(8)
    image = read(save(tmp_path, colours))
    np.testing.assert_allclose(image, np.asarray(colours.convert("RGB")).transpose(2, 0, 1) / 255)


def test_one_bit_becomes_black_and_white(tmp_path):
    image = read(save(tmp_path, Image.fromarray(ramp()).convert("1")))
    assert image.shape == (1, H, W)
    assert set(np.unique(image)) == {0.0, 1.0}


def test_alpha_is_dropped_where_it_hides_nothing_and_refused_where_it_does(tmp_path):
    opaque = Image.fromarray(ramp(channels=3)).convert("RGBA")
    image = read(save(tmp_path, opaque))
    np.testing.assert_allclose(image * 255, ramp(channels=3).transpose(2, 0, 1), atol=1e-4)
    opaque.putpixel((3, 3), (1, 2, 3, 0))
    assert "transparent" in reason(save(tmp_path, opaque))


def test_the_camera_s_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    plain = read(save(tmp_path, ramp(), "plain.jpg", quality=95))
    turned = read(save(tmp_path, ramp(), "turned.jpg", quality=95, exif=exif))
    np.testing.assert_array_equal(turned[0], np.rot90(plain[0], -1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_tiff_comes_back_in_every_depth(tmp_path, dtype, options):
    tifffile.imwrite(tmp_path / "a.tif", ramp(dtype), **options)
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    np.testing.assert_allclose(read(tmp_path / "a.tif")[0], ramp(dtype) / top, atol=1e-6)


def test_a_tiff_of_another_make_is_read(tmp_path):
    for compression in ("tiff_lzw", "packbits"):
        path = save(tmp_path, ramp(channels=3), "a.tif", compression=compression)
        np.testing.assert_allclose(read(path) * 255, ramp(channels=3).transpose(2, 0, 1), atol=1e-4)


def test_a_tiff_whose_white_is_zero_is_turned_over(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(), photometric="miniswhite")
    np.testing.assert_allclose(read(tmp_path / "a.tif")[0], 1 - ramp() / 255, atol=1e-6)


def test_planes_become_channels(tmp_path):
    planes = ramp(channels=3).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read(tmp_path / "a.tif") * 255, planes, atol=1e-4)


def test_a_tiff_of_many_pages_needs_a_choice(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([ramp(), ramp()[::-1]]), photometric="minisblack")
    assert "2 pages" in reason(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif", frame=1)[0], ramp()[::-1] / 255, atol=1e-6)
    assert "frame 2 of 2" in reason(tmp_path / "a.tif", frame=2)


def test_the_content_decides_and_not_the_name(tmp_path):
    path = save(tmp_path, ramp(), "a.png").rename(tmp_path / "a.dcm")
    assert read(path).shape == (1, H, W)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file"),
        (b"%PDF-1.7 and so on", "not an image: a PDF"),
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


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(tmp_path, value):
    pixels = ramp(np.float32)
    pixels[3, 3] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert reason(tmp_path / "a.tif").startswith("NaN or infinite")


def test_floats_beyond_their_range_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(np.float32) * 300)
    assert reason(tmp_path / "a.tif").startswith("undeclared range")


def test_two_channels_are_refused_with_their_number(tmp_path):
    two = np.stack([ramp(), ramp()], -1)
    tifffile.imwrite(tmp_path / "a.tif", two, photometric="minisblack", planarconfig="contig")
    assert reason(tmp_path / "a.tif") == "wrong channels: 2 channels, expected 1 or 3"


def test_a_blank_image_is_refused(tmp_path):
    assert reason(save(tmp_path, np.full((H, W), 77, np.uint8))).startswith("blank image")


def test_other_channels_are_refused(tmp_path):
    cmyk = Image.fromarray(ramp(channels=3)).convert("CMYK")
    assert reason(save(tmp_path, cmyk, "a.jpg")).startswith("wrong channels")


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
