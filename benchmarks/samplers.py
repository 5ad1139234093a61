"""What a sampler and its steps cost and give: quality and images a second of one finished run.

    python benchmarks/samplers.py RUN OUT
    python benchmarks/samplers.py RUN OUT --ways ddim unipc --steps 10 20 --seeds 1 2 --images 346
    python benchmarks/samplers.py RUN OUT --students 2 4 --walks 2000 --student-images 16000

Each way of sampling draws the same images (same starting noise, same conditions) from the run's
weights. They are scored in the run's own lens against its held-out patients, as in the contest;
`off` is how far the images are from those that 100 steps of UniPC make of the same noise, the root
mean square of their difference in shares of white: the error of the sampler alone. The noisy ways
go elsewhere, so that for them it says nothing.

Students of the run's denoiser, which learn its UniPC with 24 steps and the run's guidance, are
trained into OUT first; what that takes is printed, and is no part of their rate.

Time is the processor's on a CPU and the wall's on a GPU, decoding and moving included. OUT keeps
each measurement, so that the same command goes on, and a grid of images of each way. The knee is
the fastest way that loses at most 5 % of the Frechet distance and of the sharpness.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from contest import cell, score
from timed import clock

from medsynth import pipeline, protocol, synthesis
from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data.loader import Frames
from medsynth.models.denoiser import Denoiser
from medsynth.models.steps import read_pairs
from medsynth.pictures import write_grid
from medsynth.pipeline.run import Run, open_autoencoder, silent
from medsynth.pipeline.student import fit_student
from medsynth.runtime import choose_device, derive_seed, read_json, run_stage, write_json
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
STUDENT = "student"
LEARNED = {"sampler": "unipc", "steps": 24, "eta": 0.0, "spacing": None}  # what a student follows
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
    students: Path | None = None

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
        asked = self.run.protocol.to_dict()["sample"] | {"student": None, "eta": 0.0}
        asked |= WAYS.get(way, {"sampler": "ddim"}) | {"steps": steps}
        denoiser, pairs = self.denoiser, None
        if way == STUDENT:
            folder = self.students / f"student-{steps}"
            denoiser, pairs = Denoiser.load(folder).to(choose_device()), read_pairs(folder)
            asked |= {"guidance": 1.0, "guidance_interval": None}
        return synthesis.sample(
            denoiser,
            self.autoencoder,
            self.vocabulary,
            self.conditions[:images],
            settings=protocol.Sample(**asked),
            diffusion=self.run.protocol.diffusion,
            seeds=[derive_seed(seed, "samplers", i) for i in range(images)],
            device=choose_device(),
            pairs=pairs,
        )


def teach(run: Run, steps: int, out: Path, *, walks: int, training: dict[str, object]) -> float:
    """Train a student of so many steps into OUT; again = go on. Returns the seconds it took now."""
    settings = run.protocol.to_dict()["sample"] | LEARNED
    settings["student"] = {"steps": steps, "walks": walks, "ema": 0.995, "training": training}
    sample = protocol.Sample.model_validate(settings, strict=False)
    own = replace(run, protocol=run.protocol.model_copy(update={"sample": sample}))
    seconds = clock()
    began = seconds()
    run_stage(
        out / f"student-{steps}",
        lambda folder: fit_student(own, folder, silent),
        inputs={"protocol": run.protocol.digest},
        settings=sample.model_dump(mode="json"),
    )
    return seconds() - began


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
        cells = [cell([row[name] for row in rows]) for name in COLUMNS]
        lines.append(f"| {way} | {steps} | {' | '.join(cells)} |")
    cells = [f"{floors[name]:.3g}" if name in floors else "-" for name in COLUMNS]
    return "\n".join([*lines, f"| real against real | | {' | '.join(cells)} |"])


def knee(found: dict[tuple[str, int], list[dict[str, float]]]) -> tuple[str, int]:
    """Return the fastest way that loses at most TOLERANCE: of the lowest mean Frechet distance,
    and of the sharpness that LIMIT has, which a lens sees little of in few images."""

    def mean(way: tuple[str, int], name: str) -> float:
        return float(np.mean([row[name] for row in found[way]]))

    far = (1 + TOLERANCE) * min(mean(way, "frechet") for way in found)
    soft = (1 - TOLERANCE) * mean(LIMIT, "sharpness")
    good = [way for way in found if mean(way, "frechet") <= far and mean(way, "sharpness") >= soft]
    return max(good, key=lambda way: mean(way, "rate"), default=LIMIT)


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
    asked.add_argument("--students", type=int, nargs="*", default=[], help="their steps")
    asked.add_argument("--walks", type=int, default=4000, help="that a student learns from")
    asked.add_argument("--student-images", type=int, default=64000, help="that it is trained on")
    asked.add_argument("--student-rate", type=float, default=3e-4, help="its learning rate")
    options = asked.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run = pipeline.open_run(options.run)
    for steps in options.students:
        training = {"images": options.student_images, "batch": 16, "warmup_images": 500,
                    "learning_rate": options.student_rate}  # fmt: skip
        took = teach(run, steps, options.out, walks=options.walks, training=training)
        print(f"student of {steps} steps: {took:.0f} s", flush=True)
    models = replace(Models.open(run, options.images), students=options.out)
    models.draw("unipc", 2, 0, images=min(8, options.images))  # warms up
    grid = [(way, steps) for way in options.ways for steps in options.steps]
    grid += [(STUDENT, steps) for steps in options.students]
    grid += [("medfusion", options.rival_steps)] * bool(options.rival_steps)
    found: dict[tuple[str, int], list[dict[str, float]]] = {way: [] for way in [LIMIT, *grid]}
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
