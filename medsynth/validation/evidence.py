"""The private page of the memorization measure: who resembles whom. It stays in the hospital."""

from __future__ import annotations

import csv
import io

import numpy as np

from ..runtime import write_text
from . import Case, polarity, search
from .attack import Attack, Flags
from .pictures import write_rows

SHOWN = 12
COLUMNS = ("synthetic", "nearest training", "difference", "nearest held-out")


def write(case: Case, attack: Attack, flags: Flags) -> None:
    """Write neighbours.csv (most suspicious images first) and neighbours.png (the first 12)."""
    nearest = attack.synthetic["train"].registered
    order = np.argsort(nearest.score, kind="stable")
    neighbours = attack.pool.train_index(nearest.image)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["synthetic", "nearest_training", "score", "similarity", "flagged"])
    for i in order:
        table.writerow(
            [
                case.synthetic.records[i].id,
                case.train.records[neighbours[i]].id,
                f"{nearest.score[i]:.4f}",
                f"{nearest.similarity[i]:.4f}",
                int(flags.copied[i]),
            ]
        )
    write_text(case.private / "neighbours.csv", text.getvalue())
    draw(case, attack, order[:SHOWN], neighbours[order[:SHOWN]])


def draw(case: Case, attack: Attack, chosen: np.ndarray, neighbours: np.ndarray) -> None:
    """Draw the most suspicious images beside their nearest training and held-out images."""
    synthetic, training = case.synthetic.floats(chosen), case.train.floats(neighbours)
    righted = polarity.righted(synthetic, attack.pool.usual)[:]
    upright = np.stack(
        [align(a, b, case.domain.symmetries) for a, b in zip(righted, training, strict=True)]
    )
    seen = search.look(
        righted,
        case.lens,
        case.domain.symmetries,
        device=str(attack.pool.gallery.patients.device),
    )
    found = search.search(
        seen,
        attack.pool.gallery,
        {"holdout": ~attack.pool.is_train},
        candidates=case.settings.candidates,
    )["holdout"]
    held_out = case.holdout.floats(attack.pool.order[found.registered.image])
    difference = np.abs(righted - upright) - 1
    write_rows(case.private / "neighbours.png", COLUMNS, [synthetic, upright, difference, held_out])


def align(image: np.ndarray, other: np.ndarray, symmetry: str) -> np.ndarray:
    """Return `other` turned or mirrored to resemble `image` most; both (C, H, W)."""
    turns = range(4) if "rotations" in symmetry else range(1)
    ways = [np.rot90(other, turn, axes=(1, 2)) for turn in turns]
    ways += [way[:, :, ::-1] for way in ways] if "flip" in symmetry else []
    return min(ways, key=lambda way: float(((way - image) ** 2).sum())).copy()
