"""Cohorts with known truth for benchmarks/gate.py, and all that a search finds in them.

Generators that know nobody in the pool: fresh patients ("null"), the same blurred ("smooth"),
pulled to their mean ("shrunken"), nearly all of one class ("one class"), and variations of five
images ("collapsed"). For real images fresh patients are a third of all, who are in no pool.
"""

from __future__ import annotations

import argparse
import csv
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medsynth import protocol
from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data import phantoms
from medsynth.data.loader import Frames
from medsynth.domains import Symmetry, domain
from medsynth.models.lens import Features, Lens, features
from medsynth.runtime import read_json, write_json
from medsynth.training.lens import fit_lens
from medsynth.validation import planted, search
from medsynth.validation.nearest import Found, Nearest

SIZE_PX = 64
REAL = {"kermany224": "chest_xray", "nih64": "chest_xray", "monuseg": "histology"}
CLASSES = {"chest_xray": "finding", "fundus": "disease", "histology": "tissue"}
TILE_PX, TILES_A_SIDE = 200, 5
FIELDS = ("image", "patient", "similarity", "score")


@dataclass(frozen=True)
class Effort:
    """How much is looked at: patients in the pool, fresh images, images of each other generator,
    copies of each change, divisions searched in full, studies simulated, and the lens's images."""

    patients: int = 1000
    fresh: int = 1000
    others: int = 300
    copies: int = 100
    divisions: int = 6
    studies: int = 1000
    mixes: int = 200
    lens: int = 20000


QUICK = Effort(80, 60, 40, 16, 2, 100, 40, 640)


@dataclass(frozen=True)
class World:
    """A pool of real images, and images of generators that know nobody in it."""

    name: str
    pool: Cohort
    made: Mapping[str, Cohort]
    one_class: np.ndarray
    divisions: Sequence[np.ndarray]

    @property
    def patients(self) -> int:
        return int(self.pool.patients.max()) + 1

    def is_train(self, d: int) -> np.ndarray:
        """(N,) bool, the pooled images that are trained on in division d."""
        return self.divisions[d][self.pool.patients]


# Worlds with known truth ------------------------------------------------------------------------


def world(name: str, data: Path | None, effort: Effort) -> World:
    """Draw phantoms, or read real images and divide them into a pool and fresh patients."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    pool, fresh = (
        _real(name, data, effort, rng)
        if name in REAL
        else [_phantoms(name, part, effort) for part in ("pool", "fresh")]
    )
    pool = pool.take(rng.permutation(len(pool)))
    patients = int(pool.patients.max()) + 1
    halves = np.arange(patients) < patients // 2
    images = fresh.floats()
    chosen = rng.permutation(len(images))[: effort.others]
    five = images[rng.choice(len(images), 5, replace=False)]
    made = {
        "null": images,
        "smooth": ndimage.gaussian_filter(images[chosen], (0, 0, 1, 1)),
        "shrunken": images.mean(0) + 0.6 * (images[chosen] - images.mean(0)),
        "collapsed": planted.plant(
            five[rng.integers(5, size=effort.others)], planted.elastic, zlib.crc32(b"modes")
        ),
    }
    return World(
        name,
        pool,
        {kind: _synthetic(fresh, x) for kind, x in made.items()},
        _one_class(fresh),
        [rng.permutation(halves) for _ in range(effort.divisions)],
    )


def _phantoms(name: str, part: str, effort: Effort) -> Cohort:
    first, count = (0, effort.patients) if part == "pool" else (10**6, effort.fresh)
    drawn = [phantoms.draw(name, first + i, 0, 11, SIZE_PX) for i in range(count)]
    records = tuple(
        Record(f"{part}-{i}", "real", f"{part}-{i}", labels) for i, (_, labels) in enumerate(drawn)
    )
    return Cohort(name, records, np.stack([pixels for pixels, _ in drawn]))


def _real(
    name: str, data: Path | None, effort: Effort, rng: np.random.Generator
) -> tuple[Cohort, Cohort]:
    """Return a pool of two thirds of the patients, and the others' images."""
    kind = REAL[name]
    if data is None or not (folder := data / kind / name).is_dir():
        raise SystemExit(f"{name} needs --data DIR with {kind}/{name}/labels.csv")
    rows = list(csv.DictReader((folder / "labels.csv").read_text().splitlines()))
    people = sorted({row["patient_id"] for row in rows})
    people = [people[i] for i in rng.permutation(len(people))][: effort.patients * 3 // 2]
    pooled = set(people[: 2 * len(people) // 3])
    if name == "kermany224":  # one image each: a number can be two children
        rows = list({row["patient_id"]: row for row in rows}.values())
    return tuple(
        _read(kind, folder, [row for row in rows if row["patient_id"] in chosen])
        for chosen in (pooled, set(people) - pooled)
    )


def _read(kind: str, folder: Path, rows: Sequence[Mapping[str, str]]) -> Cohort:
    mode, records, pixels = "L" if kind == "chest_xray" else "RGB", [], []
    for row in rows:
        with Image.open(folder / row["path"]) as opened:
            image = opened.convert(mode)
        for i, tile in enumerate(_tiles(image) if folder.name == "monuseg" else [image]):
            small = np.asarray(tile.resize((SIZE_PX, SIZE_PX), Image.Resampling.LANCZOS))
            pixels.append(small.reshape(SIZE_PX, SIZE_PX, -1))
            labels = {CLASSES[kind]: row.get("label", "")}
            records.append(Record(f"{len(records)}-{i}", "real", row["patient_id"], labels))
    return Cohort(kind, tuple(records), np.stack(pixels))


def _tiles(image: Image.Image) -> list[Image.Image]:
    corners = [TILE_PX * i for i in range(TILES_A_SIDE)]
    return [image.crop((x, y, x + TILE_PX, y + TILE_PX)) for y in corners for x in corners]


def _synthetic(like: Cohort, images: np.ndarray) -> Cohort:
    records = tuple(Record(f"s-{i}", "synthetic", "") for i in range(len(images)))
    return Cohort(like.domain, records, to_pixels(images.astype(np.float32)))


def _one_class(fresh: Cohort) -> np.ndarray:
    """Return the indices of images of which 19 in 20 are of the commonest class."""
    labels = np.array(fresh.labels(CLASSES[fresh.domain]))
    common = Counter(labels.tolist()).most_common(1)[0][0]
    of_it, others = np.flatnonzero(labels == common), np.flatnonzero(labels != common)
    return np.concatenate([of_it, others[: len(of_it) // 19]])


# Searches, each kept in a file ------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """What was found: {generator: {part: Found}}, of the pool itself, and of copies with the
    pooled image that each is of. Parts are "everyone" and, in division d, "train d"."""

    made: Mapping[str, Mapping[str, Found]]
    pool: Mapping[str, Found]
    copies: Mapping[str, Mapping[str, Found]]
    sources: np.ndarray


def look_up(
    seen: World, folder: Path, effort: Effort, *, changes: Sequence[str] = tuple(planted.CHANGES)
) -> Looked:
    """Search for everything that was not searched before; for copies under these changes, as far
    as the domain has them."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = domain(seen.pool.domain)
    lens = _lens(seen.pool, kind.symmetries, effort, folder)
    gallery = search.build(
        search.look(seen.pool, lens, kind.symmetries, mirrored=False),
        seen.pool.patients,
        kind.symmetries,
    )
    parts = {f"train {d}": seen.is_train(d) for d in range(len(seen.divisions))}
    everyone = {"everyone": np.ones(len(seen.pool), bool)}

    def find(name: str, images: search.Images, among: Mapping[str, np.ndarray]):
        path = folder / f"{name}.npz"
        if not path.exists():
            began = time.process_time()
            looks = search.look(images, lens, kind.symmetries)
            _save(path, search.search(looks, gallery, among, candidates=20))
            print(f"{seen.name} {name}: {time.process_time() - began:.0f} s", flush=True)
        return _load(path)

    rng = np.random.default_rng(zlib.crc32(b"copies"))
    sources = rng.integers(len(seen.pool), size=effort.copies)
    originals = seen.pool.floats(sources)
    copied = {
        name: planted.plant(originals, change, zlib.crc32(name.encode()))
        for name, change in planted.changes(kind.symmetries).items()
        if name in changes
    }
    return Looked(
        {name: find(name, images, everyone | parts) for name, images in seen.made.items()},
        find("pool", seen.pool, parts) if parts else {},
        {name: find(f"copies_{name}", images, everyone | parts) for name, images in copied.items()},
        sources,
    )


def _lens(pool: Cohort, symmetry: Symmetry, effort: Effort, folder: Path) -> Features:
    """Train a lens on the whole pool, which does not say who is trained on."""
    if not (folder / "lens.safetensors").exists():
        training = {"images": effort.lens, "batch": 64, "learning_rate": 2e-3, "warmup_images": 500}
        settings = protocol.Lens(width=16, features=64, training=training)
        frames = Frames(pool, np.arange(len(pool)))
        fit_lens(frames, settings, seed=0, folder=folder, device="cpu")
    return features(Lens.load(folder / "lens.safetensors"), device="cpu")


def _save(path: Path, found: Mapping[str, Found]) -> None:
    arrays = {
        f"{part}|{space}|{field}": getattr(nearest, field)
        for part, each in found.items()
        for space, nearest in each.spaces.items()
        for field in FIELDS
    }
    np.savez(path.with_suffix(".tmp.npz"), **arrays)
    path.with_suffix(".tmp.npz").rename(path)


def _load(path: Path) -> dict[str, Found]:
    with np.load(path) as arrays:
        keys = sorted({tuple(key.split("|")[:2]) for key in arrays})
        found: dict[str, dict[str, Nearest]] = {}
        for part, space in keys:
            fields = {field: arrays[f"{part}|{space}|{field}"] for field in FIELDS}
            found.setdefault(part, {})[space] = Nearest(**fields)
    return {part: Found(spaces) for part, spaces in found.items()}


def take(found: Found, chosen: np.ndarray) -> Found:
    """Return what was found for some of the images."""
    return Found(
        {
            space: Nearest(*(getattr(nearest, field)[chosen] for field in FIELDS))
            for space, nearest in found.spaces.items()
        }
    )


def measured(about: str, measure: Callable[..., dict], told: str) -> dict[str, dict]:
    """Let the command line say which worlds to measure, and return all that its RESULTS hold.

    `measure(name, data, effort, folder)` of a world is written to RESULTS/`told`, with the name of
    the world in it, and is not measured again.
    """
    asked = argparse.ArgumentParser(description=about.splitlines()[0])
    asked.add_argument("--out", type=Path, required=True, help="a folder for results")
    asked.add_argument("--domain", nargs="*", default=list(phantoms.NAMES), dest="names")
    asked.add_argument("--data", type=Path, help="the folder of real images")
    asked.add_argument("--quick", action="store_true", help="small, in a minute or two")
    options = asked.parse_args()
    effort = QUICK if options.quick else Effort()
    for name in options.names:
        path = options.out / told.format(name)
        if not path.exists():
            write_json(path, measure(name, options.data, effort, options.out / name))
    paths = sorted(options.out.glob(told.format("*")))
    return {
        path.relative_to(options.out).parts[0].removesuffix(".json"): read_json(path)
        for path in paths
    }
