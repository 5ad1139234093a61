"""TIFF: every depth, order and compression gives the same picture, and copies are no frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
from made_images import LIMIT, H, W, noise, ramp, read, reason, save
from PIL import Image

from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_with_size


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_a_tiff_comes_back_in_every_depth(tmp_path, dtype, options):
    tifffile.imwrite(tmp_path / "a.tif", ramp(dtype), **options)
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    np.testing.assert_allclose(read(tmp_path / "a.tif")[0], ramp(dtype) / top, atol=1e-6)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_a_tiff_of_another_make_is_read_to_the_last_bit(tmp_path, compression):
    path = save(tmp_path, ramp(channels=3), "a.tif", compression=compression)
    np.testing.assert_allclose(read(path) * 255, ramp(channels=3).transpose(2, 0, 1), atol=1e-4)
    grey = noise(H, W, dtype=np.uint16)
    path = save(tmp_path, grey, "b.tif", compression=compression)
    np.testing.assert_array_equal(np.rint(read(path)[0] * 65535), grey)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_compressed_sixteen_bit_colours_keep_all_their_bits(tmp_path, byteorder):
    pixels = noise(H, W, 3, dtype=np.uint16)
    image = read(packed_tiff(tmp_path / "a.tif", pixels, byteorder))
    np.testing.assert_array_equal(np.rint(image * 65535), pixels.transpose(2, 0, 1))


def packed_tiff(path, pixels, byteorder):
    """Write a PackBits TIFF of 16-bit colours, which neither Pillow nor tifffile does here."""
    tifffile.imwrite(path, pixels, photometric="rgb", byteorder=byteorder, rowsperstrip=len(pixels))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        start, count = page.dataoffsets[0], page.databytecounts[0]
        compression, counts = page.tags["Compression"], page.tags["StripByteCounts"]
    data = path.read_bytes()
    runs = [data[i : i + 128] for i in range(start, start + count, 128)]
    packed = b"".join(bytes([len(run) - 1]) + run for run in runs)  # nothing but literals
    changed = bytearray(data[:start] + packed + data[start + count :])
    struct.pack_into(f"{byteorder}H", changed, compression.valueoffset, 32773)
    kind = {3: "H", 4: "I"}[int(counts.dtype)]
    struct.pack_into(byteorder + kind, changed, counts.valueoffset, len(packed))
    path.write_bytes(changed)
    return path


def test_a_bigtiff_of_tiles_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(np.uint16), bigtiff=True, tile=(16, 16))
    np.testing.assert_allclose(read(tmp_path / "a.tif")[0] * 65535, ramp(np.uint16), atol=0.01)


def test_a_jpeg_inside_a_tiff_has_its_colours(tmp_path):
    path = save(tmp_path, ramp(channels=3), "a.tif", compression="jpeg", quality=95)
    np.testing.assert_allclose(read(path), ramp(channels=3).transpose(2, 0, 1) / 255, atol=0.06)


def test_a_tiff_whose_white_is_zero_is_turned_over(tmp_path):
    for dtype in (np.uint8, np.uint16):
        tifffile.imwrite(tmp_path / "a.tif", ramp(dtype), photometric="miniswhite")
        expected = 1 - ramp(dtype) / np.iinfo(dtype).max
        np.testing.assert_allclose(read(tmp_path / "a.tif")[0], expected, atol=1e-6)


def test_planes_become_channels(tmp_path):
    planes = ramp(channels=3).transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_allclose(read(tmp_path / "a.tif") * 255, planes, atol=1e-4)


def test_a_palette_gives_its_colours(tmp_path):
    colours = noise(3, 256, dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", ramp(), photometric="palette", colormap=colours)
    np.testing.assert_allclose(read(tmp_path / "a.tif") * 65535, colours[:, ramp()], atol=0.01)


@pytest.mark.parametrize("turn", range(1, 9))
def test_all_eight_orientations_show_the_same_picture(tmp_path, turn):
    # What the tag says of the stored rows and columns: TIFF 6.0, section 8, Orientation.
    turns = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
        5: lambda x: x.T, 6: lambda x: np.rot90(x, 1), 7: lambda x: np.rot90(x, 2).T,
        8: lambda x: np.rot90(x, -1),
    }  # fmt: skip
    stored = np.ascontiguousarray(turns[turn](ramp()))
    exif = Image.Exif()
    exif[0x0112] = turn
    tags = [(274, "H", 1, turn, True)]
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=tags)
    for path in (
        tmp_path / "a.tif",
        save(tmp_path, stored, "b.tif", exif=exif, compression="tiff_lzw"),
        save(tmp_path, stored, "c.png", exif=exif),
    ):
        image, size = read_with_size(path, ReadOptions(LIMIT))
        np.testing.assert_allclose(image[0] * 255, ramp(), atol=1e-4)
        assert size == (H, W)


# Pages ------------------------------------------------------------------------------------------


def test_a_tiff_of_many_pages_needs_a_choice(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([ramp(), ramp()[::-1]]), photometric="minisblack")
    assert "2 pages" in reason(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif", frame=1)[0], ramp()[::-1] / 255, atol=1e-6)
    assert "frame 2 of 2" in reason(tmp_path / "a.tif", frame=2)


@pytest.mark.parametrize("marked", [True, False])
def test_of_a_pyramid_the_largest_page_is_the_image(tmp_path, marked):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (4, 1, 2):
            file.write(ramp()[::step, ::step], subfiletype=int(marked and step > 1))
    np.testing.assert_allclose(read(tmp_path / "a.tif")[0] * 255, ramp(), atol=1e-4)
    assert "frame 1 of 1" in reason(tmp_path / "a.tif", frame=1)


def test_a_page_of_another_shape_is_another_frame_and_a_mask_is_none(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(ramp())
        file.write(ramp()[:20])
        file.write(ramp()[:10] > 99, subfiletype=4)
    assert "2 pages" in reason(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif", frame=1).shape == (1, 20, W)


# What is refused --------------------------------------------------------------------------------


def test_floats_beyond_their_range_need_a_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(np.float32) * 300 - 100)
    assert reason(tmp_path / "a.tif").startswith("undeclared range")
    image = read(tmp_path / "a.tif", window=(-50.0, 150.0))
    expected = np.clip((ramp(np.float32) * 300 - 50) / 200, 0, 1)
    np.testing.assert_allclose(image[0], expected, atol=1e-6)


def test_signed_numbers_need_a_window(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp().astype(np.int16) - 100)
    assert reason(tmp_path / "a.tif").startswith("undeclared range")
    image = read(tmp_path / "a.tif", window=(-100.0, 155.0))
    np.testing.assert_allclose(image[0], ramp() / 255, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("window", [None, (0.0, 0.5)])
def test_values_that_are_no_numbers_are_refused(tmp_path, value, window):
    pixels = ramp(np.float32)
    pixels[3, 3] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    assert reason(tmp_path / "a.tif", window=window).startswith("NaN or infinite")


def test_two_channels_are_refused_with_their_number(tmp_path):
    two = np.stack([ramp(), ramp()], -1)
    tifffile.imwrite(tmp_path / "a.tif", two, photometric="minisblack", planarconfig="contig")
    assert reason(tmp_path / "a.tif") == "wrong channels: 2 channels, expected 1 or 3"


def test_colours_that_are_not_rgb_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", ramp(channels=3), photometric="cielab")
    assert reason(tmp_path / "a.tif").startswith("wrong channels: neither grey")


@pytest.mark.parametrize("compression", ["zstd", "webp", "jpegxl"])
def test_a_compression_that_nothing_here_unpacks_is_named_or_damaged(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", ramp(channels=3), photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(tifffile.COMPRESSION[compression.upper()])
    assert reason(tmp_path / "a.tif").startswith(("codec missing", "truncated or damaged"))
