"""All public data sets whose layout is known, by name; a new one is one more Layout."""

from __future__ import annotations

from collections import Counter

from ...errors import DataError
from ...protocol import Data
from . import chest_xray, fundus, histology, medmnist
from .folder import TWO_COPIES, Folder
from .folders import label_keywords
from .layout import Layout
from .listing import Entry, asked_in_vain, chosen_labels, is_kept, say_faults

NOT_AS_PUBLISHED = "the tables are not as they were published"
LAYOUTS: tuple[Layout, ...] = (
    *fundus.LAYOUTS,
    *chest_xray.LAYOUTS,
    *histology.LAYOUTS,
    *medmnist.LAYOUTS,
)


def layout(name: str) -> Layout:
    """Return a layout by name. Raises DataError that names all there are."""
    for one in LAYOUTS:
        if one.name == name:
            return one
    known = ", ".join(sorted(one.name for one in LAYOUTS))
    raise DataError(f"data.layout: there is no layout {name!r}; there are {known}")


def detect(folder: Folder) -> tuple[Layout, ...]:
    """Return the public data sets that a folder may be, mostly none or one."""
    return tuple(one for one in LAYOUTS if one.detect(folder))


def read(folder: Folder, one: Layout) -> list[Entry]:
    """Return all images of a public data set with all their attributes.

    Raises DataError where its files are not as published.
    """
    try:
        entries = list(one.read(folder))
    except KeyError as error:
        raise DataError(f"{one.title}: {NOT_AS_PUBLISHED}, {error} is missing") from None
    except (ValueError, IndexError) as error:
        raise DataError(f"{one.title}: {NOT_AS_PUBLISHED} ({type(error).__name__})") from None
    times = Counter((entry.path, entry.member) for entry in entries)
    for path, member in times:
        if times[path, member] > 1 and path in folder.existing:
            raise DataError(f"{path} is listed {times[path, member]} times: {TWO_COPIES}")
    return entries


def list_from_layout(
    folder: Folder, one: Layout, data: Data
) -> tuple[list[Entry], set[str], tuple[str, ...]]:
    """Return the images of a public data set with the labels that are asked for, the paths that
    data.keep leaves out, and what its tables name and is not there.

    Raises DataError where the folder does not hold the set, or where labels are asked for that it
    does not have.
    """
    if not one.detect(folder):
        raise DataError(
            f"data.layout is {one.name}, but {folder.raw.name}/ does not look like {one.title}; "
            f"docs/formats.md says what each layout goes by"
        )
    found = read(folder, one)
    _check_asked(one, found, data)
    there = [entry for entry in found if entry.path in folder.existing]
    kept = [entry for entry in there if is_kept(entry.labels, data.keep)]
    dropped = {entry.path for entry in there} - {entry.path for entry in kept}
    entries = [
        Entry(entry.path, entry.patient, chosen_labels(entry.labels, data), entry.member)
        for entry in kept
    ]
    missing = {entry.path for entry in found} - folder.existing
    return entries, dropped, tuple(sorted(missing))


def _check_asked(one: Layout, entries: list[Entry], data: Data) -> None:
    has = {name: None for entry in entries for name in entry.labels}
    headers = label_keywords(entry.path for entry in entries)
    faults = list(asked_in_vain(data, has, f"{one.name} has no attribute", headers=headers))
    if faults:
        known = ", ".join([*has, *headers]) or "no labels"
        raise DataError(say_faults(f"{one.name} has {known};", faults))
