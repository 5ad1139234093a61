"""An attack's results made of numbers, without a search: the truth is what a test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from known_truth import SETTINGS, make_case

from medsynth.cohort import Cohort, Record
from medsynth.validation import Case
from medsynth.validation.attack import Attack, Pool
from medsynth.validation.nearest import Found, Nearest
from medsynth.validation.statistics import conformal_threshold


def numbered(count: int, *, origin: str = "real", labels: Sequence[Mapping] = ()) -> Cohort:
    """A cohort of one pixel value an image; real images are of one patient each."""
    records = tuple(
        Record(f"{origin}-{i}", origin, "", labels[i] if labels else {}) for i in range(count)
    )
    pixels = np.arange(count * 64, dtype=np.uint16).reshape(count, 8, 8, 1)
    return Cohort("chest_xray", records, pixels)


def found(patients: np.ndarray, scores: np.ndarray) -> Found:
    """What a search found in one space, `registered`."""
    likeness = np.zeros(len(scores))
    return Found({"registered": Nearest(patients, patients, likeness, np.asarray(scores))})


def study(
    folder: Path,
    is_train: np.ndarray,
    nearest: np.ndarray,
    scores: np.ndarray,
    *,
    labels: Sequence[Mapping] = (),
    innocent: np.ndarray | None = None,
    hits: Mapping[str, tuple[int, int]] | None = None,
    **settings,
) -> tuple[Case, Attack]:
    """A case and its attack: patient p of the pool is trained on or not, image i is nearest to
    patient nearest[i]. `labels` are the patients', `hits` {change: (copies flagged, copies)}."""
    order = np.empty(len(is_train), np.int64)
    for side in (is_train, ~is_train):
        order[side] = np.arange(side.sum())
    sides = [
        numbered(
            int(side.sum()), labels=[labels[i] for i in np.flatnonzero(side)] if labels else ()
        )
        for side in (is_train, ~is_train)
    ]
    sides[1] = replace(
        sides[1], records=tuple(replace(r, id=f"held-{r.id}") for r in sides[1].records)
    )
    synthetic = numbered(len(scores), origin="synthetic")
    case = make_case(folder, *sides, synthetic, settings=SETTINGS.model_copy(update=settings))
    innocent = np.linspace(0.5, 1, 99) if innocent is None else innocent
    threshold, rate = conformal_threshold(innocent, case.settings.false_alarms)
    trained = int(np.flatnonzero(is_train)[0])
    copies = {}
    for name, (flagged, n) in (hits or {"exact": (10, 10)}).items():
        low = np.where(np.arange(n) < flagged, 0.0, 1.0)
        copies[name] = dict.fromkeys(("train", "everyone"), found(np.full(n, trained), low))
    pool = Pool(None, order, is_train, np.arange(len(is_train)))
    own = dict.fromkeys(("train", "everyone"), found(nearest, scores))
    held_out = found(np.full(len(innocent), trained), innocent)
    return case, Attack(pool, own, held_out, copies, threshold, rate)
