"""A look at a raw folder before anything is done with it, and a protocol drafted from it.

Tables are read whole, of the images some hundred headers and a handful of pixels: enough to say
what there is and what it might be. All of it is a guess that a person corrects.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .badimage import BadImage
from .columns import FEWEST, TableGuess, guess_columns, read_tables, spread
from .headers import Header, peek
from .layouts.folders import FOLDER_ATTRIBUTE, MOST_FOLDERS
from .layouts.walk import SUFFIXES, is_image_name, walk
from .options import ReadOptions
from .readers import read_image, to_channels

if TYPE_CHECKING:
    import pandas as pd

HEADERS, LOOKS = 300, 16  # how many headers and images are looked at
LOOK_PIXELS = 50_000_000
DARK = 0.1  # corners below this, 0 to 1, are the black around a retina


@dataclass(frozen=True)
class Survey:
    """What a raw folder looks like. Sizes are (smallest, median, largest) in pixels.

    `images` are those that tables name, `unlisted` further image files; without a table all count
    as images. `headers` of them were read, `unreadable` of them in vain. `patients` is None where
    no patient is known; for DICOM without a table it counts the headers that were read.
    `labels` counts values by attribute.
    """

    folder: str
    images: int
    unlisted: int
    headers: int
    unreadable: int
    formats: dict[str, int]
    height_px: tuple[int, int, int]
    width_px: tuple[int, int, int]
    bits: tuple[int, ...]
    stored_grey: int
    modalities: dict[str, int]
    tables: tuple[TableGuess, ...]
    patients: int | None
    patients_from: str
    labels: dict[str, dict[str, int]]
    domain: str
    domain_because: str

    @property
    def listing(self) -> TableGuess | None:
        """The table to go by, None where no table names files."""
        return next((table for table in self.tables if table.path_column), None)

    def sentences(self) -> list[str]:
        """Say for people what was seen, one sentence a thing."""
        return [line for line in _sentences(self) if line]


def survey(raw: Path, tables: str = "labels.csv") -> Survey:
    """Look at a raw folder; `tables` is the name that its tables would have.

    Raises DataError where there is no image.
    """
    if not raw.is_dir():
        raise DataError(f"{raw.name} is no folder: expected a folder with images")
    files = list(walk(raw))
    images = [path for path in files if is_image_name(raw, path)]
    if not images:
        raise DataError(f"no image in {raw.name}/: looked for files ending in {' '.join(SUFFIXES)}")
    frames = list(read_tables(raw, files, tables))
    guesses = tuple(guess_columns(raw, name, frame) for name, frame in frames)
    listed = _listed(frames, guesses)
    chosen = _chosen(raw, listed) or images
    seen = [peek(raw / path) for path in spread(chosen, HEADERS)]
    headers = [header for header in seen if header]
    patients, patients_from = _count_patients(listed, headers)
    domain, because = _guess_domain([raw / path for path in spread(chosen, LOOKS)], headers)
    return Survey(
        folder=raw.name,
        images=len(chosen),
        unlisted=len(set(images) - set(chosen)),
        headers=len(seen),
        unreadable=len(seen) - len(headers),
        formats=dict(Counter(header.format for header in headers).most_common()),
        height_px=_range([header.height for header in headers]),
        width_px=_range([header.width for header in headers]),
        bits=tuple(sorted({header.bits for header in headers})),
        stored_grey=sum(header.grey for header in headers),
        modalities=dict(Counter(h.modality for h in headers if h.modality).most_common()),
        tables=guesses,
        patients=patients,
        patients_from=patients_from,
        labels=_count_labels(listed, images, headers),
        domain=domain,
        domain_because=because,
    )


# Tables -----------------------------------------------------------------------------------------


def _listed(frames: Sequence[tuple[str, pd.DataFrame]], guesses: Sequence[TableGuess]) -> list:
    """Return (table, guess) of the tables that list images under the same file name."""
    pairs = [(table, g) for (_, table), g in zip(frames, guesses, strict=True) if g.path_column]
    first = posixpath.basename(pairs[0][1].path) if pairs else ""
    return [pair for pair in pairs if posixpath.basename(pair[1].path) == first]


def _chosen(raw: Path, listed: list) -> list[str]:
    """Return the images that tables name and that exist, relative to the raw folder, sorted."""
    paths = {
        posixpath.normpath(posixpath.join(posixpath.dirname(guess.path), cell))
        for table, guess in listed
        for cell in table[guess.path_column]
        if cell
    }
    return sorted(path for path in paths if not path.startswith("..") and (raw / path).is_file())


def _count_patients(listed: list, headers: Sequence[Header]) -> tuple[int | None, str]:
    known = {c for table, g in listed if g.patient_column for c in table[g.patient_column] if c}
    if known:
        return len(known), "tables"
    known = {header.patient for header in headers if header.patient}
    return (len(known), "DICOM headers") if known else (None, "nothing")


def _count_labels(
    listed: list, images: list[str], headers: Sequence[Header]
) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter] = {}
    for table, guess in listed:
        for column in guess.label_columns:
            counts.setdefault(column, Counter()).update(c for c in table[column] if c)
    if not listed and not any(header.format == "DICOM" for header in headers):
        folders = Counter(folder for path in images if (folder := posixpath.dirname(path)))
        if FEWEST <= len(folders) <= MOST_FOLDERS:
            counts[FOLDER_ATTRIBUTE] = folders
    return {name: dict(sorted(count.items())) for name, count in counts.items()}


# What it might be -------------------------------------------------------------------------------


def _guess_domain(paths: Iterable[Path], headers: Sequence[Header]) -> tuple[str, str]:
    images = list(_look(paths))
    if headers and all(header.grey for header in headers):
        return "chest_xray", "the images are grey"
    if images and sum(_is_grey(image) for image in images) > len(images) / 2:
        return "chest_xray", "the images are grey, stored as colour"
    if images and np.median([_corners(image) for image in images]) < DARK:
        return "fundus", "the images are coloured with black corners"
    return "histology", "the images are coloured to their edges"


def _look(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            yield read_image(path, ReadOptions(LOOK_PIXELS, frame=0))
        except BadImage:
            continue


def _is_grey(image: np.ndarray) -> bool:
    try:
        return len(to_channels(image, 1)) == 1
    except BadImage:
        return False


def _corners(image: np.ndarray) -> float:
    """Mean brightness of the corners, squares of a twentieth of the short side."""
    side = max(1, min(image.shape[1:]) // 20)
    rows = np.concatenate([image[:, :side], image[:, -side:]], axis=1)
    return float(np.concatenate([rows[..., :side], rows[..., -side:]], axis=2).mean())


def _range(values: list[int]) -> tuple[int, int, int]:
    return (min(values), median_low(values), max(values)) if values else (0, 0, 0)


# For people -------------------------------------------------------------------------------------


def _sentences(s: Survey) -> Iterator[str]:
    kinds = ", ".join(f"{count} {name}" for name, count in s.formats.items())
    yield f"{s.images} images in {s.folder}/; of the {s.headers} looked at: {kinds}."
    if s.unlisted:
        yield f"{s.unlisted} more image files are named by no table and would be left out."
    if s.unreadable:
        yield f"{s.unreadable} of {s.headers} headers can't be read."
    depth = " and ".join(map(str, s.bits))
    colour = s.headers - s.unreadable - s.stored_grey
    yield (
        f"Width {_span(s.width_px)} px, height {_span(s.height_px)} px, {depth} bits; "
        f"{s.stored_grey} stored as grey, {colour} as colour."
    )
    if s.modalities:
        yield "DICOM modalities: " + ", ".join(f"{n} {m}" for m, n in s.modalities.items()) + "."
    yield from map(_table_sentence, s.tables)
    if not s.listing:
        yield "No table names image files, so every image file would be taken."
    for name, counts in s.labels.items():
        top = sorted(counts.items(), key=lambda item: -item[1])[:6]
        more = ", ..." if len(counts) > 6 else ""
        yield f"{name}: " + ", ".join(f"{value} ({count})" for value, count in top) + more + "."
    yield _patient_sentence(s)
    yield f"A guess, for {s.domain_because}: {s.domain}."


def _span(values: tuple[int, int, int]) -> str:
    low, middle, high = values
    return str(low) if low == high else f"{low} to {high} (median {middle})"


def _table_sentence(table: TableGuess) -> str:
    text = f"Table {table.path}: {table.rows} rows with {', '.join(table.columns)}"
    if table.path_column is None:
        return text + "; no column names files that are there."
    return text + f"; {table.path_column} names the files."


def _patient_sentence(s: Survey) -> str:
    if s.patients is None:
        return (
            "No patient is known: each image would count as a patient of its own, and what can be "
            "said is about images, not about people."
        )
    return f"{s.patients} patients, as the {s.patients_from} say."


# A protocol to edit -----------------------------------------------------------------------------

PROPOSED_RULES = (
    {"finding": "memorization.p_value", "not_rejected_at": 0.05},
    {"finding": "memorization.copy_rate", "at_most": 0.05},
    {"finding": "memorization.recall", "at_least": 0.5},
)


def draft_protocol(seen: Survey, name: str, base: Mapping[str, Any] | None = None) -> str:
    """Write a protocol's YAML for a surveyed folder, to be edited by a person.

    `base` holds further sections (a recipe's networks and training), taken as they are; its
    `gate` is the proposal. The gate stays commented out, so that loading the draft fails until a
    person has decided on it.
    """
    base = dict(base or {})
    rules = base.pop("gate", {}).get("rules", PROPOSED_RULES)
    image = {"size_px": 64, "bits": 8, **base.pop("image", {})}
    own = ("name", "domain", "data", "split", "seed", "profiles")
    rest = {key: value for key, value in base.items() if key not in own}
    blocks = [
        "# Drafted by looking at the folder; every line is a guess for a person to correct.",
        *(f"# {line}" for line in seen.sentences()),
        "",
        f"name: {json.dumps(name)}",
        f"domain: {seen.domain}  # a guess: {seen.domain_because}",
        f"seed: {int(base.get('seed', 0))}",
        "",
        _block("image", image),
        _data_block(seen),
        _split_block(seen, base.get("split")),
        *(_block(key, value) for key, value in rest.items()),
        _gate_block(rules),
    ]
    return "\n".join(blocks)


def _block(name: str, values: Mapping[str, Any]) -> str:
    lines = [f"  {key}: {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"{name}:", *lines, ""])


def _data_block(seen: Survey) -> str:
    table = seen.listing
    values: dict[str, Any] = {"patient_column": None, "label_columns": list(seen.labels)}
    if table is not None:
        tables = posixpath.basename(table.path)
        values |= {"tables": tables, "path_column": table.path_column}
        values["patient_column"] = table.patient_column
    return _block("data", values)


def _split_block(seen: Survey, split: Mapping[str, Any] | None) -> str:
    from .split import foresee

    values = {"validation": 0.1, "holdout": 0.4, **(split or {})}
    units = seen.patients if seen.patients_from == "tables" and seen.patients else seen.images
    holdout = round(units * values["holdout"])
    train = units - holdout - round(units * values["validation"])
    if min(train, holdout) < 1:
        return "# Too few patients to hold any out.\n" + _block("split", values)
    return f"# {foresee(train, holdout).sentence}\n" + _block("split", values)


def _gate_block(rules: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "# What must hold before anything leaves. A person writes it before the data is seen:",
        "# read docs/measures.md, decide on every rule, and take the # away.",
        "# gate:",
        "#   rules:",
        *(f"#     - {json.dumps(dict(rule))}" for rule in rules),
    ]
    return "\n".join(lines) + "\n"
