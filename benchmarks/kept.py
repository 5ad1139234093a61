"""What each choice of an autoencoder keeps of patients whom it never saw.

    python benchmarks/kept.py RAW OUT protocols/fundus.yaml --seeds 1 2 --only "8 latent channels"

Each variant of ablations.py learns from the training patients, as long as the protocol says, and
all that `medsynth fidelity` measures is measured on the held-out patients, whom no variant saw.
With several seeds an image's number is its mean over them; intervals are of patients. "Better
than half" and "than the recipe" are paired differences on the same images. Seconds are the
processor's. Started again it goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import contest
import numpy as np
from ablations import AUTOENCODERS, BASE, changed, others, parser, say_where, slug, study_of
from timed import clock, warm_up

from medsynth import pipeline
from medsynth.finding import Finding
from medsynth.pictures import write_grid
from medsynth.pipeline import learn
from medsynth.pipeline.run import Run, parts_of
from medsynth.protocol import Protocol
from medsynth.runtime import digest_json, read_json, write_json
from medsynth.validation import keeping

SHOWN = (
    "reconstruction.psnr", "reconstruction.ms_ssim", "kept.edges", "kept.detail.2_4_px",
    "kept.power.2_4_px", "kept.vessels", "kept.spots", "kept.nuclei", "kept.nuclei_made_up",
)  # fmt: skip
PICTURED = 8


@dataclass(frozen=True, eq=False)
class Kept:
    """A variant's scores of the held-out images, means over its seeds, and what it cost."""

    scores: Mapping[str, np.ndarray]
    seconds: float


def prepare(raw: Path, out: Path, study: Protocol) -> tuple[Run, keeping.Subject]:
    """Read and divide the patients; return the run that all share and its held-out images."""
    common = pipeline.start(study, out / "common")
    pipeline.ingest(common, raw, contest.tell)
    pipeline.split(common, contest.tell)
    cohort, parts = parts_of(common)
    held = cohort.take(parts["holdout"])
    return common, keeping.Subject(held, study.validate_, study.seed, (), contest.tell)


def keep(common: Run, subject: keeping.Subject, name: str, study: Protocol, seed: int) -> Kept:
    """Train a variant with one seed and score it, or read what was scored before."""
    entry = contest.enter(common, slug(name), study, seed)
    told, table = entry.folder / "kept.json", entry.folder / "kept.npz"
    asked = digest_json([study.section("autoencoder"), study.section("image"), seed])
    if not (told.exists() and read_json(told)["asked"] == asked):
        warm_up()
        now = clock()
        began = now()
        entry.build(
            "autoencoder", lambda folder: learn.fit_autoencoder(entry, folder, contest.tell)
        )
        spent = now() - began
        rebuilt = contest.reconstructor(entry)
        np.savez(table, **keeping.look(subject, rebuilt, what=name))
        chosen = keeping.spread(subject.cohort.patients, PICTURED, seed=study.seed)
        before = subject.cohort.floats(chosen)
        write_grid(entry.folder / "kept.png", np.concatenate([before, rebuilt(before)]), columns=8)
        write_json(told, {"asked": asked, "seconds": spent})
    return Kept(dict(np.load(table)), read_json(told)["seconds"])


def over_seeds(rows: list[Kept]) -> Kept:
    """Return the mean of a variant's seeds, image by image."""
    scores = {name: np.mean([row.scores[name] for row in rows], 0) for name in rows[0].scores}
    return Kept(scores, float(np.mean([row.seconds for row in rows])))


# Telling ----------------------------------------------------------------------------------------


def table(subject: keeping.Subject, variants: Mapping[str, Kept], half: keeping.Scores) -> str:
    """Return a row a number in Markdown, and a column a variant with intervals over patients."""
    found = {
        name: {one.name: one for one in keeping.to_findings(subject, kept.scores, half)}
        for name, kept in variants.items()
    }
    first = next(iter(found.values()))
    names = [name for name in first if name in SHOWN or ".half_" in name]
    lines = ["| | " + " | ".join([*variants, "half size"]) + " |"]
    lines.append("|---|" + "---:|" * (len(variants) + 1))
    for name in names:
        cells = [_cell(one[name]) for one in found.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {first[name].reference:.3g} |")
    recipe = variants[BASE].scores
    for title, other in (("half size", half), ("the recipe", recipe)):
        gaps = {
            name: {one.name: one for one in keeping.better(subject, kept.scores, other)}
            for name, kept in variants.items()
        }
        for name in next(iter(gaps.values())):
            if name.removeprefix("better.") in SHOWN:
                cells = [_cell(one[name]) for one in gaps.values()]
                lines.append(f"| `{name}` than {title} | {' | '.join(cells)} | - |")
    seconds = [f"{kept.seconds:.0f}" for kept in variants.values()]
    return "\n".join([*lines, f"| seconds of training | {' | '.join(seconds)} | - |"])


def _cell(finding: Finding) -> str:
    return f"{finding.value:.3g} ({finding.low:.3g} to {finding.high:.3g})"


def main() -> None:
    """Make the changes of the command line, and print the table."""
    options = parser(__doc__.splitlines()[0], list(AUTOENCODERS)).parse_args()
    study = study_of(options)
    common, subject = prepare(options.raw, options.out, study)
    half = keeping.look(subject, keeping.halved, what="half size")
    variants = {}
    for name in others(study, options.only):
        own = changed(study, "autoencoder", AUTOENCODERS.get(name, {}))
        rows = [keep(common, subject, name, own, seed) for seed in options.seeds]
        variants[name] = over_seeds(rows)
    cohort = subject.cohort
    say_where()
    print("seeds", *options.seeds, end="; ")
    print(f"{len(cohort)} images of {len(np.unique(cohort.patients))} held-out patients\n")
    print(table(subject, variants, half))


if __name__ == "__main__":
    main()
