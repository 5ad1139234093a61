"""Raw folders without a table: class folders, loose files and DICOM as a PACS exports it."""

from __future__ import annotations

import posixpath
from pathlib import Path

from ...errors import DataError
from ...protocol import Data
from ..readers import is_dicom
from .folder import Folder
from .listing import Entry, chosen_labels, is_kept
from .walk import RASTERS, suffix_of

FOLDER_ATTRIBUTE = "label"
MOST_FOLDERS = 50  # more folders than this are patients or dates, not labels


def list_from_folders(folder: Folder, data: Data) -> tuple[list[Entry], set[str]]:
    """Return the images of a folder, and the paths that data.keep leaves out.

    An image's folder is its label; DICOM files have none, for their folders are patients, studies
    and series. Raises DataError where labels are asked for that only a table could give, or where
    the folders can't be labels.
    """
    labels = {path: folder_label(folder.raw, path) for path in folder.images}
    _check_asked(folder, data)
    if len(set(labels.values())) > MOST_FOLDERS:
        raise DataError(
            f"{len(set(labels.values()))} folders hold images: that looks like patients or dates, "
            f"not like labels. Write a table {data.tables} with the columns {data.path_column}, "
            f"{data.patient_column or 'patient_id'} and the labels"
        )
    known = {path: {FOLDER_ATTRIBUTE: label} if label else {} for path, label in labels.items()}
    kept = [path for path, values in known.items() if is_kept(values, data.keep)]
    renamed = data.model_copy(update={"label_columns": (FOLDER_ATTRIBUTE,)})
    entries = [Entry(path, labels=chosen_labels(known[path], renamed)) for path in kept]
    return entries, set(known) - set(kept)


def folder_label(raw: Path, path: str) -> str:
    """Return an image's folder; "" for DICOM and for files that hold several images."""
    if suffix_of(path) in RASTERS and not is_dicom(raw / path):
        return posixpath.dirname(path)
    return ""


def _check_asked(folder: Folder, data: Data) -> None:
    knobs = {
        "data.label_columns": data.label_columns,
        "data.keep": data.keep,
        "data.rename": data.rename,
    }
    for knob, names in knobs.items():
        if unknown := [name for name in names if name != FOLDER_ATTRIBUTE]:
            raise DataError(
                f"{knob} asks for {', '.join(unknown)}, but there is no table {data.tables} in "
                f"{folder.raw.name}/; without one the only label is {FOLDER_ATTRIBUTE!r}, the "
                f"image's folder"
            )
