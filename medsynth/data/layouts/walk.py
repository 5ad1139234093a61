"""Which files of a raw folder are images, by their names."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from ..readers import is_dicom

RASTERS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DICOM = (".dcm", ".dicom")
VOLUMES = (".nii", ".nii.gz")
ARRAYS = (".npz", ".h5", ".hdf5")
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".svslide", ".bif", ".vms", ".vmu", ".czi")
SUFFIXES = (*RASTERS, *DICOM, *VOLUMES, *ARRAYS, *SLIDES)


def walk(raw: Path) -> Iterator[str]:
    """Yield all files under a folder as relative posix paths, sorted; hidden ones are left out.

    Links to folders are not followed. One that leads out of the raw folder is yielded itself, so
    that what lies behind it is refused and not overlooked.
    """
    inside = os.path.realpath(raw)
    for folder, folders, names in os.walk(raw):
        folders[:] = sorted(name for name in folders if not is_hidden(name, folder=True))
        links = {name for name in folders if _leads_out(Path(folder) / name, inside)}
        here = Path(folder).relative_to(raw).as_posix()
        for name in sorted([*names, *links]):
            if not is_hidden(name, folder=name in links):
                yield name if here == "." else f"{here}/{name}"


def is_hidden(name: str, *, folder: bool) -> bool:
    """Return True for what a person does not see: names with a dot, and a Mac's shadow folders."""
    return name.startswith((".", "__MACOSX") if folder else ".")


def _leads_out(path: Path, folder: str) -> bool:
    return path.is_symlink() and not f"{os.path.realpath(path)}/".startswith(f"{folder}/")


def suffix_of(path: str) -> str:
    """Return a path's ending in lower case, ".nii.gz" and ".csv.gz" whole."""
    stem, suffix = posixpath.splitext(path.lower())
    return posixpath.splitext(stem)[1] + suffix if suffix == ".gz" else suffix


def stem_of(path: str) -> str:
    """Return a path's file name without its ending."""
    name = posixpath.basename(path)
    return name[: len(name) - len(suffix_of(name))]


def is_image_name(raw: Path, path: str) -> bool:
    """Return True for an image's ending, and for DICOM files without one or named by their UID."""
    suffix = suffix_of(path)
    if suffix in SUFFIXES or (raw / path).is_dir():  # a link to a folder outside
        return True
    if (suffix and not suffix[1:].isdigit()) or posixpath.basename(path) == "DICOMDIR":
        return False
    try:
        return (raw / path).is_file() and is_dicom(raw / path)
    except OSError:  # it can't be opened: whether it is an image, nobody knows
        return False
