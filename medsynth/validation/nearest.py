"""Who is nearest, and how much nearer than the next patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

PATIENTS = 4  # at least so many patients among the candidates
NEVER = -2.0  # under every correlation
TOLERANCE = 1e-3  # distances below this are equal for all purposes


@dataclass(frozen=True)
class Nearest:
    """For each of Q images: the most similar real image, its patient, likeness and score.

    score = distance to the nearest patient / distance to the second nearest, in [0, 1]:
    0 = a copy, 1 = no nearer to one person than to the next. Likeness alone would accuse every
    smooth or shrunken generator; the ratio does not (PRIVACY.md).
    """

    image: np.ndarray
    patient: np.ndarray
    similarity: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Found:
    """The nearest in each space, a way of measuring likeness: "registered" (structure, laid over
    each other as well as can be) is always there and is what flags an image, "lens" goes by
    features. The similarity of "registered" is the one before anything is bent.
    """

    spaces: Mapping[str, Nearest]

    @property
    def registered(self) -> Nearest:
        return self.spaces["registered"]

    @property
    def lens(self) -> Nearest:
        return self.spaces["lens"]


Row = tuple[int, int, float, float]
"""Image, patient, similarity and score of one query's nearest."""


def best(
    likeness: torch.Tensor, patients: torch.Tensor, part: torch.Tensor, count: int
) -> torch.Tensor:
    """Return the indices of the `count` most similar images of a part, and of the best image of
    each of its PATIENTS most similar patients, so that there is always a second patient."""
    inside = torch.where(part, likeness, NEVER)
    chosen = [inside.topk(min(count, int(part.sum()))).indices]
    rest = inside.clone()
    for _ in range(PATIENTS):
        top = int(rest.argmax())
        if rest[top] == NEVER:
            break
        chosen.append(torch.tensor([top], device=rest.device))
        rest[patients == patients[top]] = NEVER
    return torch.unique(torch.cat(chosen))


def judge(
    likeness: torch.Tensor,
    patients: torch.Tensor,
    part: torch.Tensor,
    *,
    similarity: torch.Tensor | None = None,
) -> Row:
    """Return the nearest image of a part; its similarity is its likeness, if no other is given."""
    inside = torch.where(part, likeness, NEVER)
    top = int(inside.argmax())
    others = torch.where(patients == patients[top], NEVER, inside)
    nearest, second = float(inside[top]), float(others.max())
    score = (1 - nearest + TOLERANCE) / (1 - second + TOLERANCE)
    shown = nearest if similarity is None else float(similarity[top])
    return top, int(patients[top]), shown, score


def collect(rows: Iterable[Mapping[str, Row]]) -> Found:
    """Put the rows of all queries, {space: row}, together."""
    rows = list(rows)
    return Found({space: _nearest([row[space] for row in rows]) for space in rows[0]})


def union(lists: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the indices that are in any of the lists, sorted."""
    return torch.unique(torch.cat(list(lists)))


def only(chosen: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return (N,) bool, True at the chosen indices."""
    mask = torch.zeros(len(like), dtype=torch.bool, device=like.device)
    mask[chosen] = True
    return mask


def _nearest(rows: list[Row]) -> Nearest:
    image, patient, similarity, score = zip(*rows, strict=True)
    return Nearest(
        np.array(image, np.int64),
        np.array(patient, np.int64),
        np.array(similarity),
        np.array(score),
    )
