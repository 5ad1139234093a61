"""Images that show the same picture: exact copies, and copies that were saved or exposed anew.

Two copies on both sides of a split would make the held-out patient look trained on, so linked
images are kept together, and count once in training. Exact copies are found by hash under the
eight symmetries of the square; near ones by the correlation of their descriptions (likeness.py),
looked for with an index (near.py) whose work grows about as the set does. Images without features
are linked to exact copies alone: glass is like glass.

At 64 px, of 4,898 chest radiographs, 73 retinas and 1,920 pieces of tissue: different people
stayed below 0.81, 0.75 and 0.38, different images of one person below 0.89. Chests and tissue that
were saved as JPEG (quality 30), resized by 0.5 to 2, given another gamma (0.6 to 1.6), contrast or
window, or inverted, stayed above 0.90, all of that at once in 895 of 900. Retinas did as JPEG and
resized (436 of 438), fewer windowed (67 of 73); what moves the edge of the field of view, as black
that was raised, hides a copy.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cohort import Record
from ..runtime import write_text
from .likeness import BLOCK_BYTES, describe, symmetries
from .near import join, near_pairs

COLUMNS = ("group", "first", "second", "kind", "correlation", "other_patient")


@dataclass(frozen=True, eq=False)
class Links:
    """Which of N images show the same picture, and by which pairs that is known.

    `groups` (N,) int64 number each image's group of duplicates in order of their first image, -1
    where it has none. `pairs` (M, 2) int64, first < second, join the groups without a ring, so
    that M is the number of images that could be left out. `correlations` (M,) float32 are 1 for
    exact copies, below 0 for negatives; `exact` (M,) bool. `featureless` is how many images have
    no detail to compare, and were linked to exact copies alone.
    """

    groups: np.ndarray
    pairs: np.ndarray
    correlations: np.ndarray
    exact: np.ndarray
    featureless: int

    @property
    def kinds(self) -> list[str]:
        """The kind of each pair: "exact", "near", or "negative" of one another."""
        near = np.where(self.correlations < 0, "negative", "near")
        return np.where(self.exact, "exact", near).tolist()


def find_links(pixels: np.ndarray, *, correlation: float) -> Links:
    """Find the duplicates among `pixels`, (N, H, W, C) integers, squares.

    Two images are linked where one is the other under a symmetry of the square, or where the
    absolute correlation of their descriptions under one is `correlation` or more; 1 asks for exact
    copies alone. Links are transitive.
    """
    exact = _exact_pairs(pixels)
    rows = describe(pixels)
    telling = rows.any(axis=1)
    near, likeness = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if correlation < 1:
        alone = telling.copy()
        alone[exact[:, 1]] = False  # one of several exact copies speaks for all
        numbers = np.flatnonzero(alone)
        near, likeness = near_pairs(rows[numbers], correlation=correlation)
        near = numbers[near]
    pairs = np.concatenate([exact, near])
    order = np.lexsort(pairs.T[::-1])
    correlations = np.concatenate([np.ones(len(exact), np.float32), likeness])
    return Links(
        groups=_number(join(len(pixels), pairs)),
        pairs=pairs[order],
        correlations=correlations[order],
        exact=(np.arange(len(pairs)) < len(exact))[order],
        featureless=int(len(telling) - telling.sum()),
    )


def link_duplicates(pixels: np.ndarray, *, correlation: float) -> np.ndarray:
    """Return (N,) int64: the number of each image's group of duplicates, -1 where it has none."""
    return find_links(pixels, correlation=correlation).groups


def write_links(path: Path, records: Sequence[Record], links: Links) -> None:
    """Write one row a pair: group, ids of both images, kind, correlation, whose they are.

    `other_patient` is "yes" where the pair has two pseudonyms, "unknown" where one has none. No
    name, path or pixel is written; but who holds the images can look them up.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (a, b), kind, value in zip(links.pairs, links.kinds, links.correlations, strict=True):
        first, second = records[a], records[b]
        row = (links.groups[a], first.id, second.id, kind, f"{value:.3f}")
        writer.writerow((*row, _other_patient(first, second)))
    write_text(path, text.getvalue())


def _other_patient(first: Record, second: Record) -> str:
    if not (first.patient and second.patient):
        return "unknown"
    return "no" if first.patient == second.patient else "yes"


# Exact copies -----------------------------------------------------------------------------------


def _exact_pairs(pixels: np.ndarray) -> np.ndarray:
    """Return (M, 2) int64: each image that is a copy, after the first of which it is one."""
    first: dict[bytes, int] = {}
    pairs = []
    for i in _suspects(pixels):
        known = first.setdefault(_key(pixels[i]), i)
        if known != i:
            pairs.append((known, i))
    return np.array(pairs, np.int64).reshape(-1, 2)


def _suspects(pixels: np.ndarray) -> list[int]:
    """Return the images that share what no symmetry changes: the sums of values and of squares."""
    size = max(1, BLOCK_BYTES // max(1, 8 * pixels[:1].size))
    sums = [row for i in range(0, len(pixels), size) for row in _sums(pixels[i : i + size])]
    seen: dict[bytes, int] = {}
    for row in sums:
        seen[row] = seen.get(row, 0) + 1
    return [i for i, row in enumerate(sums) if seen[row] > 1]


def _sums(pixels: np.ndarray) -> Iterator[bytes]:
    values = pixels.astype(np.int64)
    for one, two in zip(values.sum((1, 2)), (values * values).sum((1, 2)), strict=True):
        yield one.tobytes() + two.tobytes()


def _key(image: np.ndarray) -> bytes:
    views = symmetries(np.asarray(image)[None])
    return min(hashlib.sha256(np.ascontiguousarray(view)).digest() for view in views)


def _number(labels: np.ndarray) -> np.ndarray:
    """Number the labels that several images have, in order of their first image; others are -1."""
    _, first, inverse, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    shared = np.flatnonzero(sizes > 1)
    shared = shared[np.argsort(first[shared])]
    numbers = np.full(len(sizes), -1, np.int64)
    numbers[shared] = np.arange(len(shared))
    return numbers[inverse]
