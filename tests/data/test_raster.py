"""PNG and JPEG: every bit comes back, and a reduced image is the mean of its squares."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from made_images import LIMIT, H, W, chunk, deep_png, means, noise, ramp, read, reason, save
from PIL import Image

from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_with_size


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


@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_colours_keep_all_their_bits(tmp_path, interlaced):
    pixels = noise(H, W, 3, dtype=np.uint16)
    image = read(deep_png(tmp_path / "a.png", pixels, interlaced))
    np.testing.assert_array_equal(np.rint(image * 65535), pixels.transpose(2, 0, 1))


def test_sixteen_bit_colours_with_alpha_keep_theirs_unless_something_is_hidden(tmp_path):
    pixels = noise(H, W, 4, dtype=np.uint16)
    pixels[..., 3] = 65535
    image = read(deep_png(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(np.rint(image * 65535), pixels[..., :3].transpose(2, 0, 1))
    grey = read(deep_png(tmp_path / "a.png", pixels[..., 2:]))
    np.testing.assert_array_equal(np.rint(grey * 65535)[0], pixels[..., 2])
    pixels[3, 3, 3] = 65534
    assert "transparent" in reason(deep_png(tmp_path / "a.png", pixels))


def test_a_colour_that_means_transparent_matters_only_where_it_occurs(tmp_path):
    pixels, grey = ramp(np.uint16, 3), ramp(np.uint16)
    absent = chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))
    assert read(deep_png(tmp_path / "a.png", pixels, extra=absent)).shape == (3, H, W)
    present = chunk(b"tRNS", struct.pack(">HHH", *pixels[5, 5].tolist()))
    assert "transparent" in reason(deep_png(tmp_path / "a.png", pixels, extra=present))
    image = read(save(tmp_path, grey, transparency=1))
    np.testing.assert_array_equal(np.rint(image[0] * 65535), grey)
    assert "transparent" in reason(save(tmp_path, grey, transparency=int(grey[5, 5])))
    assert read(save(tmp_path, ramp() // 2, transparency=255)).shape == (1, H, W)
    assert "transparent" in reason(save(tmp_path, ramp(), transparency=int(ramp()[5, 5])))


def test_gamma_changes_no_value(tmp_path):
    pixels = noise(H, W, 3, dtype=np.uint16)
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000)) + chunk(b"sRGB", b"\0")
    image = read(deep_png(tmp_path / "a.png", pixels, extra=gamma))
    np.testing.assert_array_equal(np.rint(image * 65535), pixels.transpose(2, 0, 1))


def test_a_palette_gives_colours_and_not_its_indices(tmp_path):
    colours = Image.fromarray(ramp(channels=3)).quantize(8)
    image = read(save(tmp_path, colours))
    np.testing.assert_allclose(image, np.asarray(colours.convert("RGB")).transpose(2, 0, 1) / 255)


@pytest.mark.parametrize(("mode", "levels"), [("1", 2), ("L", 4), ("L", 16)])
def test_few_bits_span_black_to_white(tmp_path, mode, levels):
    grey = Image.fromarray((ramp().astype(int) * levels // 256 * 255 // (levels - 1)).astype("u1"))
    bits = {2: 1, 4: 2, 16: 4}[levels]
    image = read(save(tmp_path, grey.convert(mode), bits=bits))
    assert image.shape == (1, H, W)
    np.testing.assert_allclose(np.unique(image) * (levels - 1), np.arange(levels), atol=0.02)


def test_alpha_is_dropped_where_it_hides_nothing_and_refused_where_it_does(tmp_path):
    opaque = Image.fromarray(ramp(channels=3)).convert("RGBA")
    image = read(save(tmp_path, opaque))
    np.testing.assert_allclose(image * 255, ramp(channels=3).transpose(2, 0, 1), atol=1e-4)
    opaque.putpixel((3, 3), (1, 2, 3, 0))
    assert "transparent" in reason(save(tmp_path, opaque))


# JPEG -------------------------------------------------------------------------------------------


def test_a_jpeg_comes_back_row_by_row(tmp_path):
    image = read(save(tmp_path, ramp(channels=3), "a.jpg", quality=95))
    np.testing.assert_allclose(image, ramp(channels=3).transpose(2, 0, 1) / 255, atol=0.05)


def test_a_progressive_jpeg_is_the_same_picture(tmp_path):
    plain = read(save(tmp_path, ramp(channels=3), "a.jpg", quality=95))
    image = read(save(tmp_path, ramp(channels=3), "b.jpg", quality=95, progressive=True))
    np.testing.assert_array_equal(image, plain)


def test_four_channels_are_refused(tmp_path):
    cmyk = Image.fromarray(ramp(channels=3)).convert("CMYK")
    assert reason(save(tmp_path, cmyk, "a.jpg")).startswith("wrong channels")


def test_a_jpeg_of_twelve_bits_is_named(tmp_path):
    path = save(tmp_path, ramp(), "a.jpg")
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(data)
    assert reason(path).startswith("codec missing: JPEG of more than 8 bits")


# Reduced while it is unpacked -------------------------------------------------------------------


def large(channels=None, dtype=np.uint8):
    """A smooth (301, 402) image, so that reducing it in any way gives nearly the same."""
    y, x = np.mgrid[:301, :402] / 402
    waves = 0.5 + 0.4 * np.sin(9 * x + 3 * y) * np.cos(7 * y)
    image = np.stack([waves * (1 - 0.2 * c) for c in range(channels)], -1) if channels else waves
    return (image * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "channels", "name"),
    [
        (np.uint8, None, "a.png"), (np.uint16, None, "a.png"), (np.uint8, 3, "a.png"),
        (np.uint16, None, "a.tif"), (np.uint8, 3, "a.tif"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("least_px", "factor"), [(301, 1), (76, 1), (75, 2), (50, 3), (10, 15)])
def test_a_reduced_image_is_the_means_of_its_squares(
    tmp_path, dtype, channels, name, least_px, factor
):
    pixels = large(channels, dtype)
    path = save(tmp_path, pixels, name)
    image, size = read_with_size(path, ReadOptions(LIMIT, least_px=least_px))
    whole = pixels[None] if channels is None else pixels.transpose(2, 0, 1)
    assert size == (301, 402)
    assert min(image.shape[1:]) >= min(2 * least_px, 301)
    expected = means(whole, factor) / np.iinfo(dtype).max
    np.testing.assert_allclose(image, expected, atol=0.6 / 255 if dtype == np.uint8 else 1e-6)


@pytest.mark.parametrize(("least_px", "short"), [(151, 301), (150, 151), (75, 76), (37, 38)])
def test_a_jpeg_is_reduced_by_its_decoder_and_stays_the_same_picture(tmp_path, least_px, short):
    path = save(tmp_path, large(3), "a.jpg", quality=98)
    image, size = read_with_size(path, ReadOptions(LIMIT, least_px=least_px))
    assert size == (301, 402)
    assert min(image.shape[1:]) == short
    factor = round(301 / short)
    whole = np.pad(large(3), ((0, -301 % factor), (0, -402 % factor), (0, 0)), "edge")
    expected = means(whole.transpose(2, 0, 1), factor) / 255
    np.testing.assert_allclose(image[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.02)


def test_the_camera_s_orientation_is_applied_and_its_size_is_as_it_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    plain = read(save(tmp_path, ramp(), "plain.jpg", quality=95))
    turned = read(save(tmp_path, ramp(), "turned.jpg", quality=95, exif=exif))
    np.testing.assert_array_equal(turned[0], np.rot90(plain[0], -1))
    path = save(tmp_path, large(3), "a.jpg", exif=exif)
    image, size = read_with_size(path, ReadOptions(LIMIT, least_px=100))
    assert size == (402, 301)
    assert image.shape == (3, 201, 151)
