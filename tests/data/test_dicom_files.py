"""Every image that pydicom and pydicom-data bring: the reference's pixels, or a reason why not.

The reference is pydicom's own steps, one after the other on whole images; the reader works on
tables of values, so the two share nothing but the unpacking.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

from medsynth.data.badimage import REASONS, BadImage
from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image

LIMIT = 10_000_000
WINDOWLESS = (
    "CT_small.dcm",
    "JPEG-LL.dcm",
    "JPEG2000.dcm",
    "JPEG2000_UNC.dcm",
    "explicit_VR-UN.dcm",
)
REFUSED = {  # files with pixels that are not read, and why
    "JPEG-lossy.dcm": "codec missing: JPEG Extended (Process 2 and 4) of 12 bits",
    "JPGExtended.dcm": "codec missing: JPEG Extended (Process 2 and 4) of 12 bits",
    "JPEG2000-embedded-sequence-delimiter.dcm": "truncated or damaged",
    "MR_truncated.dcm": "truncated or damaged",
    "meta_missing_tsyntax.dcm": "truncated or damaged: the header declares no pixels",
    "nested_priv_SQ.dcm": "truncated or damaged: the header declares no pixels",
    "eCT_Supplemental.dcm": "wrong channels: grey of which a part is shown in colours",
    **dict.fromkeys(("17166", "17196"), "blank image"),
    **dict.fromkeys(WINDOWLESS, "undeclared range: no window"),
}
KINDS = {"SEG": "not an image: DICOM, a segmentation", "RTDOSE": "not an image: DICOM, a radiation"}


@cache
def files():
    """Every data file of the two packages once, by content."""
    found = {}
    for package in ("pydicom", "pydicom-data"):
        for file in importlib.metadata.files(package):
            path = Path(file.locate())
            if "data" in file.parts[0] + file.parts[1] and path.suffix not in (".py", ".pyc"):
                found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    return sorted(found.values())


def read(path, **options):
    return read_image(path, ReadOptions(**{"max_pixels": LIMIT, **options}))


def reference(path, frame):
    """What pydicom's own steps make of a file, in its declared range."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in data.file_meta:
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        stored = pixel_array(data, index=frame)
        if data.PhotometricInterpretation == "PALETTE COLOR":
            return np.moveaxis(apply_color_lut(stored, data)[..., :3], -1, 0) / 65535
        if stored.ndim == 3:
            return np.moveaxis(stored, -1, 0) / (2.0**data.BitsStored - 1)
        image = reference_grey(stored, data)
        return (1 - image if data.PhotometricInterpretation == "MONOCHROME1" else image)[None]


def reference_grey(stored, data):
    values = apply_voi_lut(apply_modality_lut(stored, data), data).astype(float)
    luts = data.get("VOILUTSequence") or data.get("ModalityLUTSequence")
    if luts:
        image = values / (2.0 ** luts[0].LUTDescriptor[2] - 1)
    else:
        low = -(2.0 ** (data.BitsStored - 1)) if data.PixelRepresentation else 0.0
        ends = np.array([low, low + 2.0**data.BitsStored - 1])
        ends = ends * float(data.get("RescaleSlope", 1)) + float(data.get("RescaleIntercept", 0))
        image = (values - ends[0]) / (ends[1] - ends[0])
    padding = data.get("PixelPaddingValue")
    return image if padding is None else np.where(stored == padding, 0, image)


def described(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path, force=True)


def refusal(path, header):
    """The reason that a file without a usable picture must be refused with, None for the rest."""
    if path.name in REFUSED:
        return REFUSED[path.name]
    if header.get("Modality") in KINDS and "PixelData" in header:
        return KINDS[header.Modality]
    if "PixelData" not in header:
        return ("empty file", "not an image", "truncated or damaged: DICOM that declares")
    return None


def twin(name):
    """A file whose pixels another one has, where pydicom itself can't be the reference."""
    return get_testdata_file(name.replace("_expb", ""), download=False)


def frames(header):
    count = int(header.get("NumberOfFrames") or 1)
    return (None,) if count == 1 else (0, count - 1)


def check_refused(path, expected):
    for frame in (None, 0):  # a choice of frame mends nothing
        with pytest.raises(BadImage) as caught:
            read(path, frame=frame)
        assert caught.value.reason in REASONS
        assert str(caught.value).startswith(expected), path.name
        assert path.name not in str(caught.value)


def check_read(path, header):
    if len(frames(header)) > 1:
        with pytest.raises(BadImage, match="multi-frame"):
            read(path)
    for frame in frames(header):
        image = read(path, frame=frame)
        source = twin(path.name) if path.name.startswith("OBXXXX1A_expb") else path
        expected = reference(source, frame or 0)
        np.testing.assert_allclose(image, expected, atol=2e-6, err_msg=path.name)


def test_every_bundled_file_gives_the_reference_s_pixels_or_its_reason(caplog, capfd):
    found = [(path, described(path)) for path in files()]
    refused = {path: refusal(path, header) for path, header in found}
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        for path, header in found:
            if refused[path]:
                check_refused(path, refused[path])
            else:
                check_read(path, header)
    assert len(found) >= 260
    assert sum(reason is None for reason in refused.values()) >= 140
    assert {path.name for path in refused} >= REFUSED.keys()


# A real chest radiograph ------------------------------------------------------------------------


def radiograph(name):
    return read(Path(get_testdata_file(name, download=False)))[0]


def mean(image, top, bottom, left, right):
    """Mean brightness of a part, whose edges are shares of the height and the width."""
    height, width = image.shape
    rows = slice(int(top * height), int(bottom * height))
    return image[rows, int(left * width) : int(right * width)].mean()


def test_a_chest_radiograph_is_upright_with_dark_lungs_and_bright_bones():
    image = radiograph("RG1_UNCI.dcm")
    assert image.shape == (1955, 1841)
    # HOSPITAL.md: its window leaves [0.116, 0.973] of the declared range
    assert image.min() == pytest.approx(0.116, abs=0.001)
    assert image.max() == pytest.approx(0.973, abs=0.001)
    right_lung, left_lung = mean(image, 0.25, 0.45, 0.22, 0.38), mean(image, 0.25, 0.45, 0.62, 0.78)
    spine, liver = mean(image, 0.25, 0.45, 0.46, 0.54), mean(image, 0.8, 0.95, 0.15, 0.4)
    assert spine > max(right_lung, left_lung) + 0.25
    assert liver > max(right_lung, left_lung) + 0.25  # below the lungs: it is upright
    above_shoulders, beside_hips = mean(image, 0.03, 0.08, 0, 0.1), mean(image, 0.9, 0.97, 0.1, 0.2)
    assert above_shoulders < 0.5 < beside_hips
    heart, its_mirror = mean(image, 0.62, 0.74, 0.55, 0.66), mean(image, 0.62, 0.74, 0.34, 0.45)
    assert heart > its_mirror + 0.02  # to the viewer's right: it is not mirrored


def test_its_jpeg_2000_twins_agree():
    lossless, lossy = radiograph("RG1_J2KR.dcm"), radiograph("RG1_J2KI.dcm")
    np.testing.assert_array_equal(lossless, radiograph("RG1_UNCR.dcm"))
    np.testing.assert_array_equal(lossy, radiograph("RG1_UNCI.dcm"))
    # 403 stored values apart at most (HOSPITAL.md), of a window of 30,000
    assert 0.001 < np.abs(lossless - lossy).max() <= 403 / 29_999 + 1e-6
