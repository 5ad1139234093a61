"""Any protocols against each other: the same patients, the same split, the same time, one lens.

    python benchmarks/contest.py RAW OUT fundus.yaml other.yaml --minutes 5 --seeds 1 2 3

Time is the processor's on a CPU and the wall's on a GPU (timed.py). Each training's seconds an
image are measured first, on the very network and batch, and the images to be seen follow, so that
a recipe's own decay of the learning rate ends within the time; its warm-up is cut to a tenth of
that where it is longer. The denoiser gets what the autoencoder left.

The lens is trained once, in a size of its own, on training and held-out patients alike; no rival
sees it. It hardly sees grain or blur, so images are scored a second time in octaves (octaves.py),
which nothing was trained for. All draw as many images.

Started again it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from octaves import standardised
from scipy import stats
from timed import clock, train_stage

from medsynth import pipeline, protocol
from medsynth.cohort import Cohort
from medsynth.errors import ProtocolError
from medsynth.finding import Finding
from medsynth.pipeline import learn
from medsynth.pipeline.evidence import open_lens
from medsynth.pipeline.run import Run, open_autoencoder
from medsynth.protocol import Protocol
from medsynth.runtime import choose_device, derive_seed, digest_json, read_json, write_json
from medsynth.validation import Case, fidelity, reconstruction

LENS = protocol.Lens(
    width=24,
    features=64,
    training=protocol.Optimiser(images=40_000, batch=64, learning_rate=2e-3, warmup_images=2000),
)
"""What quality is measured in: no shipped protocol has a lens of this size."""
SHARED = ("intake", "split")
AUTOENCODERS_SHARE = 0.4
KNOWN = 2000  # training images at most that octaves are measured in units of
RECONSTRUCTED = 200  # images at most a side that autoencoders are compared by


@dataclass(frozen=True)
class Entry(Run):
    """One protocol and seed in a contest: a run whose patients and split are those of all."""

    common: Run

    def settings(self, stage: str) -> dict[str, Any]:
        """Return what a stage depends on; what is shared depends on what all share."""
        return (self.common if stage in SHARED else super()).settings(stage)


@dataclass(frozen=True)
class Result:
    """How a rival did with one seed.

    `seconds` and `seen` are by stage; `rate` is in images a second of its sampler, `peak_gib` the
    most memory that its process had (on a GPU: of the GPU). `scores` and `floors` are by finding,
    a floor being the same number of real against real.
    """

    name: str
    seed: int
    seconds: dict[str, float]
    seen: dict[str, int]
    rate: float
    peak_gib: float
    scores: dict[str, float]
    floors: dict[str, float]


def prepare(raw: Path, folder: Path, study: Protocol, *, lens: protocol.Lens = LENS) -> Run:
    """Read and divide the patients as `study` says, and train the lens; the run that all share."""
    common = pipeline.start(study.model_copy(update={"lens": lens}), folder / "common")
    pipeline.ingest(common, raw, tell)
    pipeline.split(common, tell)
    common.build("lens", lambda workspace: learn.fit_lens(common, workspace, tell))
    return common


def compete(
    common: Run,
    name: str,
    study: Protocol,
    *,
    minutes: float,
    seed: int,
    images: int,
    share: float = AUTOENCODERS_SHARE,
    credit: Mapping[str, float] | None = None,
) -> Result:
    """Train a protocol for so many minutes, draw images, score them; in a process of its own.

    `share` of the time is the autoencoder's. `credit` multiplies a stage's images where the
    network that stands for a rival's costs so many times what the rival's own does.
    """
    asked = digest_json([study.digest, minutes, seed, images, share, dict(credit or {})])
    folder = common.folder.parent / f"{name}-{seed}"
    done = folder / "result.json"
    if done.exists() and read_json(done)["asked"] == asked:
        return Result(**read_json(done)["result"])
    options = {"minutes": minutes, "seed": seed, "share": share, "credit": credit or {}}
    result = in_a_process(_compete, common, name, study, images, options)
    write_json(done, {"asked": asked, "result": asdict(result)})
    return result


def _compete(common: Run, name: str, study: Protocol, images: int, options: dict) -> Result:
    entry, spent = train(common, name, study, **options)
    rate = sample(entry, images)
    peak = peak_gib()  # before anything is scored
    synthetic = Cohort.read(entry.folder / "synthetic")
    scores, floors = score(common, synthetic, reconstruct=reconstructor(entry))
    seconds = {stage: row["seconds"] for stage, row in spent.items()}
    seen = {stage: row["images"] for stage, row in spent.items()}
    return Result(name, options["seed"], seconds, seen, rate, peak, scores, floors)


def in_a_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a fresh process, so that the memory that is measured is its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


# Training ---------------------------------------------------------------------------------------


def enter(common: Run, name: str, study: Protocol, seed: int) -> Entry:
    """Open a rival's folder, with the shared patients and split in it.

    Raises ProtocolError where its images would be others than everybody's.
    """
    if (study.domain, study.image) != (common.protocol.domain, common.protocol.image):
        raise ProtocolError(name, ["expected the domain and image section that all rivals share"])
    folder = common.folder.parent / f"{name}-{seed}"
    folder.mkdir(exist_ok=True)
    for stage in SHARED:
        if not (folder / stage).exists():
            shutil.copytree(common.folder / stage, folder / stage)
    return Entry(folder, study.model_copy(update={"seed": seed}), common)


def train(
    common: Run,
    name: str,
    study: Protocol,
    *,
    minutes: float,
    seed: int,
    share: float = AUTOENCODERS_SHARE,
    credit: Mapping[str, float] | None = None,
) -> tuple[Entry, dict[str, dict[str, float]]]:
    """Train autoencoder and denoiser for so many minutes together.

    Returns the entry, and by stage {images, seconds, planned seconds, seconds an image}.
    """
    entry, spent = enter(common, name, study, seed), {}
    for stage, planned in (("autoencoder", share * 60 * minutes), ("diffusion", 60 * minutes)):
        credited = (credit or {}).get(stage, 1.0)
        left = planned - sum(row["seconds"] / row["credit"] for row in spent.values())
        entry, spent[stage] = train_stage(entry, stage, left, credit=credited, progress=tell)
    return entry, spent


def peak_gib() -> float:
    """Return the most memory that this process has had, in GiB; on a GPU the GPU's."""
    if choose_device() == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return torch.cuda.max_memory_allocated() / 2**30


# Drawing and scoring ----------------------------------------------------------------------------


def sample(entry: Entry, images: int) -> float:
    """Draw a rival's images into its synthetic/; return images a second, NaN if drawn before.

    The rate is that of whole blocks: the network is always given `sample.batch` images. The first
    block that is drawn warms up and is left out where there are several.
    """
    settings = entry.protocol.sample.model_copy(update={"images": images})
    study = entry.protocol.model_copy(update={"sample": settings})
    there = len(list((entry.folder / "synthetic.tmp" / "blocks").glob("*.npy")))
    path, now = entry.folder / "sampling.json", clock()
    ends = [now()]
    pipeline.sample(replace(entry, protocol=study), lambda what, share: ends.append(now()))
    drawn = ends[there:]  # before the first block that was not there yet, and after each
    if len(drawn) > 1:
        timed = drawn[1:] if len(drawn) > 2 else drawn
        rate = settings.batch * (len(timed) - 1) / (timed[-1] - timed[0])
        write_json(path, {"rate": rate})
    return read_json(path)["rate"] if path.exists() else math.nan


def reconstructor(entry: Entry) -> Callable:
    """Return a function that passes images through the entry's autoencoder."""
    autoencoder = open_autoencoder(entry, choose_device())

    def reconstruct(images):
        with torch.inference_mode():
            tensor = torch.from_numpy(images).to(choose_device())
            return autoencoder.reconstruct(tensor).float().cpu().numpy()

    return reconstruct


def score(
    common: Run, synthetic: Cohort, *, reconstruct: Callable | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scores of images, and the floors: the same of real against real.

    By name: frechet, kernel, precision, recall, density, coverage in the lens and again in octaves
    (octaves.py), sharpness, and psnr, ssim of held-out images where there is an autoencoder.
    """
    cohort, parts = pipeline.parts_of(common)
    with tempfile.TemporaryDirectory() as private:
        case = Case(
            settings=common.protocol.validate_,
            domain=common.domain,
            train=cohort.take(parts["train"]),
            holdout=cohort.take(parts["holdout"]),
            synthetic=synthetic,
            lens=open_lens(common),
            reconstruct=reconstruct,
            seed=derive_seed(common.protocol.seed, "contest"),
            private=Path(private),
        )
        short = {_last(finding): finding for finding in fidelity.measure(case)}
        look = standardised(case.train.floats(np.arange(min(len(case.train), KNOWN))))
        again = {_last(finding): finding for finding in fidelity.measure(replace(case, lens=look))}
        short |= {f"octaves {name}": again[name] for name in again if name != "sharpness"}
        few = case.settings.model_copy(update={"fidelity_images": RECONSTRUCTED})
        kept = reconstruction.measure(replace(case, settings=few))
        short |= {_last(finding): finding for finding in kept}
    scores = {name: finding.value for name, finding in short.items()}
    return scores, {name: finding.reference for name, finding in short.items()}


def _last(finding: Finding) -> str:
    return finding.name.split(".")[1]


# Telling ----------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval (Student's t).

    Of one seed nothing is known but its value: the width is NaN.
    """
    if len(values) < 2:
        return statistics.mean(values), math.nan
    reach = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values)
    return statistics.mean(values), float(reach / math.sqrt(len(values)))


def table(results: Sequence[Result]) -> str:
    """Return the rivals side by side in Markdown: means over seeds +- their 95 % intervals."""
    rivals = {
        name: [r for r in results if r.name == name]
        for name in dict.fromkeys(result.name for result in results)
    }
    names = dict.fromkeys(name for result in results for name in result.scores)
    heads = [f"{name} (n = {len(own)})" for name, own in rivals.items()]
    lines = ["| | " + " | ".join([*heads, "real against real"]) + " |"]
    lines.append("|---|" + "---:|" * (len(rivals) + 1))
    for name in names:
        floors = [r.floors[name] for r in results if r.floors.get(name) is not None]
        floor = f"{floors[0]:.3g}" if floors else "-"
        cells = [cell([r.scores[name] for r in own if name in r.scores]) for own in rivals.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {floor} |")
    for label, get in _COSTS.items():
        cells = [cell([get(result) for result in own]) for own in rivals.values()]
        lines.append(f"| {label} | {' | '.join(cells)} | - |")
    return "\n".join(lines)


_COSTS: dict[str, Callable[[Result], float]] = {
    "autoencoder, minutes": lambda result: result.seconds.get("autoencoder", 0.0) / 60,
    "denoiser, minutes": lambda result: result.seconds.get("diffusion", 0.0) / 60,
    "autoencoder, images seen": lambda result: result.seen.get("autoencoder", 0),
    "denoiser, images seen": lambda result: result.seen.get("diffusion", 0),
    "sampler, images a second": lambda result: result.rate,
    "peak memory, GiB": lambda result: result.peak_gib,
}


def cell(values: Sequence[float], sign: str = "") -> str:
    """Return a cell of a table: mean +- 95 % interval, "-" of nothing; `sign` "+" shows it."""
    if not values:
        return "-"
    mean, reach = interval(values)
    return f"{mean:{sign}.3g}" + ("" if math.isnan(reach) else f" ± {reach:.2g}")


def tell(what: str, share: float) -> None:
    """Show on one line how far a stage is."""
    print(f"\r{what} {share:6.1%}", end="" if share < 1 else "\n", flush=True)


def main() -> None:
    """Let the protocols of the command line compete, and print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("raw", type=Path)
    asked.add_argument("out", type=Path)
    asked.add_argument("protocols", type=Path, nargs="+")
    asked.add_argument("--minutes", type=float, required=True)
    asked.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    asked.add_argument("--images", type=int, default=500)
    asked.add_argument("--share", type=float, default=AUTOENCODERS_SHARE)
    options = asked.parse_args()
    studies = {path.stem: protocol.load(path) for path in options.protocols}
    common = prepare(options.raw, options.out, next(iter(studies.values())))
    knobs = {"minutes": options.minutes, "images": options.images, "share": options.share}
    results = [
        compete(common, name, study, seed=seed, **knobs)
        for seed in options.seeds
        for name, study in studies.items()
    ]
    print(f"\n{options.minutes:g} minutes each, {torch.get_num_threads()} threads, seeds", end=" ")
    print(*options.seeds, f"; {options.images} images a side", end="\n\n")
    print(table(results))


if __name__ == "__main__":
    main()
