"""PNG, JPEG and JPEG 2000 without metadata: the names go, the picture does not change."""

from __future__ import annotations

import io
from contextlib import suppress

import named_images
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from named_images import names_in, pixels
from PIL import Image, ImageCms, ImageOps
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames

from medsynth.data.badimage import BadImage, silence
from medsynth.data.dicom_codecs import unpack
from medsynth.data.icc import without_words
from medsynth.data.strip import strip_jpeg, strip_jpeg2000, strip_png

KINDS = {
    "png": (named_images.write_png, strip_png, {}),
    "jpeg": (named_images.write_jpeg, strip_jpeg, {}),
    "progressive": (named_images.write_jpeg, strip_jpeg, {"progressive": True}),
}


def written(tmp_path, kind: str, *, colour: bool = True, turn: int = 1) -> tuple[bytes, bytes]:
    """A file full of names, and the same stripped."""
    write, strip, options = KINDS[kind]
    write(tmp_path / "named", pixels(colour=colour), turn=turn, **options)
    data = (tmp_path / "named").read_bytes()
    return data, strip(data)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_no_name_is_left_and_pixels_are_the_same(tmp_path, kind, colour):
    before, after = written(tmp_path, kind, colour=colour)
    assert names_in(before) == set(named_images.WORDS)
    assert not names_in(after)
    np.testing.assert_array_equal(np.asarray(opened(after)), np.asarray(opened(before)))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_it_stays_upright(tmp_path, kind, turn):
    before, after = written(tmp_path, kind, turn=turn)
    shown = [np.asarray(ImageOps.exif_transpose(opened(data))) for data in (before, after)]
    np.testing.assert_array_equal(*shown)
    assert len(opened(after).getexif()) == (turn > 1)


@pytest.mark.parametrize("kind", KINDS)
def test_colours_stay_what_they_are(tmp_path, kind):
    before, after = written(tmp_path, kind)
    target = ImageCms.createProfile("LAB")
    shown = []
    for image in (opened(before), opened(after)):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        shown.append(
            np.asarray(ImageCms.profileToProfile(image, profile, target, outputMode="LAB"))
        )
    np.testing.assert_array_equal(*shown)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_stripped_is_only_headers(tmp_path, kind):
    before, after = written(tmp_path, kind)
    again = KINDS[kind][1](after)
    assert again == after
    scan = before.rindex(b"IDAT") if kind == "png" else before.index(b"\xff\xda")
    assert before[scan : scan + 500] in after


CODESTREAMS = {
    "SC_rgb_jpeg_dcmtk": strip_jpeg,
    "JPEG-LL": strip_jpeg,
    "MR_small_jpeg_ls_lossless": strip_jpeg,
    "JPEG2000": strip_jpeg2000,
    "693_J2KI": strip_jpeg2000,
}


@pytest.mark.parametrize("name", CODESTREAMS)
def test_codestreams_of_dicom_files_unpack_to_the_same_pixels(name):
    with silence():
        dataset = pydicom.dcmread(get_testdata_file(f"{name}.dcm", download=False))
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
        before, _ = unpack(dataset, 0)
        dataset.PixelData = encapsulate([CODESTREAMS[name](frame)])
        after, _ = unpack(dataset, 0)
    np.testing.assert_array_equal(after, before)


def test_a_comment_in_a_jpeg_2000_header_goes():
    with silence():
        dataset = pydicom.dcmread(get_testdata_file("693_J2KI.dcm", download=False))
        (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    comment = b"\xff\x64" + (4 + 10).to_bytes(2, "big") + b"\0\1" + b"Sklodowska"
    at = frame.index(b"\xff\x52")
    named = frame[:at] + comment + frame[at:]
    assert names_in(named)
    assert strip_jpeg2000(named) == strip_jpeg2000(frame)


@pytest.mark.parametrize("strip", [strip_png, strip_jpeg, strip_jpeg2000])
def test_something_else_is_refused(strip):
    for data in (b"", b"Sklodowska", b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\x4f"):
        with pytest.raises(BadImage, match="truncated or damaged"):
            strip(data)


@given(kind=st.sampled_from(sorted(KINDS)), share=st.floats(0, 1), byte=st.integers(0, 255))
@settings(max_examples=40)
def test_a_damaged_file_is_refused_or_stripped(tmp_path_factory, kind, share, byte):
    data, _ = written(tmp_path_factory.mktemp("named"), kind)
    at = int(share * (len(data) - 1))
    for damaged in (data[:at], data[:at] + bytes((byte,)) + data[at + 1 :]):
        with suppress(BadImage):
            assert len(KINDS[kind][1](damaged)) < len(data)


def test_a_profile_without_words_is_as_long_and_a_damaged_one_is_none():
    profile = named_images.colour_profile()
    clean = without_words(profile)
    assert len(clean) == len(profile)
    assert without_words(clean) == clean
    assert clean[24:36] == bytes(12)
    for damaged in (b"", b"Sklodowska", profile[:100], profile[:-9]):
        assert without_words(damaged) is None
