"""Sixteen bits from the file to the release: nothing on the way falls to eight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import tifffile
from made_up import judged, make_findings
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from tiny import study

from medsynth import pipeline
from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data import phantoms
from medsynth.pipeline import learn
from medsynth.pipeline.run import parts_of, silent
from medsynth.release.export import write_release
from medsynth.release.verify import verify

SIZE, PATIENTS = 32, 24
WHITE = 65535
BUILDERS = {"autoencoder": learn.fit_autoencoder, "diffusion": learn.fit_diffusion}


def radiograph(patient: int) -> np.ndarray:
    """(SIZE, SIZE) uint16: a phantom chest with grain below what eight bits can hold."""
    coarse = phantoms.draw("chest_xray", patient, 0, 1, SIZE)[0][..., 0].astype(np.int64)
    grain = np.random.default_rng(patient).integers(0, 256, coarse.shape)
    return (coarse * 256 + grain).astype(np.uint16)


def write(folder: Path, patient: int) -> str:
    """Write one radiograph as PNG, as TIFF, or as 15-bit DICOM with black and white exchanged."""
    pixels = radiograph(patient)
    name = f"p{patient:02d}.{('png', 'tif', 'dcm')[patient % 3]}"
    if name.endswith("png"):
        Image.fromarray(pixels).save(folder / name)
    elif name.endswith("tif"):
        tifffile.imwrite(folder / name, pixels, metadata=None)
    else:
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.SOPClassUID, file.Modality = ComputedRadiographyImageStorage, "CR"
        file.SOPInstanceUID, file.PatientID = f"2.25.{patient + 1}", f"MRN{patient}"
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME1"
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 15, 14
        file.PixelRepresentation = 0
        file.PixelData = (32767 - pixels // 2).tobytes()
        file.save_as(folder / name, enforce_file_format=True)
    return name


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> pipeline.Run:
    """A run of 16 bits whose images are read and divided; nothing is resized."""
    root = tmp_path_factory.mktemp("sixteen")
    (root / "raw").mkdir()
    rows = [f"{write(root / 'raw', p)},P{p:02d}" for p in range(PATIENTS)]
    (root / "raw" / "labels.csv").write_text("path,patient_id\n" + "\n".join(rows) + "\n")
    changes = {"image.bits": 16, "sample.images": 12, "data.label_columns": []}
    changes |= {f"{stage}.training.images": 64 for stage in ("autoencoder", "diffusion")}
    run = pipeline.start(study(**changes), root / "run")
    pipeline.ingest(run, root / "raw", silent)
    pipeline.split(run, silent)
    return run


@pytest.fixture(scope="module")
def run(read) -> pipeline.Run:
    """The same with its synthetic images."""
    for stage, build in BUILDERS.items():
        read.build(stage, lambda folder, build=build: build(read, folder, silent))
    pipeline.sample(read, silent)
    return read


def test_every_level_of_sixteen_bits_goes_through_floats_and_back():
    every = np.arange(WHITE + 1, dtype=np.uint16).reshape(1, 256, 256, 1)
    cohort = Cohort("chest_xray", (Record("r0", "real", "P0"),), every)
    assert cohort.floats().dtype == np.float32
    assert np.array_equal(to_pixels(cohort.floats(), bits=16), every)


def test_what_is_read_is_within_one_level_of_what_the_file_holds(read):
    cohort = Cohort.read(read.folder / "intake")
    assert len(cohort) == PATIENTS
    assert cohort.pixels.dtype == np.uint16
    wanted = {radiograph(p).tobytes(): p for p in range(PATIENTS)}
    exact = [i for i in range(PATIENTS) if cohort.pixels[i, ..., 0].tobytes() in wanted]
    assert len(exact) == 16  # PNG and TIFF, to the last bit
    fifteen = np.stack([(radiograph(p) // 2) / 32767 for p in range(PATIENTS) if p % 3 == 2])
    others = np.setdiff1d(np.arange(PATIENTS), exact)
    for pixels in cohort.pixels[others, ..., 0]:
        errors = np.abs(pixels / WHITE - fifteen).max((1, 2))
        assert errors.min() <= 1 / WHITE
        assert len(np.unique(pixels)) > 600  # of 1,024 pixels; eight bits have 256


def test_the_autoencoder_is_shown_all_levels_and_what_is_drawn_has_them(run):
    cohort, parts = parts_of(run)
    shown = cohort.floats(parts["train"])
    assert len(np.unique(shown)) > 3000
    drawn = Cohort.read(run.folder / "synthetic")
    assert drawn.pixels.dtype == np.uint16
    inside = (drawn.pixels > 0) & (drawn.pixels < WHITE)
    assert len(np.unique(drawn.pixels[inside])) > 1500
    low = drawn.pixels[inside] % 256
    assert len(np.unique(low)) == 256  # the lower byte is used, not copied from the upper
    assert np.mean(low == drawn.pixels[inside] // 256) < 0.05


def test_a_release_keeps_every_level_as_png_and_as_dicom(run, tmp_path):
    drawn = Cohort.read(run.folder / "synthetic")
    findings = make_findings()
    settings = run.protocol
    write_release(tmp_path, **judged(settings, drawn, findings), also=("dicom", "npz"))
    pngs = sorted((tmp_path / "images").glob("*.png"))
    files = sorted(tmp_path.rglob("*.dcm"))
    assert len(pngs) == len(files) == len(drawn)
    for png, path, pixels in zip(pngs, files, drawn.pixels, strict=True):
        with Image.open(png) as image:
            assert image.mode == "I;16"
            assert np.array_equal(np.asarray(image), pixels[..., 0])
        dicom = pydicom.dcmread(path)
        assert dicom.BitsStored == 16
        assert np.array_equal(dicom.pixel_array, pixels[..., 0])
    with np.load(next(tmp_path.rglob("*.npz"))) as arrays:
        kept = arrays["train_images"]
    assert kept.dtype == np.uint16
    assert np.array_equal(kept, drawn.pixels[..., 0])
    assert verify(tmp_path).ok
