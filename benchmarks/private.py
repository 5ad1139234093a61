"""What a privacy budget costs: time a step, and quality by epsilon.

    python benchmarks/private.py
    python benchmarks/private.py --table RAW RUNS --epsilon 1 3 10

The first trains the denoiser of protocols/private.yaml on made latents for a few steps in turns,
with and without privacy, in one run; times are the processor's, saving and looking left out.

The second runs protocols/private.yaml on a raw folder once for each epsilon and once without a
budget, which shares everything but the denoiser, and prints the findings side by side. Started
again it goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from medsynth import pipeline, protocol
from medsynth.finding import read_findings
from medsynth.models.denoiser import Denoiser
from medsynth.models.diffusion import Schedule
from medsynth.training.diffusion import denoising_loss
from medsynth.training.loop import Player, Task, learning_rate, train
from medsynth.training.private import make_private

PATIENTS, SHAPE, TOKENS = 1128, (4, 16, 16), 3
SHARED = ("intake", "split", "lens", "autoencoder")
SHOWN = (
    "privacy.epsilon",
    "fidelity.frechet",
    "fidelity.kernel",
    "fidelity.precision",
    "fidelity.recall",
    "fidelity.density",
    "fidelity.coverage",
    "fidelity.sharpness",
    "memorization.p_value",
    "memorization.copy_rate",
)


def main() -> None:
    """Measure what the command line asks for and print it."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--steps", type=int, default=4, help="steps of each kind that are timed")
    asked.add_argument("--table", type=Path, nargs=2, metavar=("RAW", "RUNS"))
    asked.add_argument("--epsilon", type=float, nargs="*", default=[1.0, 3.0, 10.0])
    asked.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the table")
    options = asked.parse_args()
    if options.table:
        changes = dict(item.split("=", 1) for item in options.set)
        print_table(*options.table, options.epsilon, changes)
    else:
        print_times(options.steps)


# Time -------------------------------------------------------------------------------------------


def print_times(steps: int) -> None:
    """Print seconds a step at the same number of patients, and of the network's inputs."""
    study = protocol.load(protocol.shipped("private")).diffusion
    levels, batch = study.private.noise_levels, study.training.batch
    kinds = {
        f"plain, {batch} images": lambda: seconds_a_step(study, batch, 0, steps),
        f"private, {batch} patients, 1 level": lambda: seconds_a_step(study, batch, 1, steps),
        f"plain, {batch * levels} images": lambda: seconds_a_step(study, batch * levels, 0, steps),
        f"private, {batch} patients, {levels} levels": lambda: seconds_a_step(
            study, batch, levels, steps
        ),
    }
    found = in_turns(kinds)
    for name, seconds in found.items():
        print(f"{name:<32} {seconds:8.2f} s a step")
    plain, private, wide, several = found.values()
    print(f"\nratio at {batch} inputs: {private / plain:.2f}")
    print(f"ratio at {batch * levels} inputs: {several / wide:.2f}")


def in_turns(kinds: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Measure each kind three times, one after the other, and return the medians."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(3):
        for name, measure in kinds.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


class Enough(Exception):
    """Ends a training that has been timed."""


def seconds_a_step(study: protocol.Diffusion, batch: int, levels: int, steps: int) -> float:
    """Return the processor's seconds a step, the first left out; `levels` 0 is without privacy."""
    # So many images that nothing is saved or looked at meanwhile.
    training = study.training.model_copy(update={"batch": batch, "images": batch * 5000})
    settings = study.model_copy(update={"training": training, "private": None})
    if levels:
        private = study.private.model_copy(update={"noise_levels": levels, "accountant": "rdp"})
        settings = settings.model_copy(update={"private": private})
    ends: list[float] = []

    def progress(what: str, share: float) -> None:
        ends.append(time.process_time())
        if len(ends) > steps:
            raise Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Enough):
        train(make_task(settings, Path(folder)), Path(folder), progress)
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def make_task(settings: protocol.Diffusion, folder: Path) -> Task:
    """Make the denoiser's task on made latents, one image a patient."""
    latents = np.random.default_rng(0).standard_normal((1, PATIENTS, *SHAPE), dtype=np.float32)
    conditions = torch.randint(0, TOKENS, (1, PATIENTS, 1))
    schedule = Schedule(settings.schedule, settings.timesteps)
    torch.manual_seed(0)
    denoiser = Denoiser.build(settings, latent_channels=SHAPE[0], latent_px=SHAPE[1], tokens=TOKENS)

    def batch(start: int, count: int, own: slice) -> np.ndarray:
        return np.arange(start, start + count)[own] % PATIENTS

    def loss(modules, chosen: np.ndarray):
        z = torch.from_numpy(latents[0, chosen])
        t, eps = torch.randint(0, schedule.timesteps, (len(z),)), torch.randn_like(z)
        condition = conditions[0, chosen]
        value = denoising_loss(modules["denoiser"], z, condition, t, eps, schedule, settings)
        return value.mean(), {}

    training = settings.training
    player = Player(denoiser, loss, learning_rate(training))
    images, size = training.images, training.batch
    task = Task("diffusion", {"denoiser": player}, batch, images, size, 0, ("denoiser", 0.98))
    if settings.private is None:
        return task
    return make_private(
        task,
        settings,
        latents=latents,
        conditions=conditions,
        patients=np.arange(PATIENTS),
        folder=folder,
        account=folder / "spent.json",
        device="cpu",
    )


# Quality ----------------------------------------------------------------------------------------


def print_table(raw: Path, runs: Path, epsilons: list[float], changes: dict[str, str]) -> None:
    """Run the protocol at each epsilon and without a budget; print the findings."""
    columns: dict[str, dict] = {}
    first: Path | None = None
    for epsilon in (*epsilons, None):
        name = "no budget" if epsilon is None else f"epsilon {epsilon:g}"
        folder = runs / name.replace(" ", "-")
        if first is not None:
            share(first, folder)
        run = pipeline.start(study_of(epsilon, changes), folder)
        pipeline.ingest(run, raw, tell)
        for stage in (pipeline.split, pipeline.fit, pipeline.sample, pipeline.validate):
            stage(run, tell)
        first = first or folder
        columns[name] = read_findings(folder / "evidence" / "findings.jsonl")
    print("| finding | " + " | ".join(columns) + " | real against real |")
    print("|---|" + "---:|" * (len(columns) + 1))
    for finding in SHOWN:
        rows = [found.get(finding) for found in columns.values()]
        cells = ["-" if row is None else f"{row.value:.3g}" for row in rows]
        floor = next((row.reference for row in rows if row and row.reference is not None), None)
        print(f"| `{finding}` | {' | '.join(cells)} | {'-' if floor is None else f'{floor:.3g}'} |")


def study_of(epsilon: float | None, changes: dict[str, str]) -> protocol.Protocol:
    """Return protocols/private.yaml with another budget; None has none, and no rule on it."""
    path = protocol.shipped("private")
    plain = protocol.load(path)
    wanted = {"diffusion.private.epsilon": epsilon}
    if epsilon is None:
        rules = plain.to_dict()["gate"]["rules"]
        kept = [rule for rule in rules if not rule["finding"].startswith("privacy")]
        wanted = {"diffusion.private": None, "gate.rules": kept}
        changes = {k: v for k, v in changes.items() if not k.startswith("diffusion.private.")}
    return protocol.load(path, changes={**wanted, **{k: number(v) for k, v in changes.items()}})


def number(text: str) -> int | float | str:
    """Read a number, or leave the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def share(first: Path, folder: Path) -> None:
    """Copy the stages that do not hang on the budget, and the site's key."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(first / "site.key", folder / "site.key")
    (folder / "site.key").chmod(0o600)
    for stage in SHARED:
        if not (folder / stage).exists():
            shutil.copytree(first / stage, folder / stage)


def tell(what: str, share: float) -> None:
    """Show on one line how far a stage is."""
    print(f"\r{what} {share:6.1%}", end="" if share < 1 else "\n", flush=True)


if __name__ == "__main__":
    main()
