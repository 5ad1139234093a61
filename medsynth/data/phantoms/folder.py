"""Phantoms as a hospital hands images over: files of several formats, a table, some files bad."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ...errors import DataError

Format = Literal["png", "jpeg", "tiff", "dicom"]
Draw = Callable[[str, int, int, int, int], tuple[np.ndarray, dict[str, str]]]
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "tiff": ".tif", "dicom": ".dcm"}
UID_ROOT = "2.25."  # of identifiers that nobody has to hand out


def write(
    folder: Path,
    draw: Draw,
    *,
    domain: str,
    patients: int,
    seed: int,
    size_px: int,
    images_each: int,
    bad_files: int,
    formats: Sequence[Format],
) -> None:
    """Write images/ and labels.csv; formats take turns image by image."""
    unknown = [name for name in formats if name not in SUFFIXES]
    if unknown or not formats:
        got = ", ".join(unknown) or "none"
        raise DataError(f"formats: expected some of {', '.join(SUFFIXES)}, got {got}")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        for image in range(images_each):
            kind = formats[len(rows) % len(formats)]
            pixels, labels = draw(domain, patient, image, seed, size_px)
            name = f"images/{_name(patient, image)}{SUFFIXES[kind]}"
            number = len(rows) // len(formats)
            _write_image(folder / name, pixels, kind, number=number)
            rows.append({"path": name, "patient_id": f"P{patient:04d}", **labels})
    rows += _write_bad(folder, rows, bad_files)
    _write_table(folder / "labels.csv", rows)


def write_masks(
    folder: Path,
    draw_mask: Callable[[str, int, int, int, int], np.ndarray],
    *,
    domain: str,
    patients: int,
    seed: int,
    size_px: int,
    images_each: int,
) -> None:
    """Write the mask of each image as a PNG of its name, whose values are the classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for patient in range(patients):
        for image in range(images_each):
            mask = draw_mask(domain, patient, image, seed, size_px)
            Image.fromarray(mask).save(folder / f"{_name(patient, image)}.png")


def _name(patient: int, image: int) -> str:
    return f"p{patient:04d}_{image}"


def _write_image(path: Path, pixels: np.ndarray, kind: Format, *, number: int) -> None:
    """Write (H, W, 1 or 3) uint8; a grey DICOM file of an even number is MONOCHROME1."""
    flat = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    if kind == "dicom":
        _write_dicom(path, flat, inverted=flat.ndim == 2 and number % 2 == 0, number=number)
    elif kind == "tiff":
        import tifffile

        tifffile.imwrite(path, flat, metadata=None)
    else:
        Image.fromarray(flat).save(path, **({"quality": 95} if kind == "jpeg" else {}))


def _write_dicom(path: Path, flat: np.ndarray, *, inverted: bool, number: int) -> None:
    """Write a computed radiograph (grey) or secondary capture (colour), uncompressed."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        ComputedRadiographyImageStorage,
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
    )

    grey = flat.ndim == 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage if grey else SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = f"{UID_ROOT}{number + 1}"
    dataset.PatientName, dataset.PatientID = "Phantom^Made Up", f"MRN{number:06d}"
    dataset.PatientBirthDate, dataset.Modality = "19700101", "CR" if grey else "OT"
    dataset.Rows, dataset.Columns = flat.shape[:2]
    dataset.SamplesPerPixel = 1 if grey else 3
    dataset.PhotometricInterpretation = (
        "RGB" if not grey else "MONOCHROME1" if inverted else "MONOCHROME2"
    )
    if not grey:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    data = (255 - flat if inverted else flat).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset.save_as(path, enforce_file_format=True)


def _write_bad(folder: Path, rows: Sequence[dict[str, str]], count: int) -> list[dict[str, str]]:
    """Write files that can't be used: empty, cut short, text, two channels, in turn."""
    kinds = ("empty", "truncated", "text", "channels")
    added = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        name = f"images/bad{number:02d}_{kind}.{'tif' if kind == 'channels' else 'png'}"
        _write_bad_file(folder / name, kind)
        added.append({**rows[number % len(rows)], "path": name})
    return added


def _write_bad_file(path: Path, kind: str) -> None:
    if kind == "channels":
        import tifffile

        two = np.zeros((32, 32, 2), np.uint8)
        tifffile.imwrite(path, two, photometric="minisblack", planarconfig="contig", metadata=None)
        return
    if kind == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:1500])
        return
    path.write_bytes(b"" if kind == "empty" else b"this is not an image\n")


def _write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
