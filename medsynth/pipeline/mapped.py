"""Which images of a run have control maps, and these maps: found by filters, or read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data import controls
from ..data.deidentify import read_or_make_secret
from ..data.loader import Frames
from ..protocol import Protocol
from ..runtime import digest_files, digest_json
from .run import Run, parts_of


@dataclass(frozen=True)
class Masks:
    """Where masks lie, and the images of the run, whose names they have."""

    folder: Path
    raw: Path

    @property
    def digest(self) -> str:
        return digest_json(digest_files(self.folder))


@dataclass(frozen=True, eq=False)
class Mapped:
    """Some images of a run and their stacked maps (N, K, H, W) uint8."""

    frames: Frames
    maps: np.ndarray
    values: tuple[int, ...]


def mapped(run: Run, masks: Masks | None, parts: tuple[str, ...]) -> dict[str, Mapped]:
    """Return the images of each part and their maps; of images without a mask, none."""
    cohort, chosen = parts_of(run)
    kinds, values = run.protocol.control.kinds, ()
    aligned = np.arange(len(cohort))
    if masks is not None:
        from ..data.masks import align

        secret = read_or_make_secret(run.folder / "site.key")
        aligned, shares, values = align(
            cohort.records, masks.raw, masks.folder, secret, run.protocol
        )
        place = {int(number): i for i, number in enumerate(aligned)}
    found = {}
    for part in parts:
        frames = Frames(cohort, chosen[part][np.isin(chosen[part], aligned)])
        if part == "holdout":
            frames = _some(frames, run.protocol)
        given = {}
        if masks is not None:
            rows = [place[int(number)] for number in frames.chosen]
            given[controls.MASK] = shares[rows].astype(np.float32) / 255
        found[part] = Mapped(frames, _pack(stack(frames[:], kinds, given)), values)
    return found


def _some(frames: Frames, study: Protocol) -> Frames:
    """Take at most control.images images, drawn at random."""
    most = study.control.images
    order = np.random.default_rng(study.seed).permutation(len(frames))[:most]
    return Frames(frames.cohort, frames.chosen[np.sort(order)])


def stack(images: np.ndarray, kinds: Sequence[str], given: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return stacked maps (N, K, H, W): those given by kind, and what filters find in images."""
    rows = [given[kind] if kind in given else controls.extract(images, (kind,)) for kind in kinds]
    return np.concatenate(rows, axis=1)


def _pack(maps: np.ndarray) -> np.ndarray:
    return np.rint(maps * 255).astype(np.uint8)
