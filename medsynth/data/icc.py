"""ICC colour profiles without words: what they say of colours stays, all text and dates go.

Source: ICC.1:2022, clauses 7.2 (header), 7.3 (tag table) and 10 (types).
"""

from __future__ import annotations

HEADER, ENTRY, MOST_TAGS = 128, 12, 200
DATE, MAKER, CREATOR = slice(24, 36), slice(48, 56), slice(80, 100)  # CREATOR: and a digest
COLOURS = {  # types that hold numbers only
    *(b"XYZ ", b"curv", b"para", b"sf32", b"uf32", b"mft1", b"mft2", b"mAB ", b"mBA ", b"mpet"),
    *(b"chrm", b"meas", b"view", b"sig ", b"cicp", b"ui08", b"ui16", b"ui32"),
}
KEPT_OF_TEXT = {b"text": 8, b"desc": 12}  # bytes before the words: a type, a length


def without_words(profile: bytes) -> bytes | None:
    """Return a profile with its text, dates and unknown tags zeroed; None where it is damaged."""
    if len(profile) < HEADER + 4 or profile[36:40] != b"acsp":
        return None
    count = _number(profile, HEADER)
    table = HEADER + 4 + ENTRY * count
    if count > MOST_TAGS or table > len(profile):
        return None
    clean = bytearray(len(profile))
    clean[:table] = profile[:table]
    for place in (DATE, MAKER, CREATOR):
        clean[place] = bytes(place.stop - place.start)
    clean[100:HEADER] = bytes(HEADER - 100)
    for entry in range(HEADER + 4, table, ENTRY):
        start, size = _number(profile, entry + 4), _number(profile, entry + 8)
        if start < table or start + size > len(profile):
            return None
        kept = _kept(profile[start : start + size])
        clean[start : start + kept] = profile[start : start + kept]
    return bytes(clean)


def _kept(tag: bytes) -> int:
    """Return how many of a tag's first bytes say something of colours or of lengths."""
    kind = tag[:4]
    if kind in COLOURS:
        return len(tag)
    if kind == b"mluc" and len(tag) >= 16:  # a table of languages, then their texts
        return min(16 + 12 * _number(tag, 8), _number(tag, 24) if len(tag) >= 28 else len(tag))
    return min(KEPT_OF_TEXT.get(kind, 4), len(tag))


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
