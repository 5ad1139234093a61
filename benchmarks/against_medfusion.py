"""medsynth against the published Medfusion recipe and two tutorials, in the same time.

    python benchmarks/against_medfusion.py --budget-minutes 20 --data DIR --out RUNS

All learn from the same patients, draw as many images, and are scored in a lens that none of them
knows (contest.py). The rivals beside protocols/medfusion.yaml are a plain diffusers loop
(rival_diffusers.py) and MONAI's tutorial (rival_monai.py).

diffusers' classes, with Medfusion's published widths, take more arithmetic than the authors' own
networks: 684 against 313 GFLOP an image of 256 px (autoencoder, forward and backward) and 188
against 154 (denoiser). So that its time is what it would be in the authors' code, Medfusion gets
that much more: `--no-credit` leaves it out. Its sampler's speed is printed as it was measured here.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import contest
import numpy as np
import torch
from contest import Result
from timed import Drawn, warm_up

from medsynth import pipeline, protocol
from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.data.loader import Frames
from medsynth.errors import DataError
from medsynth.pictures import write_grid
from medsynth.pipeline.run import Run
from medsynth.protocol import Protocol
from medsynth.runtime import digest_json, read_json, write_json

CREDIT = {"autoencoder": 684 / 313, "diffusion": 188 / 154}
ALIKE = ("domain", "image", "data", "slides", "deidentify", "split")
OTHERS = ("diffusers", "monai")
SHOWN = 32


def main() -> None:
    """Let those that the command line names compete, and print the table."""
    options = _options()
    study = protocol.load(options.protocol, profile=options.profile)
    common = contest.prepare(options.data, options.out, study)
    results = []
    for number in range(options.seeds):
        for name in options.rivals:
            if name not in OTHERS or number < options.other_seeds:
                results.append(_compete(common, name, study, number + 1, options))
    for name in options.rivals:
        show(common, name, options.out / f"{name}.png")
    print(f"\n{shlex.join(sys.argv)}\n{platform.machine()}, {os.cpu_count()} cores", end=", ")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__};", end=" ")
    print(f"{options.budget_minutes:g} minutes each, {options.images} images each\n")
    print(contest.table(results))
    if "medfusion" in options.rivals and not options.no_credit:
        print(
            f"\nMedfusion's minutes count as {CREDIT['autoencoder']:.2f} (autoencoder) and", end=""
        )
        print(f" {CREDIT['diffusion']:.2f} (denoiser) of those that are shown.")


def _options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--budget-minutes", type=float, required=True)
    asked.add_argument("--data", type=Path, required=True, help="folder of patients' images")
    asked.add_argument("--out", type=Path, default=Path("runs/against_medfusion"))
    asked.add_argument("--protocol", type=Path, default=protocol.shipped("chest_xray"))
    asked.add_argument("--profile", help="of the protocol and of medfusion.yaml, as `full`")
    asked.add_argument("--rivals", nargs="+", default=["medsynth", "medfusion", *OTHERS])
    asked.add_argument("--seeds", type=int, default=3)
    asked.add_argument("--other-seeds", type=int, default=1, help="of the two tutorials")
    asked.add_argument("--images", type=int, default=500, help="that each rival draws")
    asked.add_argument("--share", type=float, default=contest.AUTOENCODERS_SHARE)
    asked.add_argument("--no-credit", action="store_true")
    return asked.parse_args()


def _compete(
    common: Run, name: str, study: Protocol, seed: int, options: argparse.Namespace
) -> Result:
    knobs = {"minutes": options.budget_minutes, "seed": seed, "images": options.images}
    if name in OTHERS:
        return compete_with(common, name, share=options.share, **knobs)
    if name == "medsynth":
        return contest.compete(common, name, study, share=options.share, **knobs)
    if name != "medfusion":
        raise DataError(f"expected medsynth, medfusion, diffusers or monai, got {name}")
    credit = None if options.no_credit else CREDIT
    rival = medfusion(study, options.profile)
    return contest.compete(common, name, rival, share=options.share, credit=credit, **knobs)


def medfusion(study: Protocol, profile: str | None = None) -> Protocol:
    """Return the published recipe for the patients and images of another protocol."""
    rival = protocol.load(protocol.shipped("medfusion"), profile=profile)
    return rival.model_copy(update={name: getattr(study, name) for name in ALIKE})


def compete_with(
    common: Run, name: str, *, minutes: float, seed: int, images: int, share: float
) -> Result:
    """Let a rival with a loop of its own compete, in a process of its own; see contest.compete."""
    asked = digest_json([name, common.protocol.digest, minutes, seed, images, share])
    folder = common.folder.parent / f"{name}-{seed}"
    done = folder / "result.json"
    if done.exists() and read_json(done)["asked"] == asked:
        return Result(**read_json(done)["result"])
    knobs = {"seconds": 60 * minutes, "share": share, "count": images, "seed": seed}
    drawn, peak = contest.in_a_process(run_rival, name, common, knobs)
    synthetic = as_cohort(common, drawn.images)
    (folder / "synthetic").mkdir(parents=True, exist_ok=True)
    synthetic.write(folder / "synthetic")
    scores, floors = contest.score(common, synthetic)
    result = Result(name, seed, drawn.seconds, drawn.seen, drawn.rate, peak, scores, floors)
    write_json(done, {"asked": asked, "result": asdict(result)})
    return result


def run_rival(name: str, common: Run, knobs: dict) -> tuple[Drawn, float]:
    """Return what `rival_NAME.py` drew after training on the common run, and its peak memory."""
    cohort, parts = pipeline.parts_of(common)
    train = Frames(cohort, parts["train"])
    kinds = [tuple(sorted(labels.items())) for labels in train.labels]
    numbers = {kind: number for number, kind in enumerate(sorted(set(kinds)))}
    classes = np.array([numbers[kind] for kind in kinds], np.int64)
    warm_up()
    rival = importlib.import_module(f"rival_{name}")
    drawn = rival.compete(train[np.arange(len(train))], classes, **knobs)
    return drawn, contest.peak_gib()


def as_cohort(common: Run, images: np.ndarray) -> Cohort:
    """Return images (N, C, H, W) in [-1, 1] as a synthetic cohort of the common run's domain."""
    pixels = to_pixels(images, bits=common.protocol.image.bits)
    records = [Record(id=f"syn-{i + 1:06d}", origin="synthetic") for i in range(len(pixels))]
    return Cohort(common.protocol.domain, tuple(records), pixels)


def show(common: Run, name: str, path: Path) -> None:
    """Write a rival's first images of the first seed, not chosen, in one picture."""
    made = Cohort.read(common.folder.parent / f"{name}-1" / "synthetic")
    write_grid(path, made.floats(np.arange(min(SHOWN, len(made)))), columns=8)


if __name__ == "__main__":
    main()
