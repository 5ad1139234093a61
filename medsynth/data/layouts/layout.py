"""What a public data set's layout is: how it is recognised, what it gives and what it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .folder import Folder
from .listing import Entry

OLDEST = 120
AGGREGATED = 90  # ages from here on are told together: they are rare enough to name someone
SITE_UNKNOWN = "The data set does not say at which hospital an image was taken."
YES, NO = "positive", "negative"


@dataclass(frozen=True)
class Layout:
    """A public data set by name.

    `domain` is the kind of image, or says which it is for a folder.
    `detect` says whether a folder holds it, going by names of files and the column names of
    tables; `read` yields an Entry with all attributes for each image that its tables list, or that
    is there, with patient "" where the set knows none. An image that is not there has its bare
    name for a path. `patients` and `site` say how they are known, "" for not at all. `propose`
    are attributes and `keep` rows that a first protocol takes. `caveats` are said wherever the
    evidence is judged, `notes` only where a protocol is written.
    """

    name: str
    title: str
    domain: str | Callable[[Folder], str]
    detect: Callable[[Folder], bool]
    read: Callable[[Folder], Iterator[Entry]]
    attributes: tuple[str, ...] = ()
    patients: str = ""
    site: str = ""
    caveats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    propose: tuple[str, ...] = ()
    keep: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    def domain_of(self, folder: Folder) -> str:
        """Return the kind of image that a folder of this set holds."""
        return self.domain if isinstance(self.domain, str) else self.domain(folder)

    @property
    def limits(self) -> tuple[str, ...]:
        """What the set does not know, in sentences."""
        return self.caveats if self.site else (*self.caveats, SITE_UNKNOWN)


# Words that all sets share ----------------------------------------------------------------------


def known(**values: str) -> dict[str, str]:
    """Return the attributes whose value is known."""
    return {name: value for name, value in values.items() if value}


def age_band(years: str) -> str:
    """Return an age in years as ten years: "58" is "50-59", from 90 on "90+".

    "" where it is 0, which stands for missing in public sets, or no age that a person has.
    """
    digits = re.match(r"0*(\d+)", years)
    age = int(digits[1]) if digits else 0
    if not 0 < age <= OLDEST:
        return ""
    return "90+" if age >= AGGREGATED else f"{age // 10 * 10}-{age // 10 * 10 + 9}"


def sex_of(word: str) -> str:
    """Return "female" or "male" for a table's word, "" where it says neither."""
    return {"f": "female", "m": "male"}.get(word[:1].lower(), "")


def whether(said: bool) -> str:
    """Return a finding's word for yes or no."""
    return YES if said else NO
