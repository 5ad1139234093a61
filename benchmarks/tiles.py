"""Cut images and their masks into tiles: what is thin then stays wider than a pixel.

    python benchmarks/tiles.py RAW OUT --masks vessels --within field_of_view --px 192 --every 96

RAW has a `labels.csv` with the columns path, patient_id and the two that are named: paths of
each image's mask and of the mask of what may be cut. OUT gets images/, masks/ with names alike
(1 where the mask is bright, else 0) and a labels.csv that keeps whose tile is whose. Tiles overlap
where `--every` is less than `--px`; 95 % of each lies within.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

WITHIN = 0.95
BRIGHT = 127


def main() -> None:
    """Cut what the command line names."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("raw", type=Path)
    asked.add_argument("out", type=Path)
    asked.add_argument("--masks", required=True, help="column with the paths of masks")
    asked.add_argument("--within", required=True, help="column with the paths of what may be cut")
    asked.add_argument("--px", type=int, required=True, help="side of a tile")
    asked.add_argument("--every", type=int, required=True, help="pixels from tile to tile")
    options = asked.parse_args()
    for name in ("images", "masks"):
        (options.out / name).mkdir(parents=True)
    rows = [("path", "patient_id")]
    with (options.raw / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows += [(f"images/{name}", row["patient_id"]) for name in _cut(row, options)]
    with (options.out / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    print(f"{len(rows) - 1} tiles of {len({who for _, who in rows[1:]})} patients")


def _cut(row: dict[str, str], options: argparse.Namespace) -> Iterator[str]:
    """Write the tiles of one image and return their names."""
    image = np.asarray(Image.open(options.raw / row["path"]).convert("RGB"))
    mask, within = (
        np.asarray(Image.open(options.raw / row[column]).convert("L")) > BRIGHT
        for column in (options.masks, options.within)
    )
    height, width = mask.shape
    for y in range(0, height - options.px + 1, options.every):
        for x in range(0, width - options.px + 1, options.every):
            tile = np.s_[y : y + options.px, x : x + options.px]
            if within[tile].mean() >= WITHIN:
                name = f"{Path(row['path']).stem}_{y:04d}_{x:04d}.png"
                Image.fromarray(image[tile]).save(options.out / "images" / name)
                Image.fromarray(mask[tile].astype(np.uint8)).save(options.out / "masks" / name)
                yield name


if __name__ == "__main__":
    main()
