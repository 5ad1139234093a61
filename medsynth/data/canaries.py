"""Canaries: made-up images that are planted among the training images, to be looked for after.

A fair coin of its own says of each whether it is trained on. How well the trained model then tells
the two halves apart bounds from below what it could give away of a patient. They come in two
strengths, in turn: a *strong* one is a board of 8 x 8 cells, each channel black in half of them and
white in the others, a code that no other image bears; a *weak* one is a phantom of the domain, a
made-up patient near the others. Nothing in them comes from a person, and none is ever released.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import domains
from ..cohort import Cohort, Record
from ..runtime import derive_seed, read_json, write_json
from . import phantoms
from .loader import Frames

STRENGTHS = ("strong", "weak")
CELLS = 8
FOLDER, COINS = "canaries", "canaries.json"


@dataclass(frozen=True)
class Canaries:
    """All canaries, and which of them are trained on: `included` is (N,) bool."""

    cohort: Cohort
    included: np.ndarray

    @property
    def strengths(self) -> np.ndarray:
        """(N,) words of STRENGTHS."""
        return np.array([STRENGTHS[i % len(STRENGTHS)] for i in range(len(self.cohort))])

    def write(self, folder: Path) -> None:
        """Write the images and, in canaries.json, the ids of those that are trained on."""
        (folder / FOLDER).mkdir(exist_ok=True)
        self.cohort.write(folder / FOLDER)
        ids = [self.cohort.records[i].id for i in np.flatnonzero(self.included)]
        write_json(folder / COINS, {"count": len(self.cohort), "included": ids})

    @classmethod
    def read(cls, folder: Path) -> Canaries | None:
        """Read what `write` wrote; None where there are none."""
        if not (folder / COINS).exists():
            return None
        cohort, ids = Cohort.read(folder / FOLDER), set(read_json(folder / COINS)["included"])
        return cls(cohort, np.array([record.id in ids for record in cohort.records]))


def make(count: int, *, domain: str, size_px: int, bits: int, seed: int) -> Canaries:
    """Draw `count` canaries and toss their coins; the same arguments give the same ones.

    They have no label and no patient: each is somebody of its own.
    """
    own = derive_seed(seed, "canaries")
    images = [_draw(i, domain=domain, size_px=size_px, seed=own) for i in range(count)]
    pixels = np.stack(images)
    if bits == 16:
        pixels = pixels.astype(np.uint16) * 257
    records = tuple(Record(f"canary-{i + 1:04d}", "canary") for i in range(count))
    return Canaries(Cohort(domain, records, pixels), toss(count, seed=seed))


def toss(count: int, *, seed: int) -> np.ndarray:
    """Return (count,) bool: whether each canary is trained on, on a fair coin of its own.

    The coins have a seed of their own, so that they depend on nothing that is drawn or trained.
    """
    return np.random.default_rng(derive_seed(seed, "canaries", "coins")).random(count) < 0.5


def _draw(number: int, *, domain: str, size_px: int, seed: int) -> np.ndarray:
    """Draw one canary, (H, W, C) uint8."""
    if STRENGTHS[number % len(STRENGTHS)] == "weak":
        return phantoms.draw(domain, number, 0, seed, size_px)[0]
    rng = np.random.default_rng(derive_seed(seed, "code", number))
    half = np.repeat(np.array([0, 255], np.uint8), CELLS * CELLS // 2)
    codes = [rng.permutation(half) for _ in range(domains.domain(domain).channels)]
    board = np.stack(codes, -1).reshape(CELLS, CELLS, -1)
    cell = np.arange(size_px) * CELLS // size_px
    return board[cell][:, cell]


class Joined:
    """Training images with the canaries that are trained on after them, as Frames has images.

    A canary is a patient and a picture of its own, and has no label.
    """

    def __init__(self, frames: Frames, canaries: Canaries):
        self.frames = frames
        self.canaries = Frames(canaries.cohort, np.flatnonzero(canaries.included))

    def __len__(self) -> int:
        return len(self.frames) + len(self.canaries)

    def __getitem__(self, chosen: slice) -> np.ndarray:
        start, stop, _ = chosen.indices(len(self))
        first = len(self.frames)
        parts = [
            self.frames[slice(min(start, first), min(stop, first))],
            self.canaries[slice(max(start - first, 0), max(stop - first, 0))],
        ]
        return np.concatenate(parts)

    @property
    def patients(self) -> np.ndarray:
        """(N,) int64 patient numbers."""
        return self._numbered_on(self.frames.patients)

    @property
    def groups(self) -> np.ndarray:
        """(N,) int64 picture numbers."""
        return self._numbered_on(self.frames.groups)

    @property
    def labels(self) -> list[dict[str, str]]:
        """The labels of all images."""
        return self.frames.labels + self.canaries.labels

    def chunks(self, size: int) -> Iterator[np.ndarray]:
        """Give all images in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self[slice(start, start + size)]

    def _numbered_on(self, numbers: np.ndarray) -> np.ndarray:
        return np.concatenate([numbers, numbers.max() + 1 + np.arange(len(self.canaries))])
