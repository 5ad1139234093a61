"""The released images in the shapes that other libraries read, beside the PNG files.

One function a format. Every one holds the same images, ids and labels, and the same cohort gives
the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..runtime import write_json
from .masks import COLUMN, encode_mask

RESERVED_COLUMNS = ("file_name", "id")
IMAGES_A_TABLE, IMAGES_A_TAR = 10_000, 1_000
MISSING = -1


@dataclass(frozen=True)
class Contents:
    """What is packed: the cohort, the folder of its PNG files, and what the images were made by,
    digests by name. `classes` are what its masks' values mean; none where it has no masks."""

    cohort: Cohort
    images: Path
    digests: Mapping[str, str]
    classes: Mapping[int, str] = field(default_factory=dict)

    def png(self, number: int) -> bytes:
        return (self.images / f"{self.cohort.records[number].id}.png").read_bytes()

    def mask(self, number: int) -> bytes:
        return encode_mask(self.cohort.masks[number])


Writer = Callable[[Path, Contents], None]


def write(folder: Path, names: Sequence[str], contents: Contents) -> None:
    """Write each of the formats into a folder of its name in a release."""
    for name in dict.fromkeys(names):
        (folder / name).mkdir()
        FORMATS[name](folder / name, contents)


def columns(cohort: Cohort) -> dict[str, str]:
    """Return {column: attribute} of all labels; an attribute whose name is a column of the table
    already is the column `label_NAME`."""
    attributes = sorted({name for record in cohort.records for name in record.labels})
    taken = own_columns(cohort)
    return {f"label_{name}" if name in taken else name: name for name in attributes}


def own_columns(cohort: Cohort) -> tuple[str, ...]:
    """Return the columns of the table that are no labels."""
    return RESERVED_COLUMNS if cohort.masks is None else (*RESERVED_COLUMNS, COLUMN)


def parquet(folder: Path, contents: Contents) -> None:
    """Write tables with the columns image, id and the labels, as `datasets` and pandas read them;
    an image is {bytes, path} with the PNG in it, an unknown label is null. Masks are the column
    mask, as images.

    Raises DataError where pyarrow is not installed.
    """
    arrow, tables = _pyarrow()
    cohort = contents.cohort
    names = columns(cohort)
    image = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    pictures = ("image",) if cohort.masks is None else ("image", COLUMN)
    features = {name: {"_type": "Image"} for name in pictures}
    features |= {name: {"dtype": "string", "_type": "Value"} for name in ("id", *names)}
    schema = arrow.schema(
        [*((name, image) for name in pictures), *((n, arrow.string()) for n in ("id", *names))],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    parts = list(_parts(len(cohort), IMAGES_A_TABLE))
    for number, part in enumerate(parts):
        path = folder / f"cohort-{number:05d}-of-{len(parts):05d}.parquet"
        with tables.ParquetWriter(path, schema) as writer:
            for start in range(part.start, part.stop, 100):
                rows = range(start, min(start + 100, part.stop))
                writer.write_table(
                    arrow.Table.from_pylist([_row(contents, i, names) for i in rows], schema=schema)
                )


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "parquet needs pyarrow, which is not installed: pip install 'medsynth[export]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _row(contents: Contents, number: int, names: Mapping[str, str]) -> dict:
    record = contents.cohort.records[number]
    labels = {column: record.labels.get(attribute) for column, attribute in names.items()}
    row = {"image": {"bytes": contents.png(number), "path": f"{record.id}.png"}}
    if contents.classes:
        row[COLUMN] = {"bytes": contents.mask(number), "path": f"{record.id}.png"}
    return {**row, "id": record.id, **labels}


def webdataset(folder: Path, contents: Contents) -> None:
    """Write tar files with ID.png and ID.json, the image's labels, as `webdataset` reads them, and
    ID.mask.png where there are masks."""
    cohort = contents.cohort
    for number, part in enumerate(_parts(len(cohort), IMAGES_A_TAR)):
        with tarfile.open(folder / f"cohort-{number:06d}.tar", "w") as tar:
            for i in part:
                record = cohort.records[i]
                labels = json.dumps(dict(sorted(record.labels.items())), ensure_ascii=False)
                parts = [("png", contents.png(i)), ("json", labels.encode())]
                parts += [("mask.png", contents.mask(i))] if contents.classes else []
                for name, data in parts:
                    member = tarfile.TarInfo(f"{record.id}.{name}")  # no clock, no owner
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def npz(folder: Path, contents: Contents) -> None:
    """Write cohort.npz with MedMNIST's keys, all in `train`: images (N, H, W) or (N, H, W, 3) and
    labels (N, attributes) int16, places in labels.json's lists, -1 where one is not known; and
    train_masks (N, H, W) where there are masks."""
    cohort = contents.cohort
    values = {
        attribute: sorted({r.labels[attribute] for r in cohort.records if attribute in r.labels})
        for attribute in columns(cohort).values()
    }
    labels = np.full((len(cohort), len(values)), MISSING, np.int16)
    for column, (attribute, known) in enumerate(values.items()):
        place = {value: number for number, value in enumerate(known)}
        labels[:, column] = [place.get(r.labels.get(attribute), MISSING) for r in cohort.records]
    pixels = cohort.pixels[..., 0] if cohort.channels == 1 else cohort.pixels
    arrays = {"train_images": pixels, "train_labels": labels}
    arrays |= {} if cohort.masks is None else {"train_masks": np.asarray(cohort.masks)}
    for part in ("val", "test"):  # its readers expect them
        arrays |= {f"{part}_images": pixels[:0], f"{part}_labels": labels[:0]}
    np.savez_compressed(folder / "cohort.npz", **arrays)
    write_json(folder / "labels.json", values)


def dicom(folder: Path, contents: Contents) -> None:
    """Write ID.dcm, a Secondary Capture image that says that it is synthetic (dicom.py), and its
    mask as a segmentation, ID.seg.dcm."""
    from .dicom import Study, write_image
    from .segmentation import write_segmentation

    study = Study(contents.cohort.digest, contents.cohort.domain, contents.digests)
    for number, record in enumerate(contents.cohort.records):
        image = write_image(
            folder / f"{record.id}.dcm",
            contents.cohort.pixels[number],
            study,
            number=number + 1,
            labels=record.labels,
        )
        if contents.classes:
            mask, path = contents.cohort.masks[number], folder / f"{record.id}.seg.dcm"
            write_segmentation(path, mask, image, study, classes=contents.classes)


def _parts(count: int, size: int) -> Iterator[range]:
    return (range(start, min(start + size, count)) for start in range(0, count, size))


FORMATS: Mapping[str, Writer] = {
    "parquet": parquet,
    "webdataset": webdataset,
    "npz": npz,
    "dicom": dicom,
}
"""Formats by name, as `card.formats` in the protocol and `medsynth release --format` know them."""
