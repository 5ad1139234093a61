"""Combinations of labels that few patients have: they could point at somebody, so none is drawn.

A combination that fewer than k patients have loses attributes, which become unknown, until at
least k have what is left. That holds for combinations that nobody has as well: else a gap among
them would tell of somebody.
Source: k-anonymity by suppression, Sweeney, Int J Uncertainty Fuzziness 10:571 (2002).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Labels = Mapping[str, str]
RAREST = 5
"""How many patients must have a combination, where a protocol does not say."""


@dataclass(frozen=True)
class LeftOut:
    """What `suppress` left out: of `combinations` that were to be drawn so many were `rare`, fewer
    than `rarest` patients having them, and so many of `images` have an attribute left unknown."""

    rarest: int
    combinations: int
    rare: int
    images_changed: int
    images: int

    @property
    def sentence(self) -> str:
        """Say it without naming any."""
        if self.rarest == 1:
            return "Labels: combinations of any rarity were drawn (sample.rarest: 1)."
        begin = (
            f"Labels: every combination in the table is one that at least {self.rarest} training "
            f"patients have. "
        )
        if not self.rare:
            return f"{begin}No rarer one was to be drawn."
        return (
            f"{begin}Of {self.combinations:,} that were to be drawn {self.rare:,} were rarer: "
            f"{self.images_changed:,} of {self.images:,} images have an attribute left unknown "
            f"instead."
        )


def suppress(
    wanted: Sequence[Labels], real: Sequence[Labels], patients: Sequence[int], *, rarest: int
) -> tuple[list[dict[str, str]], LeftOut]:
    """Return the wanted labels without what fewer than `rarest` patients have, and what that was.

    `real` are the labels of real images and `patients` whose they are. The attribute goes first
    whose loss leaves the most patients; of equal ones the first by name.
    """
    table = _Patients(real, patients)
    keys = [tuple(sorted(row.items())) for row in wanted]
    kept = {key: _common(key, table, rarest) for key in dict.fromkeys(keys)}
    told = LeftOut(
        rarest=rarest,
        combinations=len(kept),
        rare=sum(key != common for key, common in kept.items()),
        images_changed=sum(key != kept[key] for key in keys),
        images=len(keys),
    )
    return [dict(kept[key]) for key in keys], told


def common(real: Sequence[Labels], patients: Sequence[int], *, rarest: int) -> dict[str, list[str]]:
    """Return the values, by attribute, that at least `rarest` patients have."""
    table = _Patients(real, patients)
    found: dict[str, list[str]] = {}
    for attribute, value in sorted(table.has):
        if table.count([(attribute, value)]) >= rarest:
            found.setdefault(attribute, []).append(value)
    return found


class _Patients:
    """Counts the patients of whom an image has all of some labels."""

    def __init__(self, real: Sequence[Labels], patients: Sequence[int]):
        self.patients = np.asarray(patients, np.int64)
        self.has: dict[tuple[str, str], np.ndarray] = {}
        for i, row in enumerate(real):
            for pair in row.items():
                self.has.setdefault(pair, np.zeros(len(self.patients), bool))[i] = True

    def count(self, pairs: Sequence[tuple[str, str]]) -> int:
        rows = np.ones(len(self.patients), bool)
        for pair in pairs:
            rows = rows & self.has.get(pair, False)
        return len(np.unique(self.patients[rows]))


def _common(pairs: tuple, table: _Patients, rarest: int) -> tuple:
    while pairs and table.count(pairs) < rarest:
        fewer = [pairs[:i] + pairs[i + 1 :] for i in range(len(pairs))]
        pairs = max(fewer, key=table.count)
    return pairs
