"""The private page of copied regions: what was found where. It stays in the hospital."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..runtime import write_text
from . import Case, regions
from .alignment import lattice, look_up
from .pictures import CELL_PX, write_rows

if TYPE_CHECKING:
    from .copied_regions import Search

SHOWN = 12
BOX_PX = 20  # of regions.BASE_PX: what was compared, about
FRAME = np.array([1.0, 0.7, -1.0])  # yellow
COLUMNS = (
    "synthetic",
    "nearest training",
    "its region",
    "training's region",
    "difference",
    "held-out's region",
)


def write(case: Case, found: Search) -> None:
    """Write regions.csv (most suspicious images first) and regions.png (the first 12)."""
    order = np.argsort(found.synthetic.score, kind="stable")
    copied = found.copied(found.synthetic)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["synthetic", "nearest", "trained_on", "score", "similarity", "flagged"])
    for i in order:
        image = found.synthetic.image[i]
        side = case.train if found.is_train[image] else case.holdout
        table.writerow(
            [
                case.synthetic.records[found.chosen[i]].id,
                side.records[found.order[image]].id,
                int(found.is_train[image]),
                f"{found.synthetic.score[i]:.4f}",
                f"{found.synthetic.similarity[i]:.4f}",
                int(copied[i]),
            ]
        )
    write_text(case.private / "regions.csv", text.getvalue())
    draw(case, found, order[:SHOWN])


def draw(case: Case, found: Search, rows: np.ndarray) -> None:
    """Draw images beside what their regions resemble most in training and in held-out images."""
    images = case.synthetic.floats(found.chosen[rows])
    seen = regions.textures(images, str(found.ground.layers.device))
    near = regions.find(seen, found.ground, among=found.is_train)
    far = regions.find(seen, found.ground, among=~found.is_train)
    training = case.train.floats(found.order[near.image])
    held_out = case.holdout.floats(found.order[far.image])
    own = cut(images, np.broadcast_to(_STAY, near.maps.shape), near.middles)
    beside = cut(training, near.maps, near.middles)
    columns = [
        framed(images, near.middles),
        framed(training, _places(near.maps, near.middles)),
        own,
        beside,
        np.abs(own - beside) - 1,
        cut(held_out, far.maps, far.middles),
    ]
    write_rows(case.private / "regions.png", COLUMNS, columns)


_STAY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def cut(images: np.ndarray, maps: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return (N, C, CELL_PX, CELL_PX): what images (N, C, H, W) show in boxes around `middles`
    (N, 2), which `maps` (N, 2, 3) lead into them."""
    line = lattice(CELL_PX, torch.zeros(1)) * (BOX_PX / CELL_PX)
    around = line + torch.from_numpy(middles).float()[:, None, None]
    ways = torch.from_numpy(np.array(maps)).float()
    places = around @ ways[:, None, :, :2].transpose(2, 3) + ways[:, None, None, :, 2]
    return look_up(torch.from_numpy(images), places * images.shape[-1] / regions.BASE_PX)[0].numpy()


def framed(images: np.ndarray, middles: np.ndarray) -> np.ndarray:
    """Return (N, 3, S, S) images in colour and large enough, with a frame around each middle."""
    larger = -(-CELL_PX // images.shape[-1])
    large = np.repeat(np.repeat(images, larger, 2), larger, 3)
    large = np.broadcast_to(large, (len(large), 3, *large.shape[2:])).copy()
    side = large.shape[-1]
    thick = max(1, side // CELL_PX)
    for image, middle in zip(large, middles, strict=True):
        corner = (middle - BOX_PX / 2) / regions.BASE_PX + 0.5
        left, top = np.clip(corner * side, 0, side - 1).astype(int)
        end = np.clip((corner + BOX_PX / regions.BASE_PX) * side, 1, side).astype(int)
        box = image[:, top : end[1], left : end[0]]
        for edge in (box[:, :thick], box[:, -thick:], box[:, :, :thick], box[:, :, -thick:]):
            edge[:] = FRAME[:, None, None]
    return large


def _places(maps: np.ndarray, middles: np.ndarray) -> np.ndarray:
    return (maps[:, :, :2] @ middles[:, :, None])[:, :, 0] + maps[:, :, 2]
