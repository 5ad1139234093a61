"""What keeps the denoiser of a small cohort from learning its patients by heart.

    python benchmarks/few.py NIH64 OUT protocols/chest_xray.yaml --seeds 1 2 \\
        --set split.validation=0.45 split.holdout=0.4 diffusion.training.images=32000

All variants see as many images, on one autoencoder; the split leaves few patients to train on. At
every checkpoint of the training images are drawn, from the same noise and labels, and held twice
against patients: as `diffusion.choose` does, against training and validation patients, for copies;
and as contest.py does, in a lens that none was trained with, against held-out patients, for
quality. Started again it goes on with the next variant.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from unittest.mock import patch

import contest
import numpy as np
from ablations import BASE, changed, parser, say_where, slug, study_of
from against_medfusion import as_cohort

from medsynth.pictures import write_grid
from medsynth.pipeline import choice, learn, parts_of
from medsynth.pipeline.run import Run
from medsynth.protocol import Choose, Protocol
from medsynth.runtime import digest_json, read_json, write_json
from medsynth.validation.statistics import clopper_pearson

VARIANTS = {
    BASE: {},
    "told": {"told": {"views": 8}},
    "told, mirrored": {"told": {"views": 8, "mirror": True}},
}
SHOWN = 32


@dataclass(frozen=True)
class Point:
    """A checkpoint of a variant with one seed: how many of `drawn` images were flagged, where
    `expected` is the share that chance flags; the scores against held-out patients."""

    name: str
    seed: int
    images_seen: int
    drawn: int
    flagged: int
    expected: float
    chosen: bool
    scores: dict[str, float]
    floors: dict[str, float]


def study_few(common: Run, study: Protocol, name: str, seed: int) -> list[Point]:
    """Train a variant with one seed, in this process; return its checkpoints."""
    base = contest.enter(common, BASE, study, seed)
    base.build("autoencoder", lambda folder: learn.fit_autoencoder(base, folder, contest.tell))
    chosen = study.diffusion.choose or Choose()
    knobs = {**VARIANTS[name], "choose": chosen.model_dump(mode="json")}
    entry = contest.enter(common, f"few-{slug(name)}", changed(study, "diffusion", knobs), seed)
    done = entry.folder / "points.json"
    asked = digest_json([entry.protocol.digest, seed])
    if not (done.exists() and read_json(done)["asked"] == asked):
        for made in ("autoencoder", "diffusion"):
            shutil.rmtree(entry.folder / made, ignore_errors=True)
        shutil.copytree(base.folder / "autoencoder", entry.folder / "autoencoder")
        points = [asdict(point) for point in _measure(common, entry, name, seed)]
        write_json(done, {"asked": asked, "points": points})
    return [Point(**row) for row in read_json(done)["points"]]


def _measure(common: Run, entry: contest.Entry, name: str, seed: int) -> list[Point]:
    drawn: dict[int, np.ndarray] = {}
    show = choice._show

    def keep_too(study, images, found, seen):
        drawn[seen] = images
        show(study, images, found, seen)

    with patch.object(choice, "_show", keep_too):
        entry.build("diffusion", lambda folder: learn.fit_diffusion(entry, folder, contest.tell))
    row = read_json(entry.folder / "diffusion" / choice.NAME)
    points = []
    for found in row["points"]:
        seen, images = found["images_seen"], drawn[found["images_seen"]]
        write_grid(entry.folder / f"drawn_{seen:010d}.png", images[:SHOWN], columns=8)
        scores, floors = contest.score(common, as_cohort(common, images))
        points.append(
            Point(
                name=name,
                seed=seed,
                images_seen=seen,
                drawn=found["drawn"],
                flagged=found["flagged"],
                expected=row["expected_share"],
                chosen=seen == row["chosen"],
                scores=scores,
                floors=floors,
            )
        )
    return points


def table(points: Sequence[Point]) -> str:
    """Return a row a checkpoint in Markdown: flagged images of all seeds with their 95 % interval,
    means of the scores over seeds, and with how many seeds it was chosen."""
    lines = ["| | images seen | flagged | Frechet | precision | recall | chosen |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for name, seen in dict.fromkeys((point.name, point.images_seen) for point in points):
        own = [point for point in points if (point.name, point.images_seen) == (name, seen)]
        flagged, drawn = sum(point.flagged for point in own), sum(point.drawn for point in own)
        share = clopper_pearson(flagged, drawn)
        cells = [
            f"{np.mean([point.scores[score] for point in own]):.3g}"
            for score in ("frechet", "precision", "recall")
        ]
        chosen = sum(point.chosen for point in own)
        lines.append(
            f"| {name} | {seen:,} | {flagged} of {drawn}: {share.value:.1%} ({share.low:.1%} to "
            f"{share.high:.1%}) | {' | '.join(cells)} | {chosen} of {len(own)} |"
        )
    floors = [f"{points[0].floors[score]:.3g}" for score in ("frechet", "precision", "recall")]
    chance = f"{points[0].expected:.1%} by chance"
    return "\n".join([*lines, f"| real against real | - | {chance} | {' | '.join(floors)} | - |"])


def main() -> None:
    """Train the variants of the command line, and print the table."""
    options = parser(__doc__.splitlines()[0], list(VARIANTS)).parse_args()
    study = study_of(options)
    common = contest.prepare(options.raw, options.out, study)
    points = [
        point
        for name in dict.fromkeys(options.only)
        for seed in options.seeds
        for point in contest.in_a_process(study_few, common, study, name, seed)
    ]
    cohort, parts = parts_of(common)
    say_where()
    sides = (
        f"{len(rows)} {part} images of {len(np.unique(cohort.patients[rows]))} patients"
        for part, rows in parts.items()
    )
    print("seeds", *options.seeds, "; ", ", ".join(sides), end="\n\n")
    print(table(points))


if __name__ == "__main__":
    main()
