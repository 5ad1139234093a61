"""DICOM: what a radiologist sees comes out, once turned over, once coloured, and no tag with it."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRLittleEndian

from medsynth import doctor
from medsynth.data.badimage import REASONS, BadImage
from medsynth.data.dicom import is_whole_slide
from medsynth.data.dicom_codecs import CODECS, choose_plugin, find_codecs
from medsynth.data.options import ReadOptions
from medsynth.data.readers import is_dicom, read_image

LIMIT = 10_000_000
H, W = 40, 60  # unequal, so that a transposed image is seen
TWELVE = {"BitsStored": 12, "HighBit": 11}


def ramp(dtype=np.uint8, channels=None):
    """An image whose every row, column and channel differs."""
    y, x = np.mgrid[:H, :W]
    grey = (y / (H - 1) * 0.7 + x / (W - 1) * 0.3) * np.iinfo(dtype).max
    if channels:
        grey = np.stack([grey * (1 - 0.3 * c) for c in range(channels)], axis=-1)
    return grey.astype(dtype)


def twelve_bits(top=4095, low=0, dtype=np.uint16):
    return (ramp() / 255.0 * (top - low) + low).astype(dtype)


def bundled(name):
    return Path(get_testdata_file(name, download=False))


def read(path, **options):
    return read_image(path, ReadOptions(**{"max_pixels": LIMIT, **options}))


def reason(path, **options):
    with pytest.raises(BadImage) as caught:
        read(path, **options)
    assert caught.value.reason in REASONS
    assert path.name not in str(caught.value)
    return str(caught.value)


def header(stored):
    """A data set of the given stored values, without any tag on how they are shown."""
    bits = stored.dtype.itemsize * 8
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    colour = stored.shape[-1] == 3
    data.Rows, data.Columns = stored.shape[-3:-1] if colour else stored.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    if stored.ndim > 2 + colour:
        data.NumberOfFrames = len(stored)
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(stored.dtype.kind == "i")
    data.PatientName, data.PatientID = "Doe^Secret", "MRN-4711"
    data.PixelData = stored.tobytes()
    return data


def write_dicom(folder, stored, **tags):
    data = header(stored)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(folder / "image.dcm", enforce_file_format=True)
    return folder / "image.dcm"


def item(**tags):
    data = Dataset()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def lut(entries, first=0, bits=16):
    found = Dataset()
    found.add_new("LUTDescriptor", "US", [len(entries) % 65536, first % 65536, bits])
    found.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return found


# Grey: the order of the steps, and the declared range -------------------------------------------


def test_grey_is_divided_by_its_declared_range_and_not_by_its_own(tmp_path):
    stored = twelve_bits(2000)
    image = read(write_dicom(tmp_path, stored, **TWELVE))
    np.testing.assert_allclose(image[0], stored / 4095, atol=1e-6)


def test_signed_values_with_slope_and_intercept_keep_their_declared_range(tmp_path):
    stored = twelve_bits(2000, -1000, np.int16)
    path = write_dicom(tmp_path, stored, RescaleSlope=2, RescaleIntercept=5, **TWELVE)
    np.testing.assert_allclose(read(path)[0], (stored + 2048.0) / 4095, atol=1e-6)


def test_a_slope_without_an_intercept_is_a_slope(tmp_path):
    path = write_dicom(tmp_path, twelve_bits(), RescaleSlope=-1, **TWELVE)
    np.testing.assert_allclose(read(path)[0], 1 - twelve_bits() / 4095, atol=1e-6)


# PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2, written down value by value
WINDOWS = {
    "LINEAR": lambda x, c, w: (
        0 if x <= c - 0.5 - (w - 1) / 2
        else 1 if x > c - 0.5 + (w - 1) / 2
        else (x - (c - 0.5)) / (w - 1) + 0.5
    ),
    "LINEAR_EXACT": lambda x, c, w: (
        0 if x <= c - w / 2 else 1 if x > c + w / 2 else (x - c) / w + 0.5
    ),
    "SIGMOID": lambda x, c, w: 1 / (1 + np.exp(-4 * (x - c) / w)),
}  # fmt: skip


@pytest.mark.parametrize("function", WINDOWS)
@pytest.mark.parametrize("width", [801, 1.0, 0.5])
def test_a_window_is_applied_after_the_slope(tmp_path, function, width):
    stored = twelve_bits()
    tags = {"WindowCenter": 1000, "WindowWidth": width, "VOILUTFunction": function}
    path = write_dicom(tmp_path, stored, RescaleSlope=0.5, RescaleIntercept=0, **tags, **TWELVE)
    if function == "LINEAR" and width < 1:
        assert reason(path) == "truncated or damaged: a window without a width"
        return
    with np.errstate(over="ignore"):
        expected = [[WINDOWS[function](x * 0.5, 1000, width) for x in row] for row in stored]
    np.testing.assert_allclose(read(path)[0], expected, atol=1e-5)


def test_the_first_of_several_windows_counts(tmp_path):
    one = read(write_dicom(tmp_path, twelve_bits(), WindowCenter=900, WindowWidth=800, **TWELVE))
    many = {"WindowCenter": [900, 50], "WindowWidth": [800, 10]}
    np.testing.assert_array_equal(read(write_dicom(tmp_path, twelve_bits(), **many, **TWELVE)), one)
    empty = {"WindowCenter": None, "WindowWidth": None}
    plain = read(write_dicom(tmp_path, twelve_bits(), **TWELVE))
    unsaid = read(write_dicom(tmp_path, twelve_bits(), **empty, **TWELVE))
    np.testing.assert_array_equal(unsaid, plain)


def test_an_enhanced_object_has_its_window_and_slope_frame_by_frame(tmp_path):
    stored = np.stack([twelve_bits(), twelve_bits()])
    windows = [item(WindowCenter=center, WindowWidth=500) for center in (800, 900)]
    windows = [item(FrameVOILUTSequence=[window]) for window in windows]
    slope = item(PixelValueTransformationSequence=[item(RescaleSlope=0.5, RescaleIntercept=7)])
    path = write_dicom(
        tmp_path,
        stored,
        PerFrameFunctionalGroupsSequence=windows,
        SharedFunctionalGroupsSequence=[slope],
        **TWELVE,
    )
    for frame, center in enumerate((800, 900)):
        expected = np.clip((stored[0] * 0.5 + 7 - (center - 0.5)) / 499 + 0.5, 0, 1)
        np.testing.assert_allclose(read(path, frame=frame)[0], expected, atol=1e-5)


@pytest.mark.parametrize("first", [0, -1000])
def test_lookup_tables_go_before_windows_and_hold_at_their_ends(tmp_path, first):
    stored = twelve_bits(1500 + first, first - 50 if first else 0, np.int16 if first else np.uint16)
    modality = np.arange(1200) * 3  # entries of 12 bits, from `first` on
    voi = (np.arange(4096) ** 2 / 4095).astype(int)
    path = write_dicom(
        tmp_path,
        stored,
        ModalityLUTSequence=[lut(modality, first, 12)],
        VOILUTSequence=[lut(voi, 0, 12)],
        WindowCenter=1,
        WindowWidth=1,
        **TWELVE,
    )
    after = [modality[min(max(int(x) - first, 0), 1199)] for x in stored.ravel()]
    expected = np.array([voi[x] / 4095 for x in after]).reshape(stored.shape)
    np.testing.assert_allclose(read(path)[0], expected, atol=1e-6)


def test_a_table_of_8_bits_is_not_wrapped_around(tmp_path):
    # pydicom's own apply_voi_lut counts the entries of such a table in 8 bits
    path = write_dicom(
        tmp_path, twelve_bits(), VOILUTSequence=[lut(np.arange(4096) // 16, 0, 8)], **TWELVE
    )
    np.testing.assert_allclose(read(path)[0], (twelve_bits() // 16) / 255, atol=1e-6)


def test_a_table_that_does_not_fit_its_description_is_refused(tmp_path):
    path = write_dicom(
        tmp_path, twelve_bits(), VOILUTSequence=[lut(np.arange(4096), 0, 8)], **TWELVE
    )
    assert reason(path).startswith("undeclared range: a lookup table")
    short = lut(np.arange(4096), 0, 12)
    short.LUTData = short.LUTData[:5000]
    path = write_dicom(tmp_path, twelve_bits(), VOILUTSequence=[short], **TWELVE)
    assert reason(path) == "truncated or damaged: a lookup table is incomplete"


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("shape", [None, "IDENTITY", "INVERSE"])
def test_what_is_stored_upside_down_is_turned_over_exactly_once(tmp_path, kind, shape):
    tags = {"PhotometricInterpretation": kind} | ({"PresentationLUTShape": shape} if shape else {})
    image = read(write_dicom(tmp_path, ramp(np.uint16), **tags))
    over = kind == "MONOCHROME1" or shape == "INVERSE"
    plain = ramp(np.uint16) / 65535
    np.testing.assert_allclose(image[0], 1 - plain if over else plain, atol=1e-6)


def test_a_presentation_lut_ends_in_what_is_shown(tmp_path):
    tags = {"PresentationLUTSequence": [lut(np.arange(256)[::-1] * 16, 0, 12)]}
    image = read(write_dicom(tmp_path, ramp(), PhotometricInterpretation="MONOCHROME1", **tags))
    np.testing.assert_allclose(image[0], (255.0 - ramp()) * 16 / 4095, atol=1e-6)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_whatever_a_window_would_make_of_it(tmp_path, kind):
    stored = twelve_bits(2000, -1000, np.int16)
    stored[:5], stored[5:8] = -2000, -1990
    tags = {"PixelPaddingValue": -2000, "PhotometricInterpretation": kind}
    tags |= {"WindowCenter": -1000, "WindowWidth": 2001, **TWELVE}
    image = read(write_dicom(tmp_path, stored, **tags))[0]
    assert not image[:5].any()
    shown = (-1990 - (-1000.5)) / 2000 + 0.5
    shown = shown if kind == "MONOCHROME2" else 1 - shown
    assert image[6, 0] == pytest.approx(shown, abs=1e-6)
    image = read(write_dicom(tmp_path, stored, PixelPaddingRangeLimit=-1990, **tags))[0]
    assert not image[:8].any()
    assert image[8:].any()


def test_padding_below_zero_is_known_though_written_as_if_unsigned(tmp_path):
    stored = twelve_bits(2000, -1000, np.int16)
    stored[:5] = -2000
    data = header(stored)
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    image = read(tmp_path / "a.dcm", window=(-3000, 3000))[0]
    assert not image[:5].any()
    assert image[5:].min() > 0.3


def test_padding_does_not_make_a_narrow_range_wide(tmp_path):
    stored = twelve_bits(100)
    stored[:5] = 4095
    assert reason(write_dicom(tmp_path, stored, PixelPaddingValue=4095, **TWELVE)).startswith(
        "undeclared range"
    )


def test_a_narrow_range_needs_a_window_of_the_file_or_of_the_protocol(tmp_path):
    stored = ramp().astype(np.uint16) * 4  # 10 bits in a file that declares 16
    path = write_dicom(tmp_path, stored)
    assert reason(path).startswith("undeclared range: no window")
    np.testing.assert_allclose(read(path, window=(0, 2040))[0], stored / 2040, atol=1e-6)
    path = write_dicom(tmp_path, stored, WindowCenter=512, WindowWidth=1024)
    np.testing.assert_array_equal(read(path, window=(0, 9)), read(path))


def test_stored_bits_that_begin_higher_up_are_refused(tmp_path):
    path = write_dicom(tmp_path, twelve_bits() << 4, BitsStored=12, HighBit=15)
    assert "begin at the lowest" in reason(path)


def test_overlays_are_not_burned_in(tmp_path):
    data = header(ramp(np.uint16))
    for number, vr, value in (
        (0x10, "US", H), (0x11, "US", W), (0x40, "CS", "G"), (0x50, "SS", [1, 1]),
        (0x100, "US", 1), (0x102, "US", 0), (0x3000, "OW", b"\xff" * (H * W // 8)),
    ):  # fmt: skip
        data.add_new(0x60000000 + number, vr, value)
    data.save_as(tmp_path / "overlay.dcm", enforce_file_format=True)
    plain = read(write_dicom(tmp_path, ramp(np.uint16)))
    np.testing.assert_array_equal(read(tmp_path / "overlay.dcm"), plain)


# Colour -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_keep_their_rows_and_channels(tmp_path, planar, dtype):
    data = header(ramp(dtype, channels=3))
    data.PlanarConfiguration = planar
    planes = ramp(dtype, channels=3).transpose(2, 0, 1)
    data.PixelData = planes.tobytes() if planar else data.PixelData
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_allclose(read(tmp_path / "a.dcm"), planes / np.iinfo(dtype).max, atol=1e-6)


def test_ybr_becomes_rgb_once(tmp_path):
    r, g, b = (ramp(channels=3)[..., c].astype(float) for c in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ybr = np.stack([y, (b - y) / 1.772 + 128, (r - y) / 1.402 + 128], -1).round().astype(np.uint8)
    image = read(write_dicom(tmp_path, ybr, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(image, ramp(channels=3).transpose(2, 0, 1) / 255, atol=2.5 / 255)


def test_colours_that_nobody_turns_into_rgb_are_refused(tmp_path):
    for kind in ("YBR_PARTIAL_422", "HSV", "CMYK"):
        path = write_dicom(tmp_path, ramp(channels=3), PhotometricInterpretation=kind)
        assert reason(path).startswith(("wrong channels", "truncated"))


def palette(bits, entries=64, first=10):
    """Three ramps of a palette, and the tags that hold it."""
    white = 2**bits - 1
    ramps = [
        np.linspace(0, white, entries),
        np.linspace(white, 0, entries),
        np.full(entries, white),
    ]
    ramps = [channel.round().astype("<u1" if bits == 8 else "<u2") for channel in ramps]
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for channel, values in zip(("Red", "Green", "Blue"), ramps, strict=True):
        name = f"{channel}PaletteColorLookupTable"
        tags |= {f"{name}Descriptor": [entries, first, bits], f"{name}Data": values.tobytes()}
    return tags, np.stack(ramps) / white


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_palette_gives_colours_and_holds_at_its_ends(tmp_path, bits, dtype):
    stored = ramp().astype(dtype) * (1 if dtype == np.uint8 else 3)  # numbers beyond 8 bits, too
    tags, colours = palette(bits)
    expected = colours[:, np.clip(stored.astype(int) - 10, 0, 63)]
    np.testing.assert_allclose(read(write_dicom(tmp_path, stored, **tags)), expected, atol=1e-6)


def test_a_palette_of_segments_is_expanded(tmp_path):
    tags, _ = palette(16, entries=256, first=0)
    segments = [0, 1, 0, 1, 255, 65535]  # one entry of 0, then 255 rising to 65535
    for channel in ("Red", "Green", "Blue"):
        del tags[f"{channel}PaletteColorLookupTableData"]
        name = f"Segmented{channel}PaletteColorLookupTableData"
        tags[name] = np.array(segments, "<u2").tobytes()
    image = read(write_dicom(tmp_path, ramp(), **tags))
    np.testing.assert_allclose(image, np.stack([ramp() / 255] * 3), atol=1e-4)


def test_a_profile_brings_colours_to_srgb(tmp_path):
    srgb = bundled("crayons.icc").read_bytes()
    image = read(write_dicom(tmp_path, ramp(channels=3), ICCProfile=srgb))
    np.testing.assert_allclose(image * 255, ramp(channels=3).transpose(2, 0, 1), atol=1.01)
    # the same profile with its red and its blue exchanged: what it calls red is blue
    other = srgb.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ")
    image = read(write_dicom(tmp_path, ramp(channels=3), ICCProfile=other))
    np.testing.assert_allclose(image[::-1] * 255, ramp(channels=3).transpose(2, 0, 1), atol=2.01)
    path = write_dicom(tmp_path, ramp(channels=3), ICCProfile=b"no profile at all")
    assert reason(path) == "truncated or damaged: its ICC profile can't be applied"


# Frames, and what is refused --------------------------------------------------------------------


def test_frames_are_chosen_and_never_guessed(tmp_path):
    stored = np.stack([ramp(), ramp()[::-1]])
    path = write_dicom(tmp_path, stored)
    assert reason(path).startswith("multi-frame: 2 frames")
    np.testing.assert_allclose(read(path, frame=1)[0], stored[1] / 255, atol=1e-6)
    assert "frame 2 of 2" in reason(path, frame=2)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"PixelData": None}, "truncated or damaged"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw detector data"),
        ({"BurnedInAnnotation": "YES"}, "burned-in annotation"),
        ({"Rows": 60_000, "Columns": 60_000}, "decompression bomb"),
        ({"Rows": 0}, "truncated or damaged: the header declares no pixels"),
        ({"Rows": 2 * H}, "truncated or damaged"),
        ({"WindowWidth": 0, "WindowCenter": 10}, "truncated or damaged: a window"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"}, "not an image: DICOM, a segmentation"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.2"}, "not an image: DICOM, a radiation"),
        ({"PixelPresentation": "MIXED"}, "wrong channels"),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "RGB"}, "wrong channels"),
    ],
)
def test_dicom_that_must_not_be_used_is_refused(tmp_path, tags, expected):
    assert reason(write_dicom(tmp_path, ramp(), **tags)).startswith(expected)


def test_raw_detector_data_is_taken_where_the_protocol_says_so(tmp_path):
    tags = {"PresentationIntentType": "FOR PROCESSING", "PhotometricInterpretation": "MONOCHROME1"}
    path = write_dicom(tmp_path, twelve_bits(3000), **tags, **TWELVE)
    raw = read(path, for_processing=True)[0]
    np.testing.assert_allclose(raw, 1 - twelve_bits(3000) / 4095, atol=1e-6)
    seen = read(path, for_processing=True, window=(500, 2500))[0]
    np.testing.assert_allclose(
        seen, 1 - np.clip((twelve_bits(3000) - 500.0) / 2000, 0, 1), atol=1e-6
    )


def test_declared_text_is_let_through_only_to_a_screen(tmp_path):
    path = write_dicom(tmp_path, ramp(), BurnedInAnnotation="YES")
    assert reason(path).startswith("burned-in annotation")
    assert read(path, burned_in=True).shape == (1, H, W)


def test_a_whole_slide_is_told_apart_and_never_read_as_frames(tmp_path):
    slide = "1.2.840.10008.5.1.4.1.1.77.1.6"
    path = write_dicom(tmp_path, np.stack([ramp(channels=3)] * 2), SOPClassUID=slide)
    assert is_whole_slide(path)
    assert "a whole slide" in reason(path)
    assert "a whole slide" in reason(path, frame=0)
    assert not is_whole_slide(write_dicom(tmp_path, ramp()))
    assert not is_whole_slide(bundled("examples_rgb_color.dcm"))
    assert not is_whole_slide(bundled("crayons.icc"))
    assert not is_whole_slide(tmp_path / "absent.dcm")


@pytest.mark.parametrize(
    ("implicit", "little"), [(True, True), (False, True), (False, False)], ids=str
)
def test_a_file_without_its_preamble_is_read_by_its_content(tmp_path, implicit, little):
    image = read(write_dicom(tmp_path, ramp()))
    data = header(ramp())
    del data.file_meta
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data["PixelData"].VR = "OB"
    data.save_as(tmp_path / "bare", implicit_vr=implicit, little_endian=little)
    assert (tmp_path / "bare").read_bytes()[128:132] != b"DICM"
    assert is_dicom(tmp_path / "bare")
    np.testing.assert_array_equal(read(tmp_path / "bare"), image)


def test_what_only_looks_a_little_like_dicom_is_not_an_image(tmp_path):
    absurd_length, no_kind = b"\x08\0\x05\0\xff\xff\xff\x7f" * 40, b"\0\x08\0\x08" * 9
    for content in (b"\x08\0 and more text", absurd_length, no_kind):
        (tmp_path / "report7").write_bytes(content)
        assert not is_dicom(tmp_path / "report7")
        assert reason(tmp_path / "report7").startswith("not an image")


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path):
    data = pydicom.dcmread(bundled("MR_small_RLE.dcm"))
    del data.file_meta.TransferSyntaxUID
    data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
    assert reason(tmp_path / "a.dcm").startswith("codec missing: compressed pixels")


def test_dicom_with_a_tiff_preamble_is_dicom(tmp_path):
    path = write_dicom(tmp_path, ramp())
    plain = read(path)
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    np.testing.assert_array_equal(read(path), plain)


# Codecs -----------------------------------------------------------------------------------------

PACKED = {
    "1.2.840.10008.1.2.4.50": "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "1.2.840.10008.1.2.4.70": "SC_rgb_jpeg_gdcm.dcm",
    "1.2.840.10008.1.2.4.80": "MR_small_jpeg_ls_lossless.dcm",
    "1.2.840.10008.1.2.4.81": "SC_rgb_jls_lossy_line.dcm",
    "1.2.840.10008.1.2.4.90": "J2K_pixelrep_mismatch.dcm",
    "1.2.840.10008.1.2.4.91": "693_J2KI.dcm",
    "1.2.840.10008.1.2.5": "SC_rgb_rle_16bit.dcm",
}


def only(monkeypatch, syntax, *plugins):
    """Let pydicom find no other plugins for a transfer syntax than these."""
    decoder = get_decoder(syntax)
    found = {name: decoder._available[name] for name in plugins}
    monkeypatch.setattr(decoder, "_available", found)


@pytest.mark.parametrize("syntax", PACKED)
def test_pixels_are_the_same_whatever_unpacks_them(monkeypatch, syntax):
    everything = read(bundled(PACKED[syntax]))
    installed = get_decoder(syntax).available_plugins
    assert set(installed) <= set(CODECS[syntax][1]), "a plugin that has no place in the order"
    for plugin in installed:
        with monkeypatch.context() as patch:
            only(patch, syntax, plugin)
            np.testing.assert_array_equal(read(bundled(PACKED[syntax])), everything)


@pytest.mark.parametrize("syntax", PACKED)
def test_the_first_plugin_of_the_order_unpacks_and_no_other_is_asked(monkeypatch, syntax):
    decoder = get_decoder(syntax)
    first = choose_plugin(pydicom.uid.UID(syntax))
    assert first == next(name for name in CODECS[syntax][1] if name in decoder.available_plugins)

    def never(*_):
        raise AssertionError("another plugin was asked")

    found = dict.fromkeys(decoder.available_plugins, never) | {first: decoder._available[first]}
    monkeypatch.setattr(decoder, "_available", dict(reversed(found.items())))
    assert read(bundled(PACKED[syntax])).shape[0] in (1, 3)


def test_a_second_best_plugin_s_failure_is_no_fault_of_the_file(monkeypatch):
    only(monkeypatch, "1.2.840.10008.1.2.4.90", "pillow")  # it can't unpack this file
    message = reason(bundled("GDCMJ2K_TextGBR.dcm"))
    assert message.startswith("codec missing: JPEG 2000")
    assert "pip install 'medsynth[dicom]'" in message


@pytest.mark.parametrize("syntax", PACKED)
def test_a_missing_codec_is_named_with_the_extra_that_brings_it(monkeypatch, syntax):
    only(monkeypatch, syntax)
    name = pydicom.uid.UID(syntax).name
    expected = f"codec missing: {name}: pip install 'medsynth[dicom]'"
    assert reason(bundled(PACKED[syntax])) == expected


def test_what_nothing_unpacks_is_named_too(tmp_path):
    message = reason(bundled("JPGExtended.dcm"))
    assert message.startswith("codec missing: JPEG Extended (Process 2 and 4) of 12 bits")
    assert "medsynth[dicom]" not in message
    data = pydicom.dcmread(bundled("examples_ybr_color.dcm"))
    for uid, said in (
        (pydicom.uid.MPEG4HP41, "nothing here unpacks MPEG-4"),
        ("1.3.6.1.4.1.5962.99.4711", "a transfer syntax that DICOM does not define"),
    ):
        data.file_meta.TransferSyntaxUID = uid
        data.save_as(tmp_path / "a.dcm", implicit_vr=False, little_endian=True)
        message = reason(tmp_path / "a.dcm", frame=0)
        assert message.startswith(f"codec missing: {said}")
        assert "4711" not in message


def test_packed_pixels_of_another_size_are_refused_before_they_are_unpacked(monkeypatch, tmp_path):
    def never(*_):
        raise AssertionError("a bomb was unpacked")

    for syntax, name in PACKED.items():
        if name.endswith("16bit.dcm"):
            continue  # RLE declares no size of its own
        data = pydicom.dcmread(bundled(name))
        data.Rows = data.Rows // 2
        data.save_as(tmp_path / name)
        plugins = dict.fromkeys(get_decoder(syntax).available_plugins, never)
        monkeypatch.setattr(get_decoder(syntax), "_available", plugins)
        expected = "truncated or damaged: the packed pixels are of another size"
        assert reason(tmp_path / name) == expected


def test_doctor_says_of_every_transfer_syntax_what_unpacks_it(monkeypatch, tmp_path):
    found = find_codecs()
    assert found["JPEG baseline"] == "pillow"
    assert "GPL" in found["JPEG extended, 12 bits"]
    only(monkeypatch, "1.2.840.10008.1.2.4.70")
    said = doctor.examine(tmp_path)
    assert "pip install 'medsynth[dicom]'" in said["DICOM codecs"]
    assert said["DICOM JPEG lossless, SV1"].startswith("missing: pip install")
    assert {f"DICOM {name}" for name, _ in CODECS.values()} <= said.keys()


@pytest.mark.parametrize(
    "name", [*PACKED.values(), "image_dfl.dcm", "SC_ybr_full_uncompressed.dcm"]
)
def test_a_file_cut_anywhere_never_passes_as_whole(tmp_path, name):
    whole, image = bundled(name).read_bytes(), read(bundled(name))
    passed = []
    for share in (0.02, 0.1, 0.5, 0.9, 0.99):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(len(whole) * share)])
        with contextlib.suppress(BadImage):
            np.testing.assert_array_equal(read(tmp_path / "cut.dcm"), image, err_msg=f"{share}")
            passed.append(share)
    assert set(passed) <= {0.99}  # where the last hundredth is padding


def test_a_decoder_s_panic_is_a_damaged_file_and_no_end_of_the_run(tmp_path):
    damaged = bytearray(bundled("MR_small_RLE.dcm").read_bytes())
    damaged[2934] = 179  # a run of 77 beyond the end: pylibjpeg-rle raises what is no Exception
    (tmp_path / "a.dcm").write_bytes(damaged)
    assert reason(tmp_path / "a.dcm") == "truncated or damaged: its pixels can't be unpacked"


# Nothing else comes in, and nothing gets out ----------------------------------------------------


def test_no_other_reader_is_asked_whatever_is_installed(tmp_path):
    for name in ("itk", "SimpleITK", "nrrd"):  # importable, and of no use
        (tmp_path / f"{name}.py").write_text("raise AssertionError('it was asked')")
    path = bundled("6154")  # a chest radiograph of 16 x 16, MONOCHROME1
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from pathlib import Path
from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image
image = read_image(Path({str(path)!r}), ReadOptions(9**9))
print(image.astype(float).sum(), *sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    total, *modules = run.stdout.split()
    assert float(total) == read(path).astype(float).sum()
    assert not {"itk", "SimpleITK", "nrrd", "monai", "torch"} & set(modules)


def test_no_tag_s_value_escapes_by_a_warning_a_log_or_an_error(tmp_path, caplog, capfd):
    path = write_dicom(tmp_path, ramp())
    # a value that is wrong for its kind makes pydicom warn with the value in its words
    path.write_bytes(path.read_bytes().replace(b"Doe^Secret", b"\xffoe^Secre\xfe"))
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        read(path)
        path.write_bytes(path.read_bytes()[:-100])
        message = reason(path)
    out = capfd.readouterr()
    for text in (message, caplog.text, out.out, out.err):
        assert "Secre" not in text
        assert "4711" not in text
