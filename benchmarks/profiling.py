"""Where the time goes, lane by lane, and what share of the machine's matrix product is reached.

    python benchmarks/profiling.py protocols/chest_xray.yaml
    python benchmarks/profiling.py protocols/chest_xray.yaml --profile full --lanes denoiser search

The same command on a GPU takes the GPU's profile, in bfloat16 where training uses it. Nobody's
images are needed: each network is built as the protocol says and trained for some steps by the very
stage on made-up patients; a batch is drawn; made images are searched. Of each lane

    seconds      of a step, a batch or a query, the processor's on a CPU and the wall's on a GPU
    arithmetic   multiplications and additions of convolutions, products and attention, counted
    of peak      arithmetic over seconds, over that of a plain large matrix product, measured first
    where        shares of the time by kind of work, from torch.profiler

On a CPU set OMP_NUM_THREADS=1: processor time of one thread is work, however busy the machine.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from search import CHEST, COUNT, everyone, made_gallery, made_look
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from medsynth import protocol, synthesis
from medsynth.pipeline import rehearsal
from medsynth.pipeline.run import Run, open_autoencoder
from medsynth.runtime import choose_device
from medsynth.training import loop
from medsynth.validation import search
from medsynth.validation.windows import views

LANES = ("lens", "autoencoder", "denoiser", "sampling", "decoding", "search")
STAGES = {"lens": "lens", "autoencoder": "autoencoder", "denoiser": "diffusion"}
WARM, TIMED = 2, 4  # steps
DRAWN_STEPS = 4
QUERIES, REAL = 32, 2000
KINDS = {
    "convolution": ("conv",),
    "product": ("mm", "linear", "matmul", "attention", "bmm"),
    "norm": ("norm",),
    "optimiser": ("adam", "_foreach", "lerp"),
    "moving": ("copy", "cat", "clone", "index", "pad", "upsample", "flip", "rot90", "shuffle",
               "contiguous", "to"),
}  # fmt: skip


@dataclass(frozen=True)
class Lane:
    """What one step of a lane takes: seconds, multiplications and additions, and the shares of its
    time by kind; `unit` is what a step makes."""

    name: str
    unit: str
    seconds: float
    flop: float
    shares: dict[str, float]


def clock() -> float:
    """Return seconds: the processor's on a CPU; on a GPU the wall's, once it is done."""
    if choose_device() == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak(repeats: int = 7) -> float:
    """Return the multiplications and additions a second of a large matrix product."""
    on_cpu = choose_device() == "cpu"
    size, dtype = (2048, torch.float32) if on_cpu else (8192, torch.bfloat16)
    a = torch.randn(size, size, device=choose_device()).to(dtype)
    a @ a
    taken = []
    for _ in range(repeats):
        began = clock()
        a @ a
        taken.append(clock() - began)
    return 2 * size**3 / median(taken)


def watch(step: Callable[[], object], name: str, unit: str) -> Lane:
    """Time, count and profile a step, which must cost the same each time."""
    for _ in range(WARM):
        step()
    taken = []
    for _ in range(TIMED):
        began = clock()
        step()
        taken.append(clock() - began)
    with FlopCounterMode(display=False) as counted:
        step()
    on_cpu = choose_device() == "cpu"
    kinds = [ProfilerActivity.CPU] if on_cpu else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=kinds) as seen:
        step()
    spent: Counter[str] = Counter()
    for event in seen.key_averages():
        own = event.self_cpu_time_total if on_cpu else event.self_device_time_total
        spent[kind_of(event.key)] += own
    total = sum(spent.values()) or 1
    shares = {kind: spent[kind] / total for kind in (*KINDS, "other")}
    return Lane(name, unit, median(taken), counted.get_total_flops(), shares)


def kind_of(operation: str) -> str:
    """Return the kind of work of an operation by its name."""
    name = operation.removeprefix("aten::").lower()
    for kind, signs in KINDS.items():
        if any(name == sign or (len(sign) > 2 and sign in name) for sign in signs):
            return kind
    return "other"


class _Seen(Exception):
    """Ends a training whose step was watched."""


def training(run: Run, lane: str) -> Lane:
    """Watch a training's step, whichever players take part at its end."""
    stage, found = STAGES[lane], []
    batch = getattr(run.protocol, stage).training.batch

    def instead(task: loop.Task, state) -> None:
        def step() -> None:
            task_step(task, state)

        found.append(watch(step, lane, f"{batch} images trained on"))
        raise _Seen

    task_step = loop._step
    never = 10**6 * batch
    with tempfile.TemporaryDirectory() as folder, patch.object(loop, "_step", instead):
        try:
            short = rehearsal.seeing(run, stage, never, 0)
            rehearsal.BUILDERS[stage](short, Path(folder), lambda what, share: None)
        except _Seen:
            return found[0]
    raise AssertionError("a training ended without a step")


def drawing(run: Run, lane: str) -> Lane:
    """Watch a batch being drawn with DRAWN_STEPS steps, or only decoded."""
    from medsynth.models.denoiser import Denoiser
    from medsynth.vocabulary import Vocabulary

    settings, device = run.protocol.sample, choose_device()
    autoencoder = open_autoencoder(run, device)
    denoiser = Denoiser.load(run.folder / "diffusion").to(device)
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")
    config, count = denoiser.unet.config, settings.batch
    z = torch.randn(count, config.in_channels, config.sample_size, config.sample_size).to(device)

    def draw() -> None:
        synthesis.sample(
            denoiser,
            autoencoder,
            vocabulary,
            [{}] * count,
            settings=settings.model_copy(update={"steps": DRAWN_STEPS}),
            diffusion=run.protocol.diffusion,
            seeds=range(count),
            device=device,
        )

    def decode() -> None:
        with torch.inference_mode():
            autoencoder.decode(z)

    if lane == "decoding":
        return watch(decode, lane, f"{count} images decoded")
    return watch(draw, lane, f"{count} images in {DRAWN_STEPS} steps, decoded")


def searching() -> Lane:
    """Watch made images being looked up among others."""
    import numpy as np

    gallery = made_gallery(REAL)
    ways = len(views(np.zeros((1, 1, 1, 1)), CHEST))
    asked = made_look(QUERIES, 5, ways=ways, windows=ways)
    among = {name: mask.numpy() for name, mask in everyone(REAL).items()}

    def look_up() -> None:
        search.search(asked, gallery, among, candidates=COUNT)

    return watch(look_up, "search", f"{QUERIES} queries among {REAL:,}")


def lanes(study: protocol.Protocol, asked: list[str]) -> list[Lane]:
    """Watch the lanes that are asked for."""
    found = []
    parts = {"train": rehearsal.TRAINED, "validation": 16, "holdout": rehearsal.HELD_OUT}
    with tempfile.TemporaryDirectory() as folder:
        run = rehearsal.rehearse(rehearsal.simplify(study), Path(folder) / "run", parts)
        for lane, stage in STAGES.items():
            if lane in asked:
                found.append(training(run, lane))
            later = {"autoencoder": {"denoiser", "sampling", "decoding"},
                     "denoiser": {"sampling", "decoding"}}.get(lane, set())  # fmt: skip
            if later & {*asked}:  # what comes later needs some network here, however it is
                batch = getattr(run.protocol, stage).training.batch
                run = rehearsal.seeing(run, stage, batch)
                run.build(stage, lambda to, s=stage, r=run: rehearsal.BUILDERS[s](
                    r, to, lambda what, share: None))  # fmt: skip
        found += [drawing(run, lane) for lane in ("sampling", "decoding") if lane in asked]
    return found + [searching()] * ("search" in asked)


def table(found: list[Lane], most: float) -> str:
    """Lay out the lanes in Markdown."""
    kinds = [*KINDS, "other"]
    lines = [
        "| lane | what | seconds | GFLOP | of peak | " + " | ".join(kinds) + " |",
        "|---|---|---:|---:|---:|" + "---:|" * len(kinds),
    ]
    for lane in found:
        reached = lane.flop / lane.seconds / most
        shares = " | ".join(f"{lane.shares[kind]:.0%}" for kind in kinds)
        lines.append(
            f"| {lane.name} | {lane.unit} | {lane.seconds:.3g} | {lane.flop / 1e9:.3g} | "
            f"{reached:.0%} | {shares} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Watch what the command line asks for and print the table."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("protocol", type=Path)
    asked.add_argument("--profile", default=None)
    asked.add_argument("--lanes", nargs="+", choices=LANES, default=list(LANES))
    options = asked.parse_args()
    study = protocol.load(options.protocol, profile=options.profile)
    most = peak()
    where = torch.cuda.get_device_name() if choose_device() != "cpu" else platform.machine()
    print(f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"a large matrix product: {most / 1e9:,.0f} GFLOP/s\n", flush=True)
    print(table(lanes(study, options.lanes), most))


if __name__ == "__main__":
    main()
