"""Who is nearest, and how much nearer than the next patient."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .neighbours import Neighbours

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
    each other as well as can be) is always there and is what flags an image; "lens" goes by
    features of whole images, "local" by those of windows of them. The similarity of "registered"
    is the one before anything is bent.
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
    order = inside.argsort(descending=True, stable=True)  # equal ones as they come in the gallery
    chosen = [order[: min(count, int(part.sum()))]]
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
    shown = nearest if similarity is None else float(similarity[top])
    return top, int(patients[top]), shown, _score(nearest, second)


def judge_each(found: Neighbours, patients: torch.Tensor) -> list[Row]:
    """Return the nearest image of each query, of what stands nearest to it."""
    images, (nearest, second) = found.images[:, 0], found.lead[:, :2].T.tolist()
    people = patients[images].tolist()
    return [
        (image, patient, likeness, _score(likeness, other))
        for image, patient, likeness, other in zip(
            images.tolist(), people, nearest, second, strict=True
        )
    ]


def _score(nearest: float, second: float) -> float:
    return (1 - nearest + TOLERANCE) / (1 - second + TOLERANCE)


def collect(rows: Iterable[Mapping[str, Row]]) -> Found:
    """Put the rows of all queries, {space: row}, together."""
    rows = list(rows)
    return Found({space: _nearest([row[space] for row in rows]) for space in rows[0]})


def to_arrays(found: Mapping[str, Found]) -> dict[str, np.ndarray]:
    """Write {part: found} as arrays by "part/space/field"."""
    return {
        f"{part}/{space}/{field.name}": getattr(nearest, field.name)
        for part, each in found.items()
        for space, nearest in each.spaces.items()
        for field in fields(Nearest)
    }


def from_arrays(blocks: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Found]:
    """Put what `to_arrays` wrote of several blocks of queries together."""
    parts: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for name in blocks[0]:
        part, space, field = name.split("/")
        whole = np.concatenate([block[name] for block in blocks])
        parts.setdefault(part, {}).setdefault(space, {})[field] = whole
    return {
        part: Found({space: Nearest(**arrays) for space, arrays in spaces.items()})
        for part, spaces in parts.items()
    }


def union(lists: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the indices that are in any of the lists, sorted."""
    return torch.unique(torch.cat(list(lists)))


def _nearest(rows: list[Row]) -> Nearest:
    image, patient, similarity, score = zip(*rows, strict=True)
    return Nearest(
        np.array(image, np.int64),
        np.array(patient, np.int64),
        np.array(similarity),
        np.array(score),
    )
