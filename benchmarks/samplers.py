"""What a sampler and its steps cost and give: quality and images a second of one finished run.

    python benchmarks/samplers.py RUN OUT
    python benchmarks/samplers.py RUN OUT --ways ddim unipc --steps 10 20 --seeds 1 2 --images 346

Each way of sampling draws the same images (same starting noise, same conditions) from the run's
weights. They are scored in the run's own lens against its held-out patients, as in the contest;
`off` is how far the images are from those that 100 steps of UniPC make of the same noise, the root
mean square of their difference in shares of white: the error of the sampler alone. The noisy ways
go elsewhere, so that for them it says nothing.

Time is the processor's on a CPU and the wall's on a GPU, decoding and moving included. OUT keeps
each measurement, so that the same command goes on, and a grid of images of each way. The knee is
the fastest way that loses at most 5 % of the Frechet distance and of the sharpness.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from contest import interval, score
from timed import clock

from medsynth import pipeline, protocol, synthesis
from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data.loader import Frames
from medsynth.models.denoiser import Denoiser
from medsynth.pictures import write_grid
from medsynth.pipeline.run import Run, open_autoencoder
from medsynth.runtime import choose_device, derive_seed, read_json, write_json
from medsynth.vocabulary import Vocabulary

WAYS = {
    "ddim": {"sampler": "ddim"},
    "dpm": {"sampler": "dpm"},
    "unipc": {"sampler": "unipc"},
    "ddim even": {"sampler": "ddim", "spacing": "even"},
    "unipc even": {"sampler": "unipc", "spacing": "even"},
    "noisy": {"sampler": "ddim", "eta": 1.0},
    "medfusion": {"sampler": "ddim", "eta": 1.0, "spacing": "even"},
}
LIMIT = ("unipc", 100)
SCORES = ("frechet", "kernel", "precision", "recall", "sharpness")
COLUMNS = (*SCORES, "off", "rate")
SHOWN = 16
TOLERANCE = 0.05


@dataclass(frozen=True)
class Models:
    """What draws images from a finished run."""

    run: Run
    denoiser: Denoiser
    autoencoder: torch.nn.Module
    vocabulary: Vocabulary
    conditions: list[dict[str, str]]

    @classmethod
    def open(cls, run: Run, images: int) -> Models:
        """Read the run's networks, and choose the labels of `images` images as `sample` would."""
        cohort, parts = pipeline.parts_of(run)
        settings = run.protocol.sample.model_copy(update={"images": images})
        train, device = Frames(cohort, parts["train"]), choose_device()
        weights, seed = train.weights.tolist(), run.protocol.seed
        return cls(
            run,
            Denoiser.load(run.folder / "diffusion").to(device),
            open_autoencoder(run, device),
            Vocabulary.read(run.folder / "diffusion" / "vocabulary.json"),
            synthesis.choose_conditions(train.labels, settings, seed, weights=weights),
        )

    def draw(self, way: str, steps: int, seed: int, *, images: int) -> np.ndarray:
        """Return the first `images` images (N, C, H, W) of a seed."""
        asked = self.run.protocol.to_dict()["sample"] | {"eta": 0.0, **WAYS[way], "steps": steps}
        return synthesis.sample(
            self.denoiser,
            self.autoencoder,
            self.vocabulary,
            self.conditions[:images],
            settings=protocol.Sample(**asked),
            diffusion=self.run.protocol.diffusion,
            seeds=[derive_seed(seed, "samplers", i) for i in range(images)],
            device=choose_device(),
        )


def measure(models: Models, way: str, steps: int, seed: int, out: Path) -> dict[str, float]:
    """Draw, time, score and show the images of one way and seed; {name of COLUMNS: value}."""
    path = path_of(out, way, steps, seed)
    asked = [len(models.conditions), models.run.protocol.digest]
    if path.exists() and read_json(path)["asked"] == asked:
        return read_json(path)["found"]
    seconds = clock()
    began = seconds()
    images = models.draw(way, steps, seed, images=len(models.conditions))
    rate = len(images) / (seconds() - began)
    if (way, steps) == LIMIT:
        np.save(path.with_suffix(".npy"), images)
    write_grid(path.with_suffix(".png"), images[:SHOWN], columns=8, scale=2)
    scores, floors = score(models.run, as_cohort(models, images))
    limit = np.load(path_of(out, *LIMIT, seed).with_suffix(".npy"))
    found = {name: scores[name] for name in SCORES}
    found |= {"off": float(np.sqrt(np.mean((images - limit) ** 2)) / 2), "rate": rate}
    row = {"asked": asked, "found": found, "floors": {name: floors[name] for name in SCORES}}
    write_json(path, row)
    return found


def path_of(out: Path, way: str, steps: int, seed: int) -> Path:
    """Return where a measurement is kept."""
    return out / f"{way.replace(' ', '-')}-{steps}-{seed}.json"


def as_cohort(models: Models, images: np.ndarray) -> Cohort:
    """Make a synthetic cohort of images (N, C, H, W)."""
    study = models.run.protocol
    records = tuple(
        Record(id=f"syn-{i:06d}", origin="synthetic", labels=labels)
        for i, labels in enumerate(models.conditions)
    )
    return Cohort(study.domain, records, to_pixels(images, bits=study.image.bits))


def table(found: dict[tuple[str, int], list[dict[str, float]]], floors: dict[str, float]) -> str:
    """Lay out the ways in Markdown: means over seeds +- their 95 % intervals."""
    lines = ["| sampler | steps | " + " | ".join(COLUMNS[:-1]) + " | images/s |"]
    lines.append("|---|---:|" + "---:|" * len(COLUMNS))
    for (way, steps), rows in found.items():
        cells = [_cell([row[name] for row in rows]) for name in COLUMNS]
        lines.append(f"| {way} | {steps} | {' | '.join(cells)} |")
    cells = [f"{floors[name]:.3g}" if name in floors else "-" for name in COLUMNS]
    return "\n".join([*lines, f"| real against real | | {' | '.join(cells)} |"])


def _cell(values: Sequence[float]) -> str:
    mean, reach = interval(values)
    return f"{mean:.3g}" + ("" if np.isnan(reach) else f" ± {reach:.2g}")


def knee(found: dict[tuple[str, int], list[dict[str, float]]]) -> tuple[str, int]:
    """Return the fastest way that loses at most TOLERANCE: of the lowest mean Frechet distance,
    and of the sharpness that LIMIT has, which a lens sees little of in few images."""

    def mean(cell: tuple[str, int], name: str) -> float:
        return float(np.mean([row[name] for row in found[cell]]))

    far = (1 + TOLERANCE) * min(mean(cell, "frechet") for cell in found)
    soft = (1 - TOLERANCE) * mean(LIMIT, "sharpness")
    good = [
        cell for cell in found if mean(cell, "frechet") <= far and mean(cell, "sharpness") >= soft
    ]
    return max(good, key=lambda cell: mean(cell, "rate"), default=LIMIT)


def main() -> None:
    """Measure what the command line asks for and print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("run", type=Path)
    asked.add_argument("out", type=Path)
    asked.add_argument("--ways", nargs="+", choices=WAYS, default=["ddim", "dpm", "unipc"])
    asked.add_argument("--steps", type=int, nargs="+", default=[5, 8, 10, 15, 20, 30, 50])
    asked.add_argument("--rival-steps", type=int, default=150, help="of medfusion; 0 leaves it out")
    asked.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked.add_argument("--images", type=int, default=500)
    options = asked.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    models = Models.open(pipeline.open_run(options.run), options.images)
    models.draw("unipc", 2, 0, images=min(8, options.images))  # warms up
    grid = [(way, steps) for way in options.ways for steps in options.steps]
    grid += [("medfusion", options.rival_steps)] * bool(options.rival_steps)
    found: dict[tuple[str, int], list[dict[str, float]]] = {cell: [] for cell in [LIMIT, *grid]}
    for seed in options.seeds:
        for way, steps in found:
            found[way, steps].append(measure(models, way, steps, seed, options.out))
            print(f"seed {seed}, {way}, {steps} steps", flush=True)
    floors = read_json(path_of(options.out, *LIMIT, options.seeds[0]))["floors"]
    print(f"\n{options.images} images, seeds", *options.seeds, f"; {choose_device()}", end=", ")
    print(f"{torch.get_num_threads()} threads, {platform.processor() or platform.machine()}")
    print("\n" + table(found, floors))
    print("\nknee: {} with {} steps".format(*knee(found)))


if __name__ == "__main__":
    main()
