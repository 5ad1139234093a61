"""Words of a DICOM header that identify, and where they turn up again.

A profile removes tags, not words: a hospital's name that stood under InstitutionName may stand
under Manufacturer, too, and that tag is kept. So all words of what was taken out are looked for in
what stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableSequence
from dataclasses import dataclass, field
from typing import Any

SHORTEST = 3  # letters and digits; shorter words (a sex, a side, a unit) are everywhere
EMBEDDED = 5  # words at least this long are also found inside of longer ones
LONGEST_VALUE = 1024  # longer private values are programs' logs; their words name nobody
TEXTS = {"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
CODES = {
    "CodeValue",
    "CodeMeaning",
    "CodingSchemeDesignator",
    "CodingSchemeVersion",
    "MappingResource",
}
PERSON = 0x0010  # the group of the patient
DUMMIES = {  # what stands for a value that was taken out, here or upstream
    *("anonymized", "anonymous", "http", "invalid", "none", "unknown", "000y"),
    *("0000", "000000", "00010101", "00010101010101"),
}


def split(text: str) -> set[str]:
    """Return the words of a text: runs of letters and digits, small, of three and more."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return {word for word in words if len(word) >= SHORTEST}


# Words that the standard itself defines for code strings: a patient of that name is not named by
# them, and an image without them is read wrongly.
DEFINED = split(
    "original derived primary secondary axial localizer other projection mixed monochrome1 "
    "monochrome2 rgb palette color ybr full partial 422 420 ict rct identity inverse linear exact "
    "sigmoid for presentation processing yes iso 100 101 109 110 126 127 138 144 148 166 192 2022 "
    "gb18030 gbk chest breast abdomen head eye retina skull spine hand foot knee hip pelvis "
    "shoulder lung heart leg arm neck whole body left right"
)


@dataclass
class Words:
    """Words that identify: `names` stand for the patient and other persons, `uids` are whole."""

    names: set[str] = field(default_factory=set)
    every: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)

    def add(self, element: Any) -> None:
        """Take in the words of an element that must not stay, sequences at every depth."""
        if element.VR == "SQ":
            for item in element.value:
                for nested in readable(item):
                    self.add(nested)
        elif element.VR == "UI":
            self.uids.update(uid for uid in _values(element) if uid and not is_standard(uid))
        elif element.VR in TEXTS or element.VR == "UN":
            words = {word for text in _values(element) for word in split(text)} - DUMMIES
            self.every |= words
            if element.VR == "PN" or element.tag.group == PERSON:
                self.names |= words - DEFINED

    def stay_in(self, element: Any, *, names_only: bool = False) -> bool:
        """Return whether one of the words stands in an element that is no sequence.

        Numbers are not looked at. Code strings and codes are compared with names alone, for a
        description shares the words of the standard with them.
        """
        if element.VR == "UI":
            return not (names_only or self.uids.isdisjoint(_values(element)))
        if element.VR not in TEXTS:
            return False
        code = element.VR == "CS" or element.keyword in CODES
        wanted = self.names if code or names_only else self.every
        return any(_shares(text, wanted) for text in _values(element))


def is_standard(uid: str) -> bool:
    """Return whether a UID is one that the standard itself defines."""
    from pydicom.uid import UID_dictionary

    return uid in UID_dictionary


def readable(dataset: Any) -> Iterator[Any]:
    """Yield the elements of one level whose value can be read, and is a number where it must be."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # a value of the wrong kind may raise anything; nobody will keep it
            continue
        if element.VR not in ("DS", "IS") or not any(isinstance(v, str) for v in _many(element)):
            yield element  # what pydicom can't make a number of, it leaves as text


def _many(element: Any) -> list[Any]:
    value = element.value
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, MutableSequence) else [value]


def _values(element: Any) -> list[str]:
    if isinstance(element.value, bytes):
        return [element.value.decode("latin-1")] if len(element.value) <= LONGEST_VALUE else []
    return [str(value) for value in _many(element)]


def _shares(text: str, wanted: set[str]) -> bool:
    found = split(text) - DUMMIES
    if not wanted.isdisjoint(found):
        return True
    words = " ".join(found)
    return any(len(word) >= EMBEDDED and word in words for word in wanted)
