"""What PS3.15's Basic Application Level Confidentiality Profile does to each tag of an image.

The table is that of the library dicom-anonymizer, edition 2024b. Ours are the options, for which
the library has none, and what no table can list: private tags, tags that the standard does not
define, overlays, curves, and tags for free text, names and dates of other kinds.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

KEPT = {  # of the tags that an option of PS3.15, table E.1-1, keeps, those that images have
    "patient characteristics": (
        "EthnicGroup PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight "
        "PregnancyStatus SmokingStatus"
    ),
    "device identity": (
        "CassetteID DetectorID DeviceDescription DeviceSerialNumber DeviceUID GantryID GeneratorID "
        "LensMake LensModel LensSerialNumber PlateID StationName XRayDetectorID XRaySourceID"
    ),
    "institution identity": (
        "InstitutionAddress InstitutionCodeSequence InstitutionName InstitutionalDepartmentName "
        "InstitutionalDepartmentTypeCodeSequence"
    ),
    "full dates": "TimezoneOffsetFromUTC",
}
ACTIONS = {  # the library's action: ours. X/Z, Z/D and the like are resolved as the library does
    "delete": "remove",
    "empty": "empty",
    "delete_or_empty": "empty",
    "replace": "replace",
    "empty_or_replace": "replace",
    "delete_or_replace": "replace",
    "delete_or_empty_or_replace": "replace",
    "replace_UID": "uid",
    "delete_or_empty_or_replace_UID": "keep",  # a sequence of references, cleaned item by item
}
DATES = {"DA", "DT", "TM"}
FREE = DATES | {"AE", "LT", "PN", "ST", "UC", "UN", "UR", "UT"}  # removed where no table lists them
BYTES = {"OB", "OD", "OF", "OL", "OV", "OW"}
IMAGE_BYTES = re.compile(
    r"(Float|DoubleFloat|)PixelData|LUTData|\w*PaletteColorLookupTableData|ExtendedOffsetTable\w*"
    r"|ICCProfile"
)
PERSON = 0x0010  # the patient's group: full dates do not keep a day of birth
FILE_META = 0x0002
CURVES, OVERLAYS = 0x5000, 0x6000
OURS = (  # written by `apply`, and never taken over
    "PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence "
    "LongitudinalTemporalInformationModified"
)


@cache
def _rules(retain: tuple[str, ...]) -> dict[int, str]:
    """Return {tag: remove, empty, replace, uid or keep} of the profile with its options."""
    from dicomanonymizer.simpledicomanonymizer import initialize_actions_2024b
    from pydicom.datadict import dictionary_VR

    table = initialize_actions_2024b()
    rules = {
        tag[0] << 16 | tag[1]: ACTIONS[action.__name__]
        for tag, action in table.items()
        if len(tag) == 2  # longer ones are repeating groups, of which none is kept
    }
    kept = set(tags(" ".join(KEPT.get(option, "") for option in retain)))
    if "full dates" in retain:
        kept |= {t for t in rules if dictionary_VR(t) in DATES and t >> 16 != PERSON}
    if "uids" in retain:
        kept |= {tag for tag, action in rules.items() if action == "uid"}
    return rules | dict.fromkeys(kept, "retain")


@lru_cache(8192)
def action(tag: int, vr: str, retain: tuple[str, ...]) -> str:
    """Return what becomes of an element: remove, empty, replace, uid, retain, keep, private."""
    from pydicom.datadict import dictionary_has_tag, dictionary_keyword

    group = tag >> 16
    if group % 2:
        return "private"
    if tag in tags(OURS) or group & 0xFF00 in (CURVES, OVERLAYS) or not dictionary_has_tag(tag):
        return "remove"  # and what the standard does not know, nobody can vouch for
    listed = _rules(retain).get(tag)
    if listed:
        return "uid" if vr == "UI" and listed in ("empty", "replace") else listed
    if vr in DATES and _keeps_date(tag, retain):
        return "keep"
    image_bytes = IMAGE_BYTES.fullmatch(dictionary_keyword(tag))
    return "remove" if vr in FREE or (vr in BYTES and not image_bytes) else "keep"


def is_retained(tag: int, vr: str, retain: tuple[str, ...]) -> bool:
    """Return whether an element stays because an option of the protocol says so."""
    if not retain or tag >> 16 <= FILE_META:
        return bool(retain) and vr == "UI" and "uids" in retain
    if vr in DATES:
        return _keeps_date(tag, retain)
    return action(tag, vr, retain) == "retain"


def _keeps_date(tag: int, retain: tuple[str, ...]) -> bool:
    return "full dates" in retain and tag >> 16 != PERSON


@cache
def tags(keywords: str) -> frozenset[int]:
    """Return the tags of keywords that are parted by spaces."""
    from pydicom.datadict import tag_for_keyword

    return frozenset(tag_for_keyword(word) for word in keywords.split())
