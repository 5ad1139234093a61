"""What each choice of a recipe is worth: the recipe, and one change at a time.

    python benchmarks/ablations.py RAW OUT protocols/chest_xray.yaml --minutes 3 --seeds 1

All have the same patients, split, lens and time, by the clock of timed.py; a cost of its own (views
to encode, terms of a loss) is paid out of that time. A change of the denoiser's learns on the
recipe's own autoencoder, and where a step costs what the recipe's does, it sees as many images: the
clock of a busy machine is off by a fifth. A change of the autoencoder's is followed by the recipe's
denoiser. The lengths of the moving average are all made of one training. A second table says what
each change costs, paired by seed. Started again it goes on; with `--only` some changes are made,
which a later call adds to.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import contest
import numpy as np
import torch
from contest import Entry, Result
from ruamel.yaml import YAML
from timed import train_stage

from medsynth import protocol
from medsynth.cohort import Cohort
from medsynth.models.denoiser import Denoiser
from medsynth.pictures import write_grid
from medsynth.pipeline.run import Run
from medsynth.protocol import Protocol
from medsynth.runtime import digest_json, read_json, write_json
from medsynth.training import averages

BASE, LENGTHS = "recipe", "lengths"
AUTOENCODERS: dict[str, dict[str, Any]] = {
    "gradient loss": {"gradient_weight": 0.5},
    "frequency loss": {"frequency_weight": 1.0},
    "energy loss": {"energy_weight": 0.05},
    "lens loss": {
        "perceptual": {
            "weight": 0.02,
            "training": {
                "images": 6400,
                "batch": 32,
                "learning_rate": 2e-3,
                "warmup_images": 640,
            },
        }
    },
    "SSIM at 3 sizes": {"ssim_scales": 3},
    "no SSIM": {"ssim_weight": 0.0},
    "discriminator": {
        "adversarial": {"after_images": 6000, "learning_rate": 2e-4},
        "training": {"images": 12000},
    },
    "published stem": {"fold_px": 1, "widths": [32, 64, 64]},  # as small a latent, unfolded
    "random start": {"principal_start": False},
    "raw latents": {"latents": "raw"},
    "4 latent channels": {"latent_channels": 4},
    "8 latent channels": {"latent_channels": 8},
    "8 channels, energy loss": {"latent_channels": 8, "energy_weight": 0.02},
    "8 channels, gradient loss": {"latent_channels": 8, "gradient_weight": 0.5},
    "8 channels, no SSIM": {"latent_channels": 8, "ssim_weight": 0.0},
    "12 latent channels": {"latent_channels": 12},
    "16 latent channels": {"latent_channels": 16},
}
_V = {"objective": "v", "schedule": "cosine"}
DENOISERS: dict[str, dict[str, Any]] = {
    "v": _V,
    "v, min-SNR": {**_V, "min_snr_gamma": 5.0},
    "v, zero terminal SNR": {**_V, "zero_terminal_snr": True},
    "v, scaled linear": {**_V, "schedule": "scaled_linear"},
    "predicts noise": {**_V, "objective": "eps"},
    "flow, logit-normal": {"times": "logit_normal"},
    "l1": {"loss": "l1"},
    "constant rate": {"training.decay": "constant"},
    "no warm-up": {"training.warmup_images": 0},
    "batch of 64": {"training.batch": 64},
    "batch of 64, rate doubled": {"training.batch": 64, "training.learning_rate": 2e-3},
    "no average": {"ema": 0.0},
    "told": {"told": {"views": 4, "mirror": True}},
    "no attention": {"attention": False, "middle_attention": False},
    "attention at the lowest level": {"attention": True},
}
COSTLY = {"attention", "middle_attention", "told", "training.batch"}
"""Knobs of the denoiser's that change what a step takes."""
COLUMNS = ("frechet", "kernel", "precision", "recall", "coverage", "sharpness", "octaves frechet")
OF_IMAGES = ("psnr", "ssim")
SHOWN = 16


@dataclass(frozen=True)
class Asked:
    """What all variants of one seed have in common; `share` of the minutes is the autoencoder's."""

    common: Run
    study: Protocol
    minutes: float
    share: float
    images: int
    seed: int

    def seconds(self, stage: str) -> float:
        """Return the time that a stage gets."""
        share = self.share if stage == "autoencoder" else 1 - self.share
        return 60 * self.minutes * share


def changed(study: Protocol, section: str, changes: Mapping[str, Any]) -> Protocol:
    """Return a study with knobs of a section changed; `attention` says of the lowest level whether
    it has some, and the others have none."""
    flat = {f"{section}.{name}": value for name, value in changes.items()}
    if "attention" in changes:
        levels = len(study.diffusion.widths)
        flat[f"{section}.attention"] = [False] * (levels - 1) + [changes["attention"]]
    return protocol.parse(protocol.to_yaml(study), changes=flat)


def others(study: Protocol, names: Sequence[str]) -> list[str]:
    """Return the recipe's name and those of the changes that are not what the study does anyway."""
    return [BASE, *(name for name in dict.fromkeys(names) if _changes_it(study, name))]


def _changes_it(study: Protocol, name: str) -> bool:
    section = "autoencoder" if name in AUTOENCODERS else "diffusion"
    return name == LENGTHS or changed(study, section, _changes(name)) != study


# One variant ------------------------------------------------------------------------------------


def run(asked: Asked, name: str) -> list[Result]:
    """Train, draw and score a variant, in a process of its own; for LENGTHS there are several."""
    done = asked.common.folder.parent / f"{slug(name)}-{asked.seed}.json"
    key = digest_json(
        [asked.study.digest, asked.minutes, asked.share, asked.images, _changes(name)]
    )
    if not (done.exists() and read_json(done)["asked"] == key):
        results = contest.in_a_process(_run, asked, name, _as_many(asked, name))
        write_json(done, {"asked": key, "results": [asdict(result) for result in results]})
    return [Result(**row) for row in read_json(done)["results"]]


def _as_many(asked: Asked, name: str) -> int | None:
    """Return how many images the recipe saw, where a change leaves a step's cost as it is."""
    if name not in DENOISERS or COSTLY & DENOISERS[name].keys():
        return None
    return run(asked, BASE)[0].seen["diffusion"]


def _changes(name: str) -> dict[str, Any]:
    return AUTOENCODERS.get(name) or DENOISERS.get(name) or {}


def slug(name: str) -> str:
    """Return a variant's name as that of a folder."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _run(asked: Asked, name: str, images: int | None) -> list[Result]:
    if name in AUTOENCODERS:
        study = changed(asked.study, "autoencoder", AUTOENCODERS[name])
        entry = contest.enter(asked.common, slug(name), study, asked.seed)
        entry, spent = train_stage(
            entry, "autoencoder", asked.seconds("autoencoder"), progress=contest.tell
        )
        return [_finish(asked, name, entry, {"autoencoder": spent})]
    entry, spent = _on_the_recipe_s(asked, name, DENOISERS.get(name, {}))
    if name == LENGTHS:
        return _lengths(asked, entry, {"autoencoder": spent})
    return [_finish(asked, name, entry, {"autoencoder": spent}, images)]


def _on_the_recipe_s(
    asked: Asked, name: str, changes: Mapping[str, Any]
) -> tuple[Entry, dict[str, float]]:
    """Return a variant of the denoiser's with the recipe's autoencoder in its folder."""
    base = contest.enter(asked.common, BASE, asked.study, asked.seed)
    base, spent = train_stage(
        base, "autoencoder", asked.seconds("autoencoder"), progress=contest.tell
    )
    study = changed(base.protocol, "diffusion", changes)
    entry = contest.enter(asked.common, slug(name), study, asked.seed)
    if not (entry.folder / "autoencoder").exists():
        shutil.copytree(base.folder / "autoencoder", entry.folder / "autoencoder")
    return entry, spent


def _finish(
    asked: Asked,
    name: str,
    entry: Entry,
    spent: dict[str, dict[str, float]],
    images: int | None = None,
) -> Result:
    """Train the denoiser, for its time or for so many images; draw and score."""
    planned = asked.seconds("diffusion")
    entry, row = train_stage(entry, "diffusion", planned, images=images, progress=contest.tell)
    return _score(asked, name, entry, spent | {"diffusion": row})


def _score(asked: Asked, name: str, entry: Entry, spent: dict[str, dict[str, float]]) -> Result:
    rate = contest.sample(entry, asked.images)
    made = Cohort.read(entry.folder / "synthetic")
    show = asked.common.folder.parent / f"{slug(name)}-{asked.seed}.png"
    write_grid(show, made.floats(np.arange(min(SHOWN, len(made)))), columns=8)
    scores, floors = contest.score(asked.common, made, reconstruct=contest.reconstructor(entry))
    seconds = {stage: row["seconds"] for stage, row in spent.items()}
    seen = {stage: row["images"] for stage, row in spent.items()}
    return Result(name, asked.seed, seconds, seen, rate, contest.peak_gib(), scores, floors)


def _lengths(asked: Asked, entry: Entry, spent: dict[str, dict[str, float]]) -> list[Result]:
    """Train once with averages by powers, and score the average of every length."""
    kept = entry.folder / averages.FOLDER
    whole = changed(entry.protocol, "diffusion", {"averages": {"kept": 16, "length": 0.1}})
    entry = contest.enter(asked.common, LENGTHS, whole, asked.seed)
    choose = averages.choose

    def keep_too(module, folder, length, validate):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder / averages.FOLDER, kept)
        return choose(module, folder, length, validate)

    with patch.object(averages, "choose", keep_too):
        entry, row = train_stage(
            entry, "diffusion", asked.seconds("diffusion"), progress=contest.tell
        )
    spent = spent | {"diffusion": row}
    return [_of_length(asked, entry, length, spent) for length in averages.LENGTHS_TRIED]


def _of_length(asked: Asked, entry: Entry, length: float, spent: dict) -> Result:
    name = f"average of length {length:g}"
    study = changed(entry.protocol, "diffusion", {"averages": {"kept": 16, "length": length}})
    own = contest.enter(asked.common, slug(name), study, asked.seed)
    if not (own.folder / "autoencoder").exists():
        shutil.copytree(entry.folder / "autoencoder", own.folder / "autoencoder")

    def build(folder: Path) -> None:
        shutil.copy(entry.folder / "diffusion" / "vocabulary.json", folder)
        denoiser = Denoiser.load(entry.folder / "diffusion")
        denoiser.load_state_dict(averages.reconstruct(entry.folder, length)[0])
        denoiser.save(folder)

    own.build("diffusion", build)
    return _score(asked, name, own, spent)


# Telling ----------------------------------------------------------------------------------------


def table(results: Sequence[Result]) -> str:
    """Return a row a variant in Markdown: means over seeds +- their 95 % intervals, the floor of
    real against real last, and what the denoiser saw."""
    names = [*COLUMNS, *OF_IMAGES]
    lines = ["| | " + " | ".join([*names, "denoiser's images"]) + " |"]
    lines.append("|---|" + "---:|" * (len(names) + 1))
    for variant in dict.fromkeys(result.name for result in results):
        own = [result for result in results if result.name == variant]
        cells = [contest.cell([result.scores[name] for result in own]) for name in names]
        seen = contest.cell([float(result.seen["diffusion"]) for result in own])
        lines.append(f"| {variant} | {' | '.join(cells)} | {seen} |")
    floors = [results[0].floors.get(name) for name in names]
    shown = ["-" if floor is None else f"{floor:.3g}" for floor in floors]
    lines.append(f"| real against real | {' | '.join(shown)} | - |")
    return "\n".join(lines)


def paired(results: Sequence[Result]) -> str:
    """Return in Markdown what each change costs: its scores less the recipe's with the same seed,
    which draws from the same noise; mean +- 95 % interval over seeds."""
    recipes = {result.seed: result for result in results if result.name == BASE}
    lines = ["| less the recipe | seeds | " + " | ".join(COLUMNS) + " |"]
    lines.append("|---|" + "---:|" * (len(COLUMNS) + 1))
    for variant in dict.fromkeys(result.name for result in results if result.name != BASE):
        own = [r for r in results if r.name == variant and r.seed in recipes]
        cells = [
            contest.cell([r.scores[name] - recipes[r.seed].scores[name] for r in own], sign="+")
            for name in COLUMNS
        ]
        lines.append(f"| {variant} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parser(description: str, every: Sequence[str]) -> argparse.ArgumentParser:
    """Return the command line of a benchmark of changes, of which there are `every`."""
    asked = argparse.ArgumentParser(description=description)
    asked.add_argument("raw", type=Path)
    asked.add_argument("out", type=Path)
    asked.add_argument("protocol", type=Path)
    asked.add_argument("--seeds", type=int, nargs="+", default=[1])
    asked.add_argument("--only", nargs="+", choices=every, default=every, metavar="CHANGE")
    asked.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", dest="knobs")
    return asked


def study_of(options: argparse.Namespace) -> Protocol:
    """Return the protocol that a command line names, with its knobs set."""
    pairs = (knob.split("=", 1) for knob in options.knobs)
    changes = {key: YAML(typ="safe").load(value) for key, value in pairs}
    return protocol.load(options.protocol, changes=changes)


def say_where() -> None:
    """Print the command, the machine and the versions of a table."""
    print(f"\n{shlex.join(sys.argv)}\n{platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__};", end=" ")


def main() -> None:
    """Make the changes of the command line, and print the table."""
    asked = parser(__doc__.splitlines()[0], [BASE, *DENOISERS, LENGTHS, *AUTOENCODERS])
    asked.add_argument("--minutes", type=float, required=True)
    asked.add_argument("--share", type=float, default=contest.AUTOENCODERS_SHARE)
    asked.add_argument("--images", type=int, default=500)
    options = asked.parse_args()
    study = study_of(options)
    common = contest.prepare(options.raw, options.out, study)
    knobs = (options.minutes, options.share, options.images)
    results = [
        result
        for seed in options.seeds
        for name in others(study, options.only)
        for result in run(Asked(common, study, *knobs, seed), name)
    ]
    say_where()
    print(f"{options.minutes:g} minutes each, seeds", *options.seeds, end="; ")
    print(f"{options.images} images a side\n")
    print(table(results), paired(results), sep="\n\n")


if __name__ == "__main__":
    main()
