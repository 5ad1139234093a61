"""What three folders have in common that they should not: pictures, and patients.

A picture on both sides of a comparison is found as the duplicates of one folder are
(duplicates.py), but counted only where two images of different folders are alike themselves: a
chain of images, each like the next, joins what is not alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..cohort import Cohort
from .duplicates import Links, find_links
from .likeness import SIDE, describe, symmetries
from .near import join


@dataclass(frozen=True, eq=False)
class Matches:
    """For each of N images, the image of another cohort that shows the same picture.

    `other` (N,) int64 is its index, -1 where there is none; `correlation` (N,) float32 of the two
    descriptions, 1 for an exact copy and below 0 for a negative; `exact` (N,) bool.
    """

    other: np.ndarray
    correlation: np.ndarray
    exact: np.ndarray

    @property
    def found(self) -> np.ndarray:
        """(N,) bool: there is such an image."""
        return self.other >= 0

    @property
    def counts(self) -> dict[str, int]:
        """How many images have an exact copy, and how many others a near one."""
        exact = int(self.exact.sum())
        return {"exact": exact, "near": int(self.found.sum()) - exact}


@dataclass(frozen=True, eq=False)
class Overlap:
    """What training, held-out and synthetic images have in common.

    `shared_patients` are pseudonyms that stand on both real sides. Matches are held-out images in
    training ones, synthetic images in training ones, and in the held-out ones that are left.
    `kept` (N,) bool says which these are: all but those of patients with an image in training.
    """

    shared_patients: frozenset[str]
    holdout_in_train: Matches
    synthetic_in_train: Matches
    synthetic_in_holdout: Matches
    kept: np.ndarray


def find_overlap(
    train: Cohort, holdout: Cohort, synthetic: Cohort, *, correlation: float
) -> Overlap:
    """Find what three cohorts of the same size and depth have in common.

    `correlation` is from where on two images are near-duplicates; 1 finds exact copies alone.
    """
    doubles = match(holdout.pixels, train.pixels, correlation=correlation)
    kept = ~np.isin(holdout.patients, holdout.patients[doubles.found])
    left = np.flatnonzero(kept)
    known = match(synthetic.pixels, holdout.pixels[left], correlation=correlation)
    names = [{record.patient for record in side.records} - {""} for side in (train, holdout)]
    return Overlap(
        shared_patients=frozenset(names[0] & names[1]),
        holdout_in_train=doubles,
        synthetic_in_train=match(synthetic.pixels, train.pixels, correlation=correlation),
        synthetic_in_holdout=replace(known, other=np.append(left, -1)[known.other]),
        kept=kept,
    )


def match(images: np.ndarray, among: np.ndarray, *, correlation: float) -> Matches:
    """Look `images` up `among` others, both (N, H, W, C) integers, in any turn or mirror image."""
    both = np.concatenate([among, images])
    links = find_links(both, correlation=correlation)
    rows = describe(both)
    other = np.full(len(both), -1, np.int64)
    likeness = np.zeros(len(both), np.float32)
    exact = np.zeros(len(both), bool)
    copies = _exact_groups(links)
    for members in _groups_on_both_sides(links.groups, len(among)):
        old, new = members[members < len(among)], members[members >= len(among)]
        for i in new:
            same = old[copies[old] == copies[i]]
            exact[i] = len(same) > 0
            nearest, value = (same[0], 1.0) if exact[i] else _nearest(rows, i, old)
            if exact[i] or (correlation < 1 and abs(value) >= correlation):
                other[i], likeness[i] = nearest, value
    chosen = slice(len(among), None)
    return Matches(other[chosen], likeness[chosen], exact[chosen])


def _exact_groups(links: Links) -> np.ndarray:
    """(N,) int: equal where two images are the same under a symmetry of the square."""
    return join(len(links.groups), links.pairs[links.exact])


def _groups_on_both_sides(groups: np.ndarray, border: int) -> list[np.ndarray]:
    linked = np.flatnonzero(groups >= 0)
    order = linked[np.argsort(groups[linked], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return [part for part in parts if len(part) and part.min() < border <= part.max()]


def _nearest(rows: np.ndarray, i: int, old: np.ndarray) -> tuple[int, float]:
    """Return which of `old` correlates most with image i, as it is or as a negative."""
    views = np.stack([view.ravel() for view in _views(rows[i])]).astype(np.float32)
    likeness = views @ rows[old].astype(np.float32).T
    best = int(np.abs(likeness).max(0).argmax())
    column = likeness[:, best]
    return int(old[best]), float(column[np.abs(column).argmax()])


def _views(row: np.ndarray):
    return symmetries(row.reshape(1, SIDE, SIDE))
