"""Is this the same person? A likeness that is learnt from patients who have several images.

A linear discriminant: of small grey images, the directions in which patients differ more than the
images of one patient do. It is learnt from training and held-out patients alike, and every patient
is judged by a likeness that was learnt without them, so that what it can do is what it can do to
people it never saw.
Sources: Fisher, Ann. Eugen. 7 (1936); that chest radiographs tell who they are of: Packhaeuser et
al., Sci. Rep. 12 (2022), arXiv 2103.08562.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .nearest import NEVER, TOLERANCE

SIDE_PX = 16
COMPONENTS = 64
SHRINKAGE = 0.1  # of the scatter within patients towards a ball
FOLDS = 5
BLOCK = 256

Embed = Callable[[np.ndarray], np.ndarray]
"""(N, D) rows -> (N, K) of length 1: the larger the product of two, the likelier one person."""


@dataclass(frozen=True)
class Match:
    """For each of Q images: the person it resembles most and the score, as `nearest.Nearest`:
    0 = as near as can be to one person, 1 = no nearer than to the next."""

    patient: np.ndarray
    score: np.ndarray


def small(images: np.ndarray) -> np.ndarray:
    """Return (N, 256) float32: grey, reduced to 16 px, brightness and contrast taken off.

    `images` are (N, C, H, W) floats in [-1, 1].
    """
    grey = torch.from_numpy(np.ascontiguousarray(images.mean(1, keepdims=True), np.float32))
    mode = {"mode": "bilinear", "antialias": True, "align_corners": False}
    rows = F.interpolate(grey, size=(SIDE_PX, SIDE_PX), **mode).flatten(1).numpy()
    rows = rows - rows.mean(1, keepdims=True)
    return rows / (rows.std(1, keepdims=True) + 1e-6)


def learn(rows: np.ndarray, patients: np.ndarray) -> Embed:
    """Learn a likeness from (N, D) rows of patients, some of whom have several.

    Every patient weighs the same in the scatter within patients, whoever has many images.
    """
    middle, axes = rows.mean(0), _principal(rows)
    seen = (rows - middle) @ axes
    numbers = np.unique(patients, return_inverse=True)[1]
    counts = np.bincount(numbers)
    sums = np.zeros((len(counts), seen.shape[1]))
    np.add.at(sums, numbers, seen)
    several = counts[numbers] > 1
    apart = (seen - (sums / counts[:, None])[numbers])[several]
    weight = 1 / (counts[numbers][several] - 1)
    scatter = (apart * weight[:, None]).T @ apart / max(1, int((counts > 1).sum()))
    ball = np.eye(len(scatter)) * np.trace(scatter) / len(scatter)
    values, vectors = np.linalg.eigh((1 - SHRINKAGE) * scatter + SHRINKAGE * ball + 1e-9 * ball)
    weights = axes @ (vectors / np.sqrt(np.maximum(values, 1e-12)))

    def embed(others: np.ndarray) -> np.ndarray:
        found = (others - middle) @ weights
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    return embed


@dataclass(frozen=True)
class Eye:
    """A likeness that was learnt, and the real images as it sees them (N, K), with their
    patients (N,)."""

    embed: Embed
    gallery: np.ndarray
    patients: np.ndarray

    @classmethod
    def learnt(cls, rows: np.ndarray, patients: np.ndarray, part: np.ndarray) -> Eye:
        """Learn from a part, (N,) bool, of the (N, D) rows, and look at all of them."""
        embed = learn(rows[part], patients[part])
        return cls(embed, embed(rows), patients)

    def find(self, rows: np.ndarray, part: np.ndarray, *, but: np.ndarray | None = None) -> Match:
        """Say whom each of the rows (V, Q, D), shown in V ways, resembles most among a part.

        `but` are (Q,) indices of the images that a query must not be compared with: itself.
        """
        inside, people = self.gallery[part], self.patients[part]
        place = np.full(len(part), -1)
        place[part] = np.arange(part.sum())
        found = Match(np.empty(rows.shape[1], np.int64), np.empty(rows.shape[1]))
        for start in range(0, rows.shape[1], BLOCK):
            few = slice(start, start + BLOCK)
            like = np.max([self.embed(way[few]) @ inside.T for way in rows], axis=0)
            if but is not None:
                own = place[but[few]]
                like[np.flatnonzero(own >= 0), own[own >= 0]] = NEVER
            who = people[like.argmax(1)]
            second = np.where(people[None] == who[:, None], NEVER, like).max(1)
            found.patient[few] = who
            found.score[few] = (1 - like.max(1) + TOLERANCE) / (1 - second + TOLERANCE)
        return found


def divide(patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (P,) fold numbers for patients 0 to P - 1; those who have several images are spread
    evenly."""
    counts = np.bincount(patients)
    order = rng.permutation(len(counts))
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    folds = np.empty(len(counts), np.int64)
    folds[order] = np.arange(len(counts)) % FOLDS
    return folds


def pair_ranks(seen: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Return for each patient with several of the (N, K) images how their pairs rank among pairs
    of different patients: 1 = every pair of theirs is more alike, 0.5 = by chance."""
    first, second = np.triu_indices(len(seen), 1)
    like = (seen @ seen.T)[first, second]
    same = patients[first] == patients[second]
    others = np.sort(like[~same])
    if not same.any() or not len(others):
        return np.zeros(0)
    ends = [np.searchsorted(others, like[same], side=side) for side in ("left", "right")]
    ranks = (ends[0] + ends[1]) / (2 * len(others))
    numbers = np.unique(patients[first[same]], return_inverse=True)[1]
    return np.bincount(numbers, ranks) / np.bincount(numbers)


def _principal(rows: np.ndarray) -> np.ndarray:
    """Return (D, K): the directions in which rows differ most."""
    triangle = np.linalg.qr(np.asarray(rows - rows.mean(0), np.float64), mode="r")
    _, sizes, directions = np.linalg.svd(triangle, full_matrices=False)
    held = sizes > 1e-6 * max(sizes[0], 1e-12)
    return directions[held][:COMPONENTS].T
