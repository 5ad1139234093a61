"""DICOM headers without identity: PS3.15, Basic Application Level Confidentiality Profile.

    confidential, audit = apply(dataset, protocol.deidentify)

Which tag is removed, emptied or replaced is the table of the library dicom-anonymizer, edition
2024b, and single values are emptied and replaced by its actions. What it leaves undone is done
here: sequences are entered at every depth; private tags, tags that the standard does not define,
overlays, curves and whatever else may hold free text, a name or a date go, listed or not; colour
profiles lose their words; file meta and preamble are made anew; UIDs follow a keyed hash; flags and
method codes are written; and the words of all that was taken out are looked for in what stays.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..protocol import Deidentify
from .badimage import BadImage, silence
from .deidentify import keyed_uid, pseudonym
from .dicom_facts import patient_key
from .icc import without_words
from .ps315 import OURS, OVERLAYS, action, is_retained, tags
from .traces import Words, is_standard, readable

METHOD = f"medsynth {__version__}: PS3.15 Basic Application Confidentiality"
METHODS = {  # PS3.16, CID 7050
    "basic": ("113100", "Basic Application Confidentiality Profile"),
    "clean pixel data": ("113101", "Clean Pixel Data Option"),
    "full dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "patient characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device identity": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "institution identity": ("113112", "Retain Institution Identity Option"),
}
LAST_META = 0x00020016  # what comes after this names who sent the file
OLDEST = 89  # years; a higher age singles a person out (45 CFR 164.514(b)(2)(i)(C))
OVERLAY_BIT_POSITION = 0x0102
COUNTED = {
    "remove": "removed",
    "empty": "emptied",
    "replace": "replaced",
    "uid": "uids",
    "retain": "retained",
    "private": "private",
}


@dataclass(frozen=True)
class Audit:
    """What was done to one file, in counts and codes; it holds no value of any tag.

    Counts are of elements, sequences entered at every depth: `removed`, `emptied`, `replaced` by a
    dummy, `uids` remapped, `retained` by an option, `private` (removed, too), `nested` (of all
    these, inside sequences) and `traces` (kept tags that were blanked because they repeated an
    identifying word). `methods` are the codes of CID 7050, `declared_text` is the file's own
    BurnedInAnnotation: YES, NO or nothing. `regions` of text were found, `masked` of them.
    """

    removed: int = 0
    emptied: int = 0
    replaced: int = 0
    uids: int = 0
    retained: int = 0
    private: int = 0
    nested: int = 0
    traces: int = 0
    methods: tuple[str, ...] = ()
    declared_text: str = ""
    regions: int = 0
    masked: int = 0


def apply(dataset: Any, settings: Deidentify, *, secret: bytes | None = None) -> tuple[Any, Audit]:
    """Return a copy of a pydicom dataset without identity, and what was done; pixels are shared.

    With `secret`, UIDs and PatientID become keyed pseudonyms, so that links between the files of a
    study stay; without it they are emptied. Raises BadImage where that can't be done.
    """
    with silence():
        try:
            return _apply(dataset, settings, secret)
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # a damaged header may raise anything, and quote what it holds
            raise BadImage("truncated or damaged", f"header ({type(error).__name__})") from None


def residue(before: Any, after: Any, settings: Deidentify) -> list[str]:
    """Name the tags of `after` in which a word of what `before` must lose still stands."""
    with silence():
        walk = _Walk(settings.retain, secret=None)
        _file_meta(before, _cleaned(before, walk), walk.words)
        stayed = (element for element in _leaves(after) if walk.repeats(element))
        return sorted({element.keyword or "private" for element in stayed})


def check_declared_text(dataset: Any, settings: Deidentify) -> None:
    """Raise BadImage where a file declares burned-in text and the protocol refuses such files."""
    declared = _declared_text(dataset) == "YES"
    if declared and settings.declared_text == "quarantine":
        raise BadImage("burned-in annotation", "the file says that text is burned into its pixels")


def claim_clean_pixels(dataset: Any) -> None:
    """Write into a dataset that went through `apply` that its pixels were cleaned of text, too."""
    dataset.BurnedInAnnotation = "NO"
    dataset.DeidentificationMethodCodeSequence.append(_code("clean pixel data"))


# The walk ---------------------------------------------------------------------------------------


@dataclass
class _Walk:
    """What the walk through one file carries along: how to treat it, and what was met."""

    retain: tuple[str, ...]
    secret: bytes | None
    words: Words = field(default_factory=Words)
    counts: Counter = field(default_factory=Counter)

    def repeats(self, element: Any) -> bool:
        """Whether an element repeats a word that must go; what an option retains may share words
        with what is removed, but name nobody."""
        retained = is_retained(int(element.tag), element.VR, self.retain)
        return self.words.stay_in(element, names_only=retained)


def _apply(before: Any, settings: Deidentify, secret: bytes | None) -> tuple[Any, Audit]:
    walk = _Walk(settings.retain, secret)
    after = _cleaned(before, walk)
    after.file_meta = _file_meta(before, after, walk.words)
    if None not in before.original_encoding:
        after.set_original_encoding(*before.original_encoding, before.original_character_set)
    _blank_traces(after, walk)
    methods = _write_flags(after, settings)
    return after, Audit(**walk.counts, methods=methods, declared_text=_declared_text(before))


def _cleaned(before: Any, walk: _Walk, *, nested: int = 0) -> Any:
    """Return a new dataset of what may stay, and note the words of what may not."""
    from pydicom.dataset import Dataset

    after, seen = Dataset(), 0
    for element in readable(before):
        seen += 1
        what = action(int(element.tag), element.VR, walk.retain)
        _count(walk.counts, what, nested)
        if element.VR == "SQ" and what in ("keep", "retain"):
            after.add(_cleaned_sequence(element, walk))
            continue
        if what not in ("keep", "retain"):
            _note(element, walk.words)
        if what not in ("remove", "private"):
            _add(after, copy.copy(element), what, walk.secret)
    if walk.secret and "PatientID" in after:
        patient = patient_key(before)
        after.PatientID = pseudonym(walk.secret, "patient", patient) if patient else ""
    walk.counts["removed"] += len(before) - seen  # what can't be read is not kept
    return after


def _note(element: Any, words: Words) -> None:
    _refuse_hidden_overlay(element)
    if int(element.tag) not in tags(OURS):
        words.add(element)


def _count(counts: Counter, what: str, nested: int) -> None:
    if what != "keep":
        counts[COUNTED[what]] += 1
        counts["nested"] += nested


def _cleaned_sequence(element: Any, walk: _Walk) -> Any:
    from pydicom.dataelem import DataElement
    from pydicom.sequence import Sequence

    items = [_cleaned(item, walk, nested=1) for item in element.value]
    return DataElement(element.tag, "SQ", Sequence(items))


def _add(after: Any, element: Any, what: str, secret: bytes | None) -> None:
    """Put an element into `after` as its action leaves it."""
    from dicomanonymizer import simpledicomanonymizer as library

    after.add(element)
    if element.keyword == "ICCProfile":
        element.value = without_words(bytes(element.value or b"")) or b""
    elif element.keyword == "PatientAge" and what == "retain":
        element.value = _capped(str(element.value or ""))
    elif what == "uid":
        element.value = _other_uids(element.value, secret)
    elif what in ("empty", "replace"):
        if element.VR == "SQ":  # an item of dummies would say nothing and take part in searches
            element.value = []
            return
        try:
            (library.empty if what == "empty" else library.replace)(after, element.tag)
        except NotImplementedError:  # a VR for which the library knows no dummy
            del after[element.tag]


def _capped(age: str) -> str:
    years = re.fullmatch(r"(\d{3})Y", age.strip())
    return f"{OLDEST + 1:03d}Y" if years and int(years[1]) > OLDEST else age


def _other_uids(value: Any, secret: bytes | None) -> str | list[str]:
    """Remap one UID or several; those that the standard itself defines stay."""
    many = list(value) if not isinstance(value, str) and value else [value or ""]
    keyed = [
        uid if is_standard(uid) or not uid else keyed_uid(secret, uid) if secret else ""
        for uid in map(str, many)
    ]
    return keyed if len(keyed) > 1 and any(keyed) else keyed[0]


def _blank_traces(after: Any, walk: _Walk) -> None:
    for element in _leaves(after):
        if walk.repeats(element):
            element.value = ""
            walk.counts["traces"] += 1
            if walk.repeats(element):
                raise BadImage("truncated or damaged", "an identifying word can't be taken out")


def _leaves(dataset: Any) -> Iterator[Any]:
    """Yield all elements that are no sequence and not written by `apply`, at every depth."""
    yield from getattr(dataset, "file_meta", None) or ()
    for element in dataset:
        if int(element.tag) in tags(OURS):
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _leaves(item)
        else:
            yield element


# What is written anew ---------------------------------------------------------------------------


def _file_meta(before: Any, after: Any, words: Words) -> Any:
    """Return file meta that says how pixels are packed and what the object is; note the rest."""
    from pydicom.dataset import FileMetaDataset

    meta, old = FileMetaDataset(), getattr(before, "file_meta", None) or {}
    for name in ("MediaStorageSOPClassUID", "TransferSyntaxUID"):
        if old.get(name):
            setattr(meta, name, old.get(name))
    if after.get("SOPInstanceUID"):
        meta.MediaStorageSOPInstanceUID = after.SOPInstanceUID
    for element in old and readable(old):
        if element.keyword == "SourceApplicationEntityTitle" or element.tag > LAST_META:
            words.add(element)
    return meta


def _write_flags(after: Any, settings: Deidentify) -> tuple[str, ...]:
    methods = ["basic", *(option for option in METHODS if option in settings.retain)]
    dates = "UNMODIFIED" if "full dates" in settings.retain else "REMOVED"
    after.PatientIdentityRemoved = "YES"
    after.DeidentificationMethod = METHOD
    after.DeidentificationMethodCodeSequence = [_code(method) for method in methods]
    after.LongitudinalTemporalInformationModified = dates
    return tuple(METHODS[method][0] for method in methods)


def _code(method: str) -> Any:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodeMeaning = METHODS[method]
    item.CodingSchemeDesignator = "DCM"
    return item


# What an image may hide -------------------------------------------------------------------------


def _declared_text(dataset: Any) -> str:
    declared = str(dataset.get("BurnedInAnnotation") or "").strip().upper()
    return declared if declared in ("YES", "NO") else ""


def _refuse_hidden_overlay(element: Any) -> None:
    """Refuse pixels whose unused bits hold an overlay, as files of old scanners do."""
    tag = element.tag
    position = tag.group & 0xFF00 == OVERLAYS and tag.element == OVERLAY_BIT_POSITION
    if position and int(element.value or 0) > 0:
        raise BadImage("burned-in annotation", "an overlay lies in unused bits of its pixels")
