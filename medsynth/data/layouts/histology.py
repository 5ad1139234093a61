"""Public sets of histology tiles."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .folder import TWO_COPIES, Folder
from .layout import Layout, whether
from .listing import Entry
from .tables import rows_of
from .walk import RASTERS, suffix_of

if TYPE_CHECKING:
    import numpy as np

TCGA = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")


# NCT-CRC-HE -------------------------------------------------------------------------------------

TISSUES = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")
FEWEST_TISSUES = 5


def _nct(folder: Folder) -> list[str]:
    """Tiles whose name begins with their folder's: TUM/TUM-AAAA.tif."""
    return [
        path
        for tissue in TISSUES
        for path in folder.by_folder.get(tissue, ())
        if suffix_of(path) in RASTERS and posixpath.basename(path).startswith(f"{tissue}-")
    ]


def _is_nct(folder: Folder) -> bool:
    tissues = {posixpath.basename(posixpath.dirname(path)) for path in _nct(folder)}
    return len(tissues) >= FEWEST_TISSUES


def _read_nct(folder: Folder) -> Iterator[Entry]:
    seen: dict[str, str] = {}
    for path in _nct(folder):
        name = posixpath.basename(path)
        if name in seen:
            raise DataError(f"{seen[name]} and {path}: {TWO_COPIES}")
        seen[name] = path
        yield Entry(path, "", {"tissue": posixpath.basename(posixpath.dirname(path))})


NCT_CRC_HE = Layout(
    name="nct_crc_he",
    title="NCT-CRC-HE-100K, its NONORM variant, and CRC-VAL-HE-7K",
    domain="histology",
    detect=_is_nct,
    read=_read_nct,
    attributes=("tissue",),
    propose=("tissue",),
    site="NCT Heidelberg and UMM Mannheim",
    caveats=(
        "NCT-CRC-HE names no patients: its 100,000 tiles are of 86 slides, so tiles of one "
        "person stand on both sides of every comparison.",
    ),
    notes=(
        "CRC-VAL-HE-7K is of 50 other patients; NONORM holds the tiles of 100K, not normalised.",
        "Its classes differ in JPEG artefacts and colour (arXiv 2409.11546).",
    ),
    source="Kather et al., PLOS Med 2019, doi 10.5281/zenodo.1214456",
    licence="CC BY 4.0",
)


# CRC MSI / MSS ----------------------------------------------------------------------------------

MSI_VERSIONS = (("MSIMUT", "MSS"), ("MSIH", "nonMSIH"))


def _msi(folder: Folder) -> Iterator[str]:
    for version in MSI_VERSIONS:
        tiles = {label: _rasters(folder.by_folder.get(label, ())) for label in version}
        if any(tiles.values()):
            yield from sorted(path for paths in tiles.values() for path in paths)


def _is_msi(folder: Folder) -> bool:
    return any(TCGA.search(posixpath.basename(path)) for path in _msi(folder))


def _rasters(paths: list[str] | tuple[()]) -> list[str]:
    return [path for path in paths if suffix_of(path) in RASTERS]


def _read_msi(folder: Folder) -> Iterator[Entry]:
    for path in _msi(folder):
        person = TCGA.search(posixpath.basename(path))
        label = posixpath.basename(posixpath.dirname(path))
        yield Entry(path, person[0] if person else "", {"msi": label})


CRC_MSI = Layout(
    name="crc_msi",
    title="CRC MSI/MSS, versions 1 and 2, and their stomach set",
    domain="histology",
    detect=_is_msi,
    read=_read_msi,
    attributes=("msi",),
    propose=("msi",),
    patients="the TCGA barcode in the file name, TCGA-XX-XXXX",
    site="TCGA: the barcode's first part is the tissue source site",
    notes=(
        "msi is MSIMUT or MSS in version 1, MSIH or nonMSIH in version 2: rename them where both "
        "are used.",
        "Version 2 is of the same TCGA patients as version 1.",
    ),
    source="Kather et al., Nat Med 2019, doi 10.5281/zenodo.2530835 and 10.5281/zenodo.3832231",
    licence="CC BY 4.0",
)


# PatchCamelyon ----------------------------------------------------------------------------------

PCAM = re.compile(r"camelyonpatch_level_2_split_(train|valid|test)_x\.h5(\.gz)?$")


def _pcam(folder: Folder) -> list[str]:
    return [path for path in folder.files if PCAM.search(path)]


def _read_pcam(folder: Folder) -> Iterator[Entry]:
    unpacked = [path for path in _pcam(folder) if path.endswith(".h5")]
    if not unpacked:
        raise DataError("PatchCamelyon's files end in .h5.gz: unpack them first, with gunzip")
    for path in unpacked:
        tumour = _pcam_labels(folder, path)
        slides = _pcam_slides(folder, path, len(tumour))
        for number, (slide, label) in enumerate(zip(slides, tumour, strict=True)):
            yield Entry(path, slide, {"tumour": whether(bool(label))}, number)


def _pcam_labels(folder: Folder, path: str) -> np.ndarray:
    other = path.removesuffix("_x.h5") + "_y.h5"
    if other not in folder.existing:
        raise DataError(f"{path}: its labels, {posixpath.basename(other)}, are not beside it")
    return _h5(folder, other, "y").reshape(-1)


def _pcam_slides(folder: Folder, path: str, count: int) -> list[str]:
    """Each tile's slide by the table beside it; without one no slide is known."""
    table = path.removesuffix("_x.h5") + "_meta.csv"
    if table not in folder.existing:
        return [""] * count
    slides = [row["wsi"] for row in rows_of(folder.table(table))]
    if len(slides) != count:
        raise DataError(f"{table}: {len(slides)} rows for {count} tiles")
    return slides


def _h5(folder: Folder, path: str, key: str) -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise DataError(
            f"{path}: reading .h5 needs h5py, which is not installed: pip install "
            f"'medsynth[formats]'"
        ) from None
    try:
        with h5py.File(folder.raw / path) as file:
            return file[key][:]
    except (OSError, KeyError) as error:
        raise DataError(f"{path}: no array {key!r} can be read ({type(error).__name__})") from None


PATCH_CAMELYON = Layout(
    name="patch_camelyon",
    title="PatchCamelyon",
    domain="histology",
    detect=lambda folder: bool(_pcam(folder)),
    read=_read_pcam,
    attributes=("tumour",),
    propose=("tumour",),
    patients="the slide in the _meta.csv beside each file",
    caveats=(
        "PatchCamelyon names slides and no patients: a slide counts as a patient, and nothing "
        "where the _meta.csv tables are absent.",
    ),
    notes=("tumour is positive where the middle 32 x 32 pixels hold tumour.",),
    source="Veeling et al., MICCAI 2018, arXiv 1806.03962",
    licence="CC0",
)

LAYOUTS = (NCT_CRC_HE, CRC_MSI, PATCH_CAMELYON)
