"""How fast nearest neighbours are found, in how much memory, and what more images cost.

    pip install --target /tmp/faiss --no-deps faiss-cpu
    PYTHONPATH=/tmp/faiss python benchmarks/search.py rates
    python benchmarks/search.py memory
    python benchmarks/search.py curve --sizes 1000 5000 20000 100000

`rates` lets the search through features, matrix products of the same features and, where it can be
imported, faiss' flat index take turns. A product is made as the search makes it, block by block
into the same room, or as one would write it, 1024 queries times all images; the latter also with a
topk. A rate is the product's time over the contender's, round by round: their median and range.

`memory` is the most that a process of its own has ever held, beside what it held before it began.

`curve` takes the time of a query by the number of images: through features alone, and in the whole
search of the evidence, which looks at every place of every image. From both it reckons what larger
cohorts would take. Time is the processor's, of one core; images are made, two of each patient.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from medsynth.domains import Symmetry
from medsynth.validation import neighbours, search
from medsynth.validation.neighbours import Parts, nearest
from medsynth.validation.windows import PARTS, views

COUNT, PEOPLE = 20, 4  # images and patients that the evidence takes of each look
LENS = 128  # features of the lens that a protocol trains
CHEST: Symmetry = "flips and rotations"
PAPER = (10_000, 100_000, 1_000_000, 10_000_000)


def main() -> None:
    """Measure what the command line asks for and print it."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("what", choices=["rates", "memory", "curve"])
    asked.add_argument("--images", type=int, default=20_000)
    asked.add_argument("--queries", type=int, default=2_048, help="for rates")
    asked.add_argument("--features", type=int, default=512)
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--sizes", type=int, nargs="*", default=[1_000, 5_000, 20_000])
    asked.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    asked.add_argument("--threads", type=int, default=1)
    options = asked.parse_args()
    torch.set_num_threads(options.threads)
    if options.what == "rates":
        print_rates(options.queries, options.images, options.features, options.rounds)
    elif options.what == "curve":
        print_curve(options.sizes, options.features)
    elif options.alone:
        print_own_memory(options.images, options.features)
    else:
        print_memory(options.images, options.features, options.threads)


# Rates ------------------------------------------------------------------------------------------


def print_rates(queries: int, images: int, features: int, rounds: int) -> None:
    """Print seconds and rates of all contenders."""
    asked, gallery = made_features(queries, features, 1), made_features(images, features, 2)
    contenders = contenders_for(asked, gallery)
    for run in contenders.values():
        run()  # to warm up
    times = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(timed(run))
    print(f"{queries} queries x {images} images x {features} features, {rounds} rounds")
    print(f"{'':34s} seconds   rate of the product by blocks   of whole rows")
    for name, seconds in times.items():
        rates = [
            say_rate(np.divide(times[base], seconds))
            for base in ("product by blocks", "product of whole rows")
        ]
        print(f"{name:34s} {np.median(seconds):7.2f}   {rates[0]:28s}  {rates[1]}")


def say_rate(rates: np.ndarray) -> str:
    """Return a median and its range."""
    return f"{np.median(rates):.2f} ({rates.min():.2f} to {rates.max():.2f})"


def contenders_for(asked: torch.Tensor, gallery: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Return what is compared, by name."""
    alone = whole(len(gallery))
    train = torch.rand(len(gallery), generator=torch.Generator().manual_seed(0)) < 0.6
    both = Parts(alone.patients, {"train": train, "everyone": torch.ones_like(train)})
    few = asked.split(neighbours.QUERIES)
    contenders: dict[str, Callable[[], object]] = {
        "product by blocks": lambda: products(few, gallery),
        "product of whole rows": lambda: [each @ gallery.T for each in few],
        "product of whole rows, topk": lambda: [(each @ gallery.T).topk(COUNT) for each in few],
        "search": lambda: nearest(asked, gallery, alone, count=COUNT, people=PEOPLE),
        "search, nearest two patients": lambda: nearest(asked, gallery, alone, count=1, people=2),
        "search, two overlapping parts": lambda: nearest(
            asked, gallery, both, count=COUNT, people=PEOPLE
        ),
    }
    try:
        import faiss
    except ImportError:
        print("faiss can't be imported: pip install --target /tmp/faiss --no-deps faiss-cpu")
        return contenders
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery.numpy())
    contenders[f"faiss {faiss.__version__}, flat"] = lambda: index.search(asked.numpy(), COUNT)
    return contenders


def products(few: tuple[torch.Tensor, ...], gallery: torch.Tensor) -> None:
    """Multiply block by block into one room."""
    room = torch.empty(neighbours.QUERIES * neighbours.GALLERY)
    for each in few:
        for block in gallery.split(neighbours.GALLERY):
            out = room[: len(each) * len(block)].view(len(each), len(block))
            torch.mm(each, block.T, out=out)


def timed(run: Callable[[], object]) -> float:
    """Return the processor's seconds that something takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def made_features(count: int, features: int, seed: int) -> torch.Tensor:
    """Return random features (count, features) of length 1."""
    drawn = torch.randn(count, features, generator=torch.Generator().manual_seed(seed))
    return drawn.div_(drawn.norm(dim=1, keepdim=True))


def whole(images: int) -> Parts:
    """Return a gallery in one part, two images a patient."""
    everyone = {"everyone": torch.ones(images, dtype=torch.bool)}
    return Parts(torch.arange(images) // 2, everyone)


# Memory -----------------------------------------------------------------------------------------


def print_memory(images: int, features: int, threads: int) -> None:
    """Print what a search of all images among as many holds at most, in a process of its own."""
    numbers = [f"--images={images}", f"--features={features}", f"--threads={threads}"]
    subprocess.run([sys.executable, __file__, "memory", "--alone", *numbers], check=True)


def print_own_memory(images: int, features: int) -> None:
    """Print what this very process holds before it searches, and at most."""
    asked, gallery = made_features(images, features, 1), made_features(images, features, 2)
    parts = whole(images)
    nearest(asked[:8], gallery[:64], whole(64), count=COUNT, people=PEOPLE)  # loads the libraries
    before, start = peak_mib(), time.monotonic()
    seconds = timed(lambda: nearest(asked, gallery, parts, count=COUNT, people=PEOPLE))
    elapsed, after = time.monotonic() - start, peak_mib()
    block = neighbours.QUERIES * neighbours.GALLERY * 4 / 2**20
    print(f"{images} x {images} x {features}, {torch.get_num_threads()} threads")
    print(f"before, features and all: {before:.0f} MiB; most: {after:.0f} MiB")
    print(f"more: {after - before:.0f} MiB, or {(after - before) / block:.1f} blocks of products")
    print(f"all products at once would be {images**2 * 4 / 2**20:.0f} MiB")
    print(f"{seconds:.0f} seconds of processor, {elapsed:.0f} by the clock")


def peak_mib() -> float:
    """Return the most that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# What more images cost --------------------------------------------------------------------------


def print_curve(sizes: list[int], features: int) -> None:
    """Print milliseconds of a query by number of images, and what follows for larger cohorts."""
    print("images      features, ms   all the search, ms   MiB held for the images")
    points = []
    for size in sizes:
        alone = through_features(size, features)
        gallery = made_gallery(size)
        points.append((size, alone, registered(gallery)))
        mib = size * held(gallery) / 2**20
        print(f"{size:9d} {points[-1][1]:13.2f} {points[-1][2]:20.1f} {mib:14.0f}", flush=True)
        del gallery
    if len(points) > 1:
        print_on_paper(points, held(made_gallery(1000)))


def print_on_paper(points: list[tuple[int, float, float]], each: float) -> None:
    """Print core-hours of as many queries as images, by straight lines through what was measured.

    The line is that of the smallest relative squares, so that small cohorts count as large ones.
    """
    size, *costs = np.array(points).T
    lines = [np.polyfit(size, cost, 1, w=1 / cost) for cost in costs]
    for name, (slope, start) in zip(("features", "all the search"), lines, strict=True):
        print(f"{name}: {start:.2f} ms a query and {slope * 1e6:.0f} ns an image")
    print("images = queries   features, core-hours   all, core-hours   GiB a process")
    for count in PAPER:
        hours = [count * (slope * count + start) / 3.6e6 for slope, start in lines]
        print(f"{count:16d} {hours[0]:19.2f} {hours[1]:17.1f} {count * each / 2**30:18.2f}")


def held(gallery: search.Gallery) -> float:
    """Return the bytes that are held for each image."""
    look, shown = gallery.look, gallery.shown
    tensors = (look.structures, look.features, gallery.norms, gallery.patients)
    return sum(each.nbytes for each in (*tensors, shown.whole, shown.windows)) / len(look)


def through_features(size: int, features: int, queries: int = neighbours.QUERIES) -> float:
    """Return milliseconds of a query that is looked up mirrored and not, among features alone."""
    seen, parts = made_features(size, features, 6), Parts(torch.arange(size) // 2, everyone(size))
    asked = torch.stack([made_features(queries, features, seed) for seed in (3, 4)])
    return 1000 / queries * timed(lambda: nearest(asked, seen, parts, count=COUNT, people=PEOPLE))


def registered(gallery: search.Gallery, queries: int = search.BATCH) -> float:
    """Return milliseconds of a query in the whole search."""
    ways = len(views(np.zeros((1, 1, 1, 1)), CHEST))
    asked = made_look(queries, 5, ways=ways, windows=ways)
    among = {name: mask.numpy() for name, mask in everyone(len(gallery.look)).items()}
    return 1000 / queries * timed(lambda: search.search(asked, gallery, among, candidates=COUNT))


def everyone(size: int) -> dict[str, torch.Tensor]:
    """Return two overlapping parts, as the evidence has: three in five train, and all."""
    train = torch.arange(size) % 5 < 3
    return {"train": train, "everyone": torch.ones_like(train)}


def made_gallery(size: int) -> search.Gallery:
    """Return made images, two for each patient, ready to be searched."""
    look = made_look(size, 6, ways=1, windows=len(PARTS))
    return search.build(look, np.arange(size) // 2, CHEST)


def made_look(size: int, seed: int, *, ways: int, windows: int) -> search.Look:
    """Return random pictures and features; what they show costs nothing and changes no time."""
    generator = torch.Generator().manual_seed(seed)
    structures = torch.empty(size, 64, 64, dtype=torch.float16)
    for few in structures.split(1024):
        few.copy_(torch.randn(few.shape, generator=generator).tanh_())
    seen = [made_features(size, LENS, seed + number) for number in range(ways + windows)]
    return search.Look(structures, torch.stack(seen[:ways]), torch.stack(seen[ways:]))


if __name__ == "__main__":
    main()
