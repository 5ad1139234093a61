"""How long duplicates take to find as a set grows, and how many planted copies are found.

    python benchmarks/duplicates.py --sizes 1000 4000 16000 64000
    python benchmarks/duplicates.py --recall 300

The first measures the index on made descriptions, of which strangers are as alike as those of real
chest radiographs, beside comparing all pairs up to --all-pairs images. Time is the processor's, of
one core; the slope is that of log time on log images, 1 where time grows as the set does, 2 where
it grows as the pairs do.

The second plants a changed copy of phantoms into a set of other phantoms, one kind of change at a
time, and counts copies found and images linked that should not be, with exact 95 % intervals.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth.cohort import Cohort
from medsynth.data import near, phantoms
from medsynth.data.duplicates import find_links
from medsynth.data.likeness import SIDE
from medsynth.protocol import Data
from medsynth.validation.statistics import clopper_pearson

SIZE_PX = 64
BLOCK = 4096
COMMON, SMOOTH = 0.15, 2.5  # strangers then correlate as real chests do: 99 % below 0.5
COPIES = 200  # planted at THRESHOLD + 0.01 into every set
THRESHOLD = Data().duplicate_correlation


# Time -------------------------------------------------------------------------------------------


def main() -> None:
    """Measure what the command line asks for and print it."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--sizes", type=int, nargs="*", default=[1000, 4000, 16000])
    asked.add_argument("--all-pairs", type=int, default=8000, help="largest set compared so")
    asked.add_argument("--recall", type=int, default=0, help="copies of each kind")
    asked.add_argument("--cohort", type=Path, help="an intake/ folder to take images from instead")
    options = asked.parse_args()
    if options.recall:
        print_recall(options.recall, options.cohort)
    else:
        print_times(options.sizes, options.all_pairs)


def print_times(sizes: list[int], all_pairs: int) -> None:
    """Print seconds by number of images, of the index and of all pairs, and both slopes."""
    times: dict[str, list[tuple[int, float]]] = {"index": [], "all pairs": []}
    print("images   bits sets   index, s   found     all pairs, s")
    for size in sizes:
        rows, copied = made_rows(size)
        plan = near.choose_plan(rows, correlation=THRESHOLD)
        seconds, hits = timed(rows, copied)
        times["index"].append((size, seconds))
        line = f"{size:7d}  {plan.bits:4d} {plan.sets:4d} {seconds:10.2f} {hits:4d}/{COPIES}"
        if size <= all_pairs:
            usual, near.choose_plan = near.choose_plan, lambda rows, *, correlation: near.Plan(0, 0)
            slow, hits = timed(rows, copied)
            near.choose_plan = usual
            times["all pairs"].append((size, slow))
            line += f" {slow:10.2f} {hits:4d}/{COPIES}"
        print(line, flush=True)
    for name, points in times.items():
        if len(points) > 1:
            x, y = np.log(points).T
            print(f"slope of {name}: {np.polyfit(x, y, 1)[0]:.2f}")


def timed(rows: np.ndarray, copied: np.ndarray) -> tuple[float, int]:
    """Return the seconds that finding pairs takes, and how many planted copies are joined."""
    start = time.process_time()
    pairs, _ = near.near_pairs(rows, correlation=THRESHOLD)
    seconds = time.process_time() - start
    groups = near.join(len(rows), pairs)
    return seconds, int((groups[copied] == groups[-len(copied) :]).sum())


def made_rows(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (size, SIDE * SIDE) float16, the last COPIES of which copy the rows named."""
    rng = np.random.default_rng(size)
    common = unit(fields(rng, 1))
    rows = np.empty((size, SIDE**2), np.float16)
    for start in range(0, size, BLOCK):
        own = unit(fields(rng, min(BLOCK, size - start)))
        rows[start : start + BLOCK] = unit(np.sqrt(COMMON) * common + np.sqrt(1 - COMMON) * own)
    copied = rng.choice(size - COPIES, COPIES, replace=False)
    original = rows[copied].astype(np.float64)
    noise = rng.standard_normal(original.shape)
    noise -= original * (noise * original).sum(axis=1, keepdims=True)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    alike = THRESHOLD + 0.01
    rows[-COPIES:] = alike * original + np.sqrt(1 - alike**2) * noise
    return rows, copied


def fields(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return smooth random pictures as rows (count, SIDE * SIDE)."""
    white = rng.standard_normal((count, SIDE, SIDE), np.float32)
    return gaussian_filter(white, (0, SMOOTH, SMOOTH)).reshape(count, -1)


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of mean 0 and length 1."""
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Recall -----------------------------------------------------------------------------------------


def print_recall(count: int, cohort: Path | None) -> None:
    """Print the share of planted copies found and of other images linked, by kind of change."""
    sets = {"cohort": Cohort.read(cohort).pixels} if cohort else {}
    sets = sets or {domain: people(domain, 2 * count) for domain in phantoms.NAMES}
    for name, images in sets.items():
        print(f"\n{name}: {count} copies among {len(images)} images at {THRESHOLD:g}")
        alone = find_links(images, correlation=THRESHOLD).groups
        for kind, change in CHANGES.items():
            rng = np.random.default_rng(0)
            copies = np.stack([change(image, rng) for image in images[:count]])
            groups = find_links(np.concatenate([images, copies]), correlation=THRESHOLD).groups
            own = (groups[:count] >= 0) & (groups[:count] == groups[len(images) :])
            found = clopper_pearson(int(own.sum()), count)
            print(f"  {kind:22s} {found.value:6.1%} ({found.low:.1%} to {found.high:.1%})")
        false = clopper_pearson(int((alone >= 0).sum()), len(images))
        print(f"  linked without a copy  {false.value:6.1%} ({false.low:.1%} to {false.high:.1%})")


def people(domain: str, count: int) -> np.ndarray:
    """Return one phantom image of each of `count` people, (count, SIZE_PX, SIZE_PX, C) uint8."""
    return np.stack([phantoms.draw(domain, p, 0, 3, SIZE_PX)[0] for p in range(count)])


# Changes ----------------------------------------------------------------------------------------

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def jpeg(quality: int) -> Change:
    """Save as JPEG and read again."""

    def change(image, rng):
        file = io.BytesIO()
        Image.fromarray(image.squeeze()).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).reshape(image.shape)

    return change


def resized(factor: float) -> Change:
    """Resize, as a viewer would, and back to the cohort's size."""

    def change(image, rng):
        side = round(image.shape[0] * factor)
        other = Image.fromarray(image.squeeze()).resize((side, side), Image.BICUBIC)
        back = other.resize(image.shape[:2], Image.BOX if factor > 1 else Image.BILINEAR)
        return np.asarray(back).reshape(image.shape)

    return change


def lit(curve: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Change:
    """Change light values in [0, 1] by a curve."""

    def change(image, rng):
        return np.rint(np.clip(curve(image / 255, rng), 0, 1) * 255).astype(np.uint8)

    return change


def turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by quarters and mirror, at random."""
    return np.rot90(image[:, :: rng.choice([-1, 1])], rng.integers(4))


def one_after_another(*changes: Change) -> Change:
    """Apply several changes."""

    def change(image, rng):
        for each in changes:
            image = each(image, rng)
        return image

    return change


def _window(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = rng.uniform(0, 0.15), rng.uniform(0.7, 1)
    return (x - low) / (high - low)


CHANGES: dict[str, Change] = {
    "the same": lambda image, rng: image,
    "turned or mirrored": turned,
    "jpeg 90": jpeg(90),
    "jpeg 50": jpeg(50),
    "jpeg 30": jpeg(30),
    "0.5 of the side": resized(0.5),
    "0.7 of the side": resized(0.7),
    "2 times the side": resized(2),
    "gamma 0.6": lit(lambda x, rng: x**0.6),
    "gamma 1.6": lit(lambda x, rng: x**1.6),
    "contrast 0.6": lit(lambda x, rng: 0.5 + 0.6 * (x - 0.5)),
    "contrast 1.4": lit(lambda x, rng: 0.5 + 1.4 * (x - 0.5)),
    "another window": lit(_window),
    "negative": lit(lambda x, rng: 1 - x),
    "all at once": one_after_another(
        turned,
        lit(lambda x, rng: 1 - (0.05 + 0.85 * x) ** rng.uniform(0.7, 1.4)),
        resized(0.7),
        jpeg(50),
    ),
}


if __name__ == "__main__":
    main()
