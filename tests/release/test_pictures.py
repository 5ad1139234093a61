import io

import numpy as np
import pytest
from PIL import Image

from medsynth.errors import DataError
from medsynth.pictures import GAP_PX, grid_png
from medsynth.release import pictures


def image(dtype=np.uint8, channels=3):
    white = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, white, (16, 12, channels), dtype, endpoint=True)


@pytest.mark.parametrize(("dtype", "channels"), [(np.uint8, 3), (np.uint8, 1), (np.uint16, 1)])
def test_a_png_gives_every_pixel_back(dtype, channels):
    original = image(dtype, channels)
    with Image.open(io.BytesIO(pictures.encode_png(original, synthetic=True))) as opened:
        pixels = np.asarray(opened).reshape(original.shape)
    assert np.array_equal(pixels, original)


def test_sixteen_bit_colour_is_refused():
    with pytest.raises(DataError, match="16-bit colour"):
        pictures.encode_png(image(np.uint16, 3), synthetic=True)


def test_the_same_image_gives_the_same_bytes():
    assert pictures.encode_png(image(), synthetic=True) == pictures.encode_png(
        image(), synthetic=True
    )


def test_the_mark_is_there_exactly_where_asked_for(tmp_path):
    for synthetic in (True, False):
        path = tmp_path / f"{synthetic}.png"
        path.write_bytes(pictures.encode_png(image(), synthetic=synthetic))
        assert pictures.is_marked(path) is synthetic


def test_other_software_reads_the_mark():
    with Image.open(io.BytesIO(pictures.encode_png(image(), synthetic=True))) as opened:
        opened.load()
        assert "digitalsourcetype/trainedAlgorithmicMedia" in opened.text["XML:com.adobe.xmp"]
        assert "Synthetic image" in opened.text["Source"]


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\x89PNG\r\n\x1a\n\0\0"])
def test_what_is_no_png_is_not_marked(tmp_path, data):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    assert not pictures.is_marked(path)


def test_a_mark_after_the_pixels_or_in_them_does_not_count(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(pictures.encode_png(image(), synthetic=False) + pictures.XMP.encode())
    assert not pictures.is_marked(path)


def test_a_grid_puts_images_in_rows_and_leaves_gaps_see_through():
    images = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (10, 20, 30)])
    with Image.open(io.BytesIO(grid_png(images, columns=2, scale=3))) as opened:
        sheet = np.asarray(opened)
    gap = GAP_PX
    assert sheet.shape == (24 + gap, 24 + gap, 4)
    assert (sheet[:12, :12] == (10, 10, 10, 255)).all()
    assert (sheet[:12, 12 + gap :] == (20, 20, 20, 255)).all()
    assert (sheet[12 + gap :, :12] == (30, 30, 30, 255)).all()
    assert (sheet[12 + gap :, 12 + gap :, 3] == 0).all()
    assert (sheet[:, 12 : 12 + gap, 3] == 0).all()
