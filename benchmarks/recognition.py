"""Does a release's list of hashes know its images again, and no others?

    python benchmarks/recognition.py --release RELEASE --others FOLDER --out RESULTS
    python benchmarks/recognition.py --images FOLDER --out RESULTS

With --release the list is the release's own, and --others are images that are not in it, for
example the patients'. With --images half of the folder's files, drawn at random, are listed as a
release would, and the others are asked for; a table beside them with path and patient_id keeps a
patient's images on one side. Images that are listed are asked for changed. RESULTS gets one JSON
file: share found and named rightly by change, share of other images that pass for a listed one,
and the smallest distance among them, each with its 95 % interval (Clopper-Pearson).
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image
from medsynth.release.recognition import WITHIN, hash_image
from medsynth.runtime import derive_seed, write_json
from medsynth.validation.statistics import clopper_pearson

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".dcm"}
Picture = Image.Image


def _jpeg(quality: int) -> Callable[[Picture], Picture]:
    def change(picture: Picture) -> Picture:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality)
        return Image.open(io.BytesIO(data.getvalue()))

    return change


def _resized(factor: float) -> Callable[[Picture], Picture]:
    def change(picture: Picture) -> Picture:
        size = [max(8, round(side * factor)) for side in picture.size]
        return picture.resize(size, Image.Resampling.BICUBIC)

    return change


def _cropped(share: float) -> Callable[[Picture], Picture]:
    def change(picture: Picture) -> Picture:
        width, height = picture.size
        left, upper = round(share * width), round(share * height)
        return picture.crop((left, upper, width - left, height - upper))

    return change


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "saved again, marks stripped": lambda picture: picture,
    "JPEG 90": _jpeg(90),
    "JPEG 50": _jpeg(50),
    "JPEG 30": _jpeg(30),
    "resized by 0.5": _resized(0.5),
    "resized by 0.7": _resized(0.7),
    "resized by 2": _resized(2.0),
    "half the size, JPEG 50": lambda picture: _jpeg(50)(_resized(0.5)(picture)),
    "gamma 0.7": lambda picture: picture.point(lambda v: 255 * (v / 255) ** 0.7),
    "contrast 0.8, brighter": lambda picture: picture.point(lambda v: 0.8 * v + 20),
    "cropped by 2 % a side": _cropped(0.02),
}


def opened(path: Path) -> Picture:
    """Return a file as an 8-bit picture, grey or RGB."""
    pixels = read_image(path, ReadOptions(max_pixels=10**8)).transpose(1, 2, 0)
    eight = np.rint(255 * pixels).astype(np.uint8)
    return Image.fromarray(eight[..., 0] if eight.shape[2] == 1 else eight)


def bits(picture: Picture) -> np.ndarray:
    return np.unpackbits(hash_image(np.asarray(picture)))


def distances(asked: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """(A, L): in how many bits each asked image differs from each listed one."""
    a, b = asked.astype(np.float32), listed.astype(np.float32)
    return np.rint(a.sum(1)[:, None] + b.sum(1) - 2 * a @ b.T).astype(int)


def main() -> None:
    """Measure as the command line says."""
    ask = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ask.add_argument("--release", type=Path)
    ask.add_argument("--others", type=Path, nargs="*", default=[])
    ask.add_argument("--images", type=Path)
    ask.add_argument("--changed", type=int, default=300, help="listed images that are changed")
    ask.add_argument("--at-most", type=int, default=4000, help="images a folder, at random")
    ask.add_argument("--out", type=Path, required=True)
    given = ask.parse_args()
    rng = np.random.default_rng(derive_seed(0, "recognition"))
    if given.release:
        listed = sorted((given.release / "images").glob("*.png"))
        sides = {str(folder): _files(folder, given.at_most, rng) for folder in given.others}
    else:
        listed, others = _halves(given.images, given.at_most, rng)
        sides = {"other patients": others}
    result = measure(listed, sides, changed=given.changed, rng=rng)
    given.out.mkdir(parents=True, exist_ok=True)
    write_json(given.out / "recognition.json", result)
    for name, row in {**result["found"], **result["others"]}.items():
        print(f"{name:32} {100 * row['share']:6.2f} % ({100 * row['low']:.2f} to "
              f"{100 * row['high']:.2f}), n = {row['n']}; "
              f"{row.get('nearest', row.get('farthest'))} bits")  # fmt: skip


def measure(listed: list[Path], sides: dict[str, list[Path]], *, changed: int, rng) -> dict:
    """Return the shares that are found of changed listed images and of others."""
    known = np.stack([bits(opened(path)) for path in listed])
    chosen = np.sort(rng.permutation(len(listed))[:changed])
    pictures = [opened(listed[i]) for i in chosen]
    found = {}
    for name, change in CHANGES.items():
        far = distances(np.stack([bits(change(picture)) for picture in pictures]), known)
        own = far[np.arange(len(chosen)), chosen]  # of two listed copies either may be named
        found[name] = _share((own <= WITHIN) & (own == far.min(1))) | {"farthest": int(own.max())}
    others = {}
    for name, paths in sides.items():
        nearest = distances(np.stack([bits(opened(path)) for path in paths]), known).min(1)
        others[name] = _share(nearest <= WITHIN) | {"nearest": int(nearest.min())}
    return {"within": WITHIN, "listed": len(listed), "found": found, "others": others}


def _share(hits: np.ndarray) -> dict:
    estimate = clopper_pearson(int(hits.sum()), len(hits))
    return {"share": estimate.value, "low": estimate.low, "high": estimate.high, "n": len(hits)}


def _files(folder: Path, at_most: int, rng) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return [paths[i] for i in np.sort(rng.permutation(len(paths))[:at_most])]


def _halves(folder: Path, at_most: int, rng) -> tuple[list[Path], list[Path]]:
    paths = _files(folder, at_most, rng)
    table = folder / "labels.csv"
    who = {path: str(path) for path in paths}
    if table.exists():
        with table.open(newline="") as file:
            who |= {folder / row["path"]: row["patient_id"] for row in csv.DictReader(file)}
    patients = sorted({who[path] for path in paths})
    first = {patients[i] for i in rng.permutation(len(patients))[: len(patients) // 2]}
    return [p for p in paths if who[p] in first], [p for p in paths if who[p] not in first]


if __name__ == "__main__":
    main()
