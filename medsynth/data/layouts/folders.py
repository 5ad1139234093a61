"""Raw folders without a table: class folders, loose files and DICOM as a PACS exports it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from pathlib import Path

from ...errors import DataError
from ...protocol import Data
from ..dicom_facts import LABEL_KEYWORDS
from ..readers import is_dicom
from .folder import Folder
from .listing import Entry, chosen_labels, is_kept
from .members import expand, without_parts
from .walk import ARRAYS, RASTERS, SLIDES, VOLUMES, suffix_of

FOLDER_ATTRIBUTE = "label"
MOST_FOLDERS = 50  # more folders than this are patients or dates, not labels


def list_from_folders(folder: Folder, data: Data) -> tuple[list[Entry], set[str]]:
    """Return the images of a folder, and the paths that data.keep leaves out.

    An image's folder is its label; DICOM files have none, for their folders are patients, studies
    and series. Raises DataError where labels are asked for that only a table could give, or where
    the folders can't be labels.
    """
    images = without_parts(folder.raw, folder.images)
    labels = {path: folder_label(folder.raw, path) for path in images}
    _check_asked(folder, data)
    if len(set(labels.values())) > MOST_FOLDERS:
        raise DataError(
            f"{len(set(labels.values()))} folders hold images: that looks like patients or dates, "
            f"not like labels. Write a table {data.tables} with the columns {data.path_column}, "
            f"{data.patient_column or 'patient_id'} and the labels"
        )
    known = {path: {FOLDER_ATTRIBUTE: label} if label else {} for path, label in labels.items()}
    kept = [path for path, values in known.items() if is_kept(values, data.keep)]
    asked = data.model_copy(update={"label_columns": data.label_columns or (FOLDER_ATTRIBUTE,)})
    entries = [Entry(path, labels=chosen_labels(known[path], asked)) for path in kept]
    return list(expand(folder.raw, entries, data)), set(folder.images) - set(kept)


def folder_label(raw: Path, path: str) -> str:
    """Return an image's folder; "" for DICOM and for files that hold several images."""
    if suffix_of(path) in RASTERS and not is_dicom(raw / path):
        return posixpath.dirname(path)
    return ""


def _check_asked(folder: Folder, data: Data) -> None:
    """Labels come from the folders, or from the headers of DICOM files when they are read."""
    headers = label_keywords(folder.images)
    knobs = {
        "data.label_columns": (data.label_columns, headers),
        "data.keep": (data.keep, ()),
        "data.rename": (data.rename, headers),
    }
    for knob, (names, more) in knobs.items():
        if unknown := [name for name in names if name not in (FOLDER_ATTRIBUTE, *more)]:
            also = f", or of DICOM files {', '.join(more)}" if more else ""
            raise DataError(
                f"{knob} asks for {', '.join(unknown)}, but there is no table {data.tables} in "
                f"{folder.raw.name}/; without one it may name {FOLDER_ATTRIBUTE!r}, the image's "
                f"folder{also}"
            )


def label_keywords(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the labels that DICOM headers may give, none where no path may be a DICOM file's."""
    others = (*RASTERS, *VOLUMES, *ARRAYS, *SLIDES)
    return tuple(LABEL_KEYWORDS) if any(suffix_of(path) not in others for path in paths) else ()
