"""An ordered, immutable set of images with their provenance.

On disk a cohort is a folder: `records.csv` (one row an image), `pixels.npy` (all images, memory
mapped), perhaps `masks.npy`, and `cohort.json` (its digest). Real, held-out, synthetic and released
data are all cohorts.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from .errors import DataError
from .runtime import digest_json, read_json, write_json, write_text

Origin = Literal["real", "synthetic", "derived", "canary"]
ORIGINS = ("real", "synthetic", "derived", "canary")
FIELDS = ("id", "origin", "patient", "source", "link", "seed", "parent")
LABEL_PREFIX = "label:"
DIGEST_BLOCK = 256  # images hashed at a time, so that a large cohort stays on disk


@dataclass(frozen=True)
class Record:
    """One image and where it comes from; the fields are closed, so nothing else can leave.

    `patient` is a keyed pseudonym, "" where the patient is not known. `source` is a keyed hash of
    the file's path, and of its number in a file of many people's images. `link` is the number of
    the group of exact or near duplicates, -1 for none. `seed` makes a synthetic image again;
    `parent` is the id of the image that a derived one started from.
    """

    id: str
    origin: Origin
    patient: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    link: int = -1
    seed: int | None = None
    parent: str = ""


@dataclass(frozen=True, eq=False)
class Cohort:
    """Records and their pixels, (N, H, W, C) uint8 or uint16, in the same order.

    `masks` (N, H, W) uint8 say what each pixel shows, 0 for background; None where nobody says.
    Raises DataError where counts, shapes, types, ids or origins are not as they should be.
    """

    domain: str
    records: tuple[Record, ...]
    pixels: np.ndarray
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        faults = [*_faults(self.records, self.pixels), *_mask_faults(self.pixels, self.masks)]
        if faults:
            raise DataError("not a cohort: " + "; ".join(faults))

    def __len__(self) -> int:
        return len(self.records)

    @property
    def size_px(self) -> int:
        """The side of the images in pixels."""
        return self.pixels.shape[1]

    @property
    def channels(self) -> int:
        return self.pixels.shape[3]

    @property
    def white(self) -> int:
        """The largest pixel value: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)

    @cached_property
    def patients(self) -> np.ndarray:
        """(N,) int64: the number of each image's patient, in order of first appearance.

        Where the patient is unknown, the images of one file (tiles of a slide, slices of a volume)
        count as one patient; images linked as duplicates do, whatever their pseudonyms say.
        """
        return group_patients(self.records)

    @cached_property
    def pictures(self) -> np.ndarray:
        """(N,) int64: the number of each image's picture, which linked duplicates share, in order
        of first appearance."""
        return group_pictures(self.records)

    @cached_property
    def digest(self) -> str:
        """sha256 over records, pixels and masks: two cohorts with the same digest are the same."""
        masks = {} if self.masks is None else {"masks": _digest_rows(self.masks)}
        return digest_json(
            {
                "domain": self.domain,
                "records": records_csv(self.records),
                "pixels": _digest_rows(self.pixels),
                "shape": list(self.pixels.shape),
                "dtype": str(self.pixels.dtype),
                **masks,
            }
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> Cohort:
        """Return the cohort of these images, in this order (a copy of their pixels and masks)."""
        order = [int(i) for i in indices]
        return replace(
            self,
            records=tuple(self.records[i] for i in order),
            pixels=np.asarray(self.pixels[order]),
            masks=None if self.masks is None else np.asarray(self.masks[order]),
        )

    def floats(self, indices: Sequence[int] | np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return images as (N, C, H, W) float32 in [-1, 1]."""
        chosen = np.asarray(self.pixels[indices], np.float32)
        return np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)) * (2.0 / self.white) - 1.0

    def labels(self, attribute: str) -> list[str]:
        """Return one attribute of every image, "" where it has none."""
        return [record.labels.get(attribute, "") for record in self.records]

    def write(self, folder: Path) -> None:
        """Write the cohort into an existing folder; arrays that lie there already are left."""
        for name, array in (("pixels.npy", self.pixels), ("masks.npy", self.masks)):
            path = folder / name
            if array is None or Path(getattr(array, "filename", "")) == path.resolve():
                continue
            with path.open("wb") as file:
                np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        write_text(folder / "records.csv", records_csv(self.records))
        write_json(
            folder / "cohort.json",
            {"domain": self.domain, "images": len(self), "digest": self.digest},
        )

    @classmethod
    def read(cls, folder: Path) -> Cohort:
        """Open a cohort's folder; pixels stay on disk until they are used.

        Raises DataError where the folder holds no cohort.
        """
        missing = [
            name
            for name in ("cohort.json", "records.csv", "pixels.npy")
            if not (folder / name).exists()
        ]
        if missing:
            raise DataError(f"{folder.name}/ is no cohort: {', '.join(missing)} is missing")
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("pixels", "masks")
            if (folder / f"{name}.npy").exists()
        }
        records = parse_records((folder / "records.csv").read_bytes().decode())
        return cls(read_json(folder / "cohort.json")["domain"], records, **arrays)


def _digest_rows(array: np.ndarray) -> str:
    """Return the sha256 of an array's bytes, read a block at a time."""
    found = hashlib.sha256()
    for start in range(0, len(array), DIGEST_BLOCK):
        found.update(np.ascontiguousarray(array[start : start + DIGEST_BLOCK]))
    return found.hexdigest()


def to_pixels(images: np.ndarray, *, bits: int = 8) -> np.ndarray:
    """Round (N, C, H, W) floats in [-1, 1] to (N, H, W, C) uint8 (`bits` 8) or uint16 (16)."""
    dtype = np.uint8 if bits == 8 else np.uint16
    white = np.iinfo(dtype).max
    scaled = (np.asarray(images, np.float64) + 1.0) * (white / 2.0)
    return np.rint(np.clip(scaled, 0, white)).astype(dtype).transpose(0, 2, 3, 1)


def group_patients(records: Sequence[Record]) -> np.ndarray:
    """Return (N,) int64 patient numbers; linked images and equal pseudonyms share a number, and
    where there is no pseudonym, equal sources do."""
    parent = list(range(len(records)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, object], int] = {}
    for i, record in enumerate(records):
        who = ("patient", record.patient) if record.patient else ("source", record.source)
        keys = [who] if who[1] else []
        keys += [("link", record.link)] if record.link >= 0 else []
        for key in keys:
            a, b = root(first.setdefault(key, i)), root(i)
            parent[max(a, b)] = min(a, b)
    roots = [root(i) for i in range(len(records))]
    numbers = {value: number for number, value in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[value] for value in roots], np.int64)


def group_pictures(records: Sequence[Record]) -> np.ndarray:
    """Return (N,) int64 picture numbers; images linked as duplicates show one picture."""
    numbers: dict[tuple[str, int], int] = {}
    keys = [("link", r.link) if r.link >= 0 else ("image", i) for i, r in enumerate(records)]
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def records_csv(records: Iterable[Record]) -> str:
    """Write records as CSV text: FIELDS, then one column `label:NAME` an attribute, sorted."""
    rows = list(records)
    attributes = sorted({name for record in rows for name in record.labels})
    lines = [csv_line([*FIELDS, *(LABEL_PREFIX + name for name in attributes)])]
    for record in rows:
        values = ["" if (value := getattr(record, name)) is None else value for name in FIELDS]
        lines.append(csv_line([*values, *(record.labels.get(name, "") for name in attributes)]))
    return "".join(lines)


def csv_line(values: Iterable[object]) -> str:
    """Write one row as CSV, so quoted that any text survives, line ends included."""
    text = io.StringIO(newline="")
    # with this line end the writer quotes both of its characters
    csv.writer(text, lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"


def parse_records(text: str) -> tuple[Record, ...]:
    """Read what `records_csv` wrote; an empty label is an absent one."""
    records = []
    for row in csv.DictReader(io.StringIO(text, newline="")):
        labels = {
            name.removeprefix(LABEL_PREFIX): value
            for name, value in row.items()
            if name.startswith(LABEL_PREFIX) and value != ""
        }
        records.append(
            Record(
                id=row["id"],
                origin=row["origin"],
                patient=row["patient"],
                labels=labels,
                source=row["source"],
                link=int(row["link"]),
                seed=int(row["seed"]) if row["seed"] else None,
                parent=row["parent"],
            )
        )
    return tuple(records)


def _faults(records: Sequence[Record], pixels: np.ndarray) -> Iterable[str]:
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
        yield f"expected pixels (N, H, W, 1 or 3), got {pixels.shape}"
        return
    if pixels.dtype not in (np.uint8, np.uint16):
        yield f"expected uint8 or uint16 pixels, got {pixels.dtype}"
    if len(records) != len(pixels):
        yield f"{len(records)} records for {len(pixels)} images"
    if len({record.id for record in records}) != len(records):
        yield "two records have the same id"
    strange = {record.origin for record in records} - set(ORIGINS)
    if strange:
        yield f"unknown origin {', '.join(sorted(strange))}: expected one of {', '.join(ORIGINS)}"


def _mask_faults(pixels: np.ndarray, masks: np.ndarray | None) -> Iterable[str]:
    if masks is None:
        return
    if masks.shape != pixels.shape[:3] or masks.dtype != np.uint8:
        yield f"expected masks {pixels.shape[:3]} uint8, got {masks.shape} {masks.dtype}"
