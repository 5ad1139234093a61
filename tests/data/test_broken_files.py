"""Several hundred broken files: each is refused with its reason or read, and none does harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import resource
import struct
import time
import warnings
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from medsynth.cohort import Cohort
from medsynth.data.badimage import REASONS
from medsynth.data.intake import ingest
from medsynth.data.layouts import find_images
from medsynth.data.original import Steady
from medsynth.data.pool import read_all
from medsynth.data.preparation import File, Reading
from medsynth.data.worker import Limits, Lost
from medsynth.protocol import parse
from medsynth.runtime import read_json

SEED = 11
MOST_PIXELS = 4_000_000
MOST_MIB = 400  # what reading may take, on top of what a process takes that has read nothing
LARGE = 60_000
pytestmark = pytest.mark.skipif(os.name != "posix", reason="names of POSIX")


def protocol():
    document = {
        "name": "broken", "domain": "chest_xray", "image": {"size_px": 32},
        "data": {"max_bad_share": 1.0, "max_pixels": MOST_PIXELS, "patient_column": None,
                 "window": [0, 1], "slice_step": 1, "max_memory_gib": 1.0},
        "gate": {"rules": [{"finding": "memorization.p_value", "at_least": 0.05}]},
    }  # fmt: skip
    return parse(json.dumps(document))


# Whole files ------------------------------------------------------------------------------------


def grey(side=48, top=256):
    noise = np.random.default_rng(SEED).normal(size=(side, side))
    ramp = np.linspace(0, 1, side)[:, None] + 0.05 * noise
    return (ramp.clip(0, 1) * (top - 1)).astype(np.uint8 if top == 256 else np.uint16)


def raster(format, **options):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(options.pop("pixels", grey())).save(file, format, **options)
    return file.getvalue()


def tiff(**options):
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(file, options.pop("pixels", grey(top=65536)), **options)
    return file.getvalue()


def dicom(syntax="1.2.840.10008.1.2.1", *, compress=None, **tags):
    import pydicom
    from pydicom.dataset import FileMetaDataset

    pixels = grey(top=65536)
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.PatientID, dataset.PatientName, dataset.Modality = "MRN0001", "Doe^Jane", "CR"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *pixels.shape, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    if compress:
        dataset.compress(compress, generate_instance_uid=False)
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def nifti(pixels=None, *, packed=False):
    import nibabel

    pixels = grey().astype(np.float32)[..., None] / 255 if pixels is None else pixels
    data = nibabel.Nifti1Image(pixels, np.eye(4)).to_bytes()
    return gzip.compress(data, mtime=0) if packed else data


def npz(**arrays):
    file = io.BytesIO()
    np.savez_compressed(file, **(arrays or {"train_images": np.stack([grey()] * 3)}))
    return file.getvalue()


def h5(shape=(3, 48, 48), pixels=True):
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as opened:
        data = opened.create_dataset("x", shape, "u1", chunks=(1, *shape[1:]), compression="gzip")
        if pixels:
            data[:] = grey()
    return file.getvalue()


def whole_files():
    files = {
        "png8.png": raster("PNG"),
        "png16.png": raster("PNG", pixels=grey(top=65536)),
        "rgb.png": raster("PNG", pixels=np.stack([grey()] * 3, -1)),
        "jpeg.jpg": raster("JPEG"),
        "progressive.jpg": raster("JPEG", progressive=True),
        "plain.tif": tiff(),
        "deflated.tif": tiff(compression="zlib", tile=(16, 16)),
        "lzw.tif": raster("TIFF", compression="tiff_lzw"),
        "explicit.dcm": dicom(),
        "implicit.dcm": dicom("1.2.840.10008.1.2"),
        "deflated.dcm": dicom("1.2.840.10008.1.2.1.99"),
        "rle.dcm": dicom(compress="1.2.840.10008.1.2.5"),
        "plain.nii": nifti(),
        "packed.nii.gz": nifti(packed=True),
        "some.npz": npz(),
    }
    if has("h5py"):
        files["some.h5"] = h5()
    if has("openjpeg"):
        files["j2k.dcm"] = dicom(compress="1.2.840.10008.1.2.4.90")
    return files


def has(package):
    from importlib.util import find_spec

    return find_spec(package) is not None


# What is done to them ---------------------------------------------------------------------------


def mutations(name, data, draw):
    """Yield (name, bytes): cut, changed, swapped, swollen, at random places of one file."""
    stem, dot, suffix = name.partition(".")
    for i in range(7):
        yield f"{stem}-cut{i}{dot}{suffix}", data[: draw.randrange(len(data))]
    for i in range(9):
        changed = bytearray(data)
        end = len(data) if i % 3 else min(400, len(data))  # headers are where harm is done
        for _ in range(1 + 3 * (i // 3)):
            changed[draw.randrange(end)] = draw.randrange(256)
        yield f"{stem}-flip{i}{dot}{suffix}", bytes(changed)
    for i in range(4):
        at = draw.randrange(min(400, len(data) - 4))
        absurd = draw.choice([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xfe"])
        yield f"{stem}-size{i}{dot}{suffix}", data[:at] + absurd + data[at + len(absurd) :]
    at, to = sorted(draw.randrange(len(data)) for _ in range(2))
    yield f"{stem}-hole{dot}{suffix}", data[:at] + bytes(to - at) + data[to:]
    yield f"{stem}-twice{dot}{suffix}", data[:at] + data[at:to] * 2 + data[to:]
    yield f"{stem}-magic{dot}{suffix}", b"\0\0\0\0" + data[4:]


def png_of(width, height, unpacked, *, colour=0):
    def chunk(kind, body):
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    body = zlib.compress(bytes(unpacked), 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiff_of(width, height, *, strip=b"\0", compression=1, following=0):
    tags = [(256, width), (257, height), (258, 8), (259, compression), (262, 1), (273, 150),
            (277, 1), (278, height), (279, len(strip))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory.ljust(142, b"\0") + strip


def bombs():
    """Yield (name, bytes, the reasons of which one must be given) of files made to do harm."""
    bomb, damage = "decompression bomb", "truncated or damaged"
    yield "wide.png", png_of(LARGE, LARGE, 10), {bomb}
    yield "deep.png", png_of(64, 64, 10**8), None
    yield "wide.jpg", raster("JPEG").replace(struct.pack(">HH", 48, 48), b"\xff\xdc" * 2, 1), {bomb}
    yield "wide.tif", tiff_of(LARGE, LARGE), {bomb}
    yield "deep.tif", tiff_of(64, 64, strip=zlib.compress(bytes(10**8), 1), compression=8), None
    yield "loop.tif", tiff_of(64, 64, strip=bytes(4096), following=8), None
    yield "wide.dcm", dicom(Rows=65535, Columns=65535), {bomb}
    yield "frames.dcm", dicom(NumberOfFrames=2**31 - 1), {"multi-frame", damage, bomb}
    yield "nested.dcm", _sequences(200, 200), None
    yield "nested2.dcm", _sequences(20000, 20000), {damage}
    yield "endless.dcm", _sequences(20000, 0), {damage}
    yield "deep.dcm", _deflated_bomb(), None
    yield "wide.nii", _declared(nifti(), (20000, 20000, 1)), {bomb, damage}
    yield "wide.nii.gz", gzip.compress(_declared(nifti(), (20000, 20000, 1))), {bomb}
    yield "deep.nii.gz", gzip.compress(nifti() + bytes(10**8), 1), None
    yield "wide.npz", _npz_that_declares((1, LARGE, LARGE)), {bomb, damage}
    yield "many.npz", _npz_that_declares((10**12, 48, 48)), {bomb, damage}
    yield "objects.npz", npz(train_images=np.array([[[{}]]])), None
    if has("h5py"):
        yield "wide.h5", h5((1, LARGE, LARGE), pixels=False), {bomb}
        yield "many.h5", h5((10**12, 48, 48), pixels=False), {bomb}


OPEN = struct.pack("<HH2sHIHHI", 0x0008, 0x1140, b"SQ", 0, 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1)
CLOSE = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)


def _sequences(depth, ends):
    """A DICOM file that begins with sequences inside of each other."""
    start = dicom()
    head = start[:132] + _group_two(start)
    return head + OPEN * depth + CLOSE * ends + start[len(head) :]


def _group_two(data):
    length = struct.unpack("<I", data[140:144])[0]
    return data[132 : 144 + length]


def _deflated_bomb():
    start, plain = dicom("1.2.840.10008.1.2.1.99"), dicom()
    elements = plain[132 + len(_group_two(plain)) : -48 * 48 * 2 - 4] + struct.pack("<I", 10**8)
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(elements + bytes(10**8)) + packer.flush()
    return start[:132] + _group_two(start) + packed


def _declared(data, shape):
    return data[:40] + struct.pack("<8h", len(shape), *shape, *([1] * (7 - len(shape)))) + data[56:]


def _npz_that_declares(shape):
    header, file = io.BytesIO(), io.BytesIO()
    facts = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_images.npy", header.getvalue() + bytes(10**7))
    return file.getvalue()


def oddities():
    """Yield (name, bytes, reasons): wrong in ways that are met in hospitals."""
    start = dicom()
    damage, reject = "truncated or damaged", "not an image"
    yield "empty.png", b"", {"empty file"}
    yield "zeros.png", bytes(5000), {reject}
    yield "text.dcm", b"This is no image.\n" * 50, {reject}
    yield "page.jpg", b"<html><body>Log in</body></html>", {reject}
    yield "lfs.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", {reject}
    yield "zipped.png", npz(readme=np.arange(3)), None
    yield "nan.tif", tiff(pixels=np.full((48, 48), np.nan, np.float32)), {"NaN or infinite values"}
    yield "inf.tif", tiff(pixels=np.full((48, 48), np.inf, np.float32)), {"NaN or infinite values"}
    yield "nan.nii", nifti(np.full((48, 48, 1), np.nan, np.float32)), {"NaN or infinite values"}
    yield "flat.png", png_of(48, 48, 48 * 49), {"blank image"}
    yield "tiny.png", raster("PNG", pixels=grey(4)), {"too small"}
    yield "syntax.dcm", _without(start, 0x0002, 0x0010), None
    yield "vr.dcm", start.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00DS"), None
    yield "vr2.dcm", start.replace(b"\x08\x00\x60\x00CS", b"\x08\x00\x60\x00??"), None
    yield (
        "length.dcm",
        start.replace(b"\xe0\x7f\x10\x00OW\0\0", b"\xe0\x7f\x10\x00OW\0\0\xff"),
        None,
    )
    yield "short.dcm", start[: len(start) // 2], {damage}
    yield "report.dcm", _without(start, 0x7FE0, 0x0010), {reject, damage}
    yield "preamble", start[132:], None
    yield "window.dcm", dicom(WindowCenter="1e308", WindowWidth="0"), None
    yield "slope.dcm", dicom(RescaleSlope="nan", RescaleIntercept="inf"), None
    yield "bits.dcm", dicom(BitsStored=0), None
    yield "unknown.dcm", start.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"), None


def _without(data, group, element):
    import pydicom

    dataset, file = pydicom.dcmread(io.BytesIO(data)), io.BytesIO()
    for part in (dataset, dataset.file_meta):
        if (group, element) in part:
            del part[group, element]
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    return file.getvalue()


def strange_places(raw):
    """Links, pipes and names; return the reasons by name that must be given."""
    (raw / "line\nbreak 🫀 \\.png").write_bytes(raster("PNG")[:-30])
    (raw / os.fsdecode(b"latin\xe4.png")).write_bytes(b"no image")
    (raw / "out.png").symlink_to("/etc/hostname")
    (raw / "zero.png").symlink_to("/dev/zero")
    (raw / "loop.png").symlink_to("loop.png")
    os.mkfifo(raw / "pipe.dcm")
    os.mkfifo(raw / "pipe")
    return {
        "line\nbreak 🫀 \\.png": {"truncated or damaged"},
        os.fsdecode(b"latin\xe4.png"): {"not an image"},
        "out.png": {"outside the folder"},
        "zero.png": {"outside the folder"},
        "loop.png": {"missing file"},
        "pipe.dcm": {"not an image"},
    }


# What comes of it -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Reads as ingest does, and says how long it took and how much memory was ever in use."""

    steady: Steady

    def __call__(self, entry):
        start = time.monotonic()
        _, file = self.steady(entry)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return file, time.monotonic() - start, peak


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The folder, and the reasons that must be given by name, None where any will do."""
    raw, draw, expected = tmp_path_factory.mktemp("corpus") / "raw", random.Random(SEED), {}
    raw.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # writing what is wrong is warned of
        made = [*bombs(), *oddities()]
        for name, data in whole_files().items():
            (raw / name).write_bytes(data)
            made += [(*each, None) for each in mutations(name, data, draw)]
    for name, data, reasons in made:
        (raw / name).write_bytes(data)
        expected[name] = reasons
    return raw, expected | strange_places(raw)


@pytest.fixture(scope="module")
def outcomes(corpus):
    """(path, what reading gave, seconds, MiB) of every image, read as ingest reads them."""
    raw, _ = corpus
    entries = find_images(raw, protocol().data).entries
    read = Measured(Steady(raw, Reading(raw, protocol())))
    limits = Limits(seconds=10.0, memory_gib=1.0)
    results = list(read_all(read, entries, limits=limits, workers=1))
    found = []
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, Lost):
            assert result.reason == "took too much memory", entry.path
            result = File(result.reason, result.detail), 0.0, results[0][2]
        found.append((entry.path, *result))
    return found


def test_the_corpus_has_several_hundred_files_of_every_format(corpus):
    raw, expected = corpus
    assert len(expected) >= 400
    assert set(expected) <= {path.name for path in raw.iterdir()}


def test_whole_files_are_read(corpus, outcomes):
    whole = set(whole_files())
    read = {path for path, file, *_ in outcomes if not file.reason}
    assert whole <= read


def test_every_file_is_read_to_pixels_or_refused_with_a_reason(outcomes):
    for path, file, *_ in outcomes:
        assert (file.pixels is None) == bool(file.reason), path
        assert file.reason in ("", *REASONS), path
        if file.pixels is not None:
            assert file.pixels.shape == (1, 32, 32, 1)
            assert np.ptp(file.pixels) > 0


def test_what_was_made_to_do_harm_is_refused_for_what_it_is(corpus, outcomes):
    given = {path: file.reason for path, file, *_ in outcomes}
    for name, reasons in corpus[1].items():
        assert reasons is None or given[name] in reasons, (name, given[name])


def test_reading_takes_little_time_and_memory(outcomes):
    peaks = [peak for *_, peak in outcomes]
    assert max(seconds for *_, seconds, _ in outcomes) < 5
    assert max(peaks) - min(peaks) < MOST_MIB


def test_a_reason_s_detail_holds_no_name_and_no_value_of_a_tag(corpus, outcomes):
    for _, file, *_ in outcomes:
        assert not any(word in file.detail for word in ("MRN", "Doe", str(corpus[0])))


def test_ingest_goes_through_them_all(corpus, outcomes, tmp_path):
    taken = ingest(corpus[0], tmp_path, protocol(), b"k" * 32)
    reasons = Counter(file.reason for _, file, *_ in outcomes)
    assert taken.images == len(Cohort.read(tmp_path)) == reasons.pop("")
    assert taken.reasons == reasons == read_json(tmp_path / "intake.json")["reasons"]
