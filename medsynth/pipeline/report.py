"""The private report: what a person inside the hospital wants to see first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort
from ..finding import read_verdict
from ..runtime import derive_seed, read_json, read_jsonl, write_text
from . import choice
from .evidence import findings_of
from .run import Run, parts_of
from .utility import few_shots_of

if TYPE_CHECKING:
    from ..release.charts import Curve
    from ..release.sheets import Panel

CURVES = {
    "autoencoder": ("Autoencoder", "dB / loss"),
    "diffusion": ("Denoiser", "loss"),
    "student": ("Student", "loss, or distance from the denoiser's latents"),
    "lens": ("Lens", "loss"),
}
CURVED = ("loss", "reconstruction", "validation_loss", "validation_psnr", "validation_off")
PICTURES = (
    (
        "neighbours.png",
        "Nearest neighbours",
        "The synthetic images that come closest to one patient, the most suspicious first: "
        "synthetic, nearest training image, their difference, nearest held-out image.",
    ),
    (
        "masks/neighbours.png",
        "Nearest masks",
        "The same of masks, where there are some: drawn, nearest training patient's, their "
        "difference, nearest held-out patient's.",
    ),
    (
        "regions.png",
        "Regions",
        "The synthetic images with the region that comes closest to one patient, the most "
        "suspicious first: synthetic, nearest training image, both regions enlarged, their "
        "difference, and the region of a held-out image that any part of it resembles most.",
    ),
    (
        "reconstructions_worst.png",
        "Worst reconstructions",
        "Held-out patients that the autoencoder keeps worst: original, reconstruction, difference "
        "four times enlarged.",
    ),
    (
        "reconstructions_typical.png",
        "Typical reconstructions",
        "Held-out patients around the median: original, reconstruction, difference four times "
        "enlarged.",
    ),
)


def report(run: Run) -> Path:
    """Write RUN/report.html. It shows real patients, and says so."""
    from ..release.report import PrivateReport, private_report

    page = private_report(
        PrivateReport(
            protocol=run.protocol,
            verdict=read_verdict(run.folder / "verdict.json"),
            findings=findings_of(run) | few_shots_of(run),
            split=read_json(run.folder / "split" / "split.json"),
            panels=[*_beside_each_other(run), *private_pictures(run)],
            curves=[*choice.curves(run), *curves_of(run)],
        )
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def _beside_each_other(run: Run) -> list[Panel]:
    cohort, parts = parts_of(run)
    synthetic = Cohort.read(run.folder / "synthetic")
    return beside_each_other(synthetic, cohort, parts["train"], seed=run.protocol.seed)


def beside_each_other(
    synthetic: Cohort, cohort: Cohort, trained: np.ndarray, *, seed: int
) -> list[Panel]:
    """Return sheets of synthetic images, and one of `trained` ones drawn at random."""
    from ..release.sheets import (
        A_SHEET,
        FIRST_PX,
        MOST_SHOWN,
        Panel,
        contact_sheets,
        sheet_png,
        spread,
    )

    shown = synthetic.pixels[spread(len(synthetic), MOST_SHOWN)]
    made = contact_sheets(
        "Synthetic images", shown, of=len(synthetic), what="as they were drawn", synthetic=True
    )
    rng = np.random.default_rng(derive_seed(seed, "report"))
    real = cohort.take(np.sort(rng.permutation(trained)[:A_SHEET])).pixels
    words = f"{len(real)} drawn at random, for comparison."
    png = sheet_png(real, FIRST_PX, synthetic=False)
    return [made, Panel("Real training images", words, png)]


def private_pictures(run: Run) -> list[Panel]:
    """Return the pictures of single patients that the evidence has."""
    from ..release.sheets import Panel

    private = run.folder / "evidence" / "private"
    return [
        Panel(heading, caption, (private / name).read_bytes())
        for name, heading, caption in PICTURES
        if (private / name).exists()
    ]


def curves_of(run: Run) -> list[Curve]:
    """Return how the networks' training went, as far as any was trained."""
    from ..release.charts import Curve

    curves = []
    for stage, (title, unit) in CURVES.items():
        rows = read_jsonl(run.folder / stage / "log.jsonl")
        names = [name for name in CURVED if any(row.get(name) is not None for row in rows)]
        for name in names:
            points = [(row["images"], row[name]) for row in rows if row.get(name) is not None]
            curves.append((title, unit, name, points))
    return [
        Curve(f"{title}: {name.replace('_', ' ')}", unit, {name: points})
        for title, unit, name, points in curves
    ]
