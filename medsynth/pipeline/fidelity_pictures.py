"""Pictures of what an autoencoder keeps and loses, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import domains
from ..finding import Finding, read_findings
from ..runtime import derive_seed, write_text
from .run import Run

if TYPE_CHECKING:
    from ..release.charts import Curve
    from ..release.sheets import Panel
    from ..validation.keeping import Subject

WORST = 10
OUTLINED = 5
SHOWN_SIZES = 6
WORST_CAPTION = (
    "The ten images that it keeps worst by MS-SSIM, the worst first: original, reconstruction, "
    "difference four times enlarged."
)
DETAIL_CAPTION = (
    "A detail planted into an image, drawn at random, and what is left of it; each row a size, "
    "from the smallest, and each picture the surroundings of the detail: original with it, "
    "reconstruction with it, reconstruction without it, difference of the two reconstructions four "
    "times enlarged."
)

OUTLINED_CAPTION = (
    "The images in which a segmenter loses most, the worst first: original, reconstruction, the "
    "masks, what it finds in the original, and in the reconstruction."
)


def draw_pictures(
    folder: Path,
    side: str,
    subject: Subject,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    scores: Mapping[str, np.ndarray],
) -> None:
    """Write worst_SIDE.png into a folder, details_SIDE.png where details are planted, and
    outlines_SIDE.png where there are masks."""
    from ..validation.keeping import PRIMARY
    from ..validation.pictures import write_rows

    worst = np.argsort(scores[PRIMARY], kind="stable")[:WORST]
    before = subject.cohort.floats(worst)
    after = np.clip(reconstruct(before), -1, 1)
    write_rows(
        folder / f"worst_{side}.png",
        ("original", "reconstruction", "difference x 4"),
        [before, after, np.clip(4 * np.abs(before - after) - 1, -1, 1)],
    )
    rows = _planted(subject, reconstruct)
    if rows:
        headings = ("with detail", "reconstruction", "without", "difference x 4")
        columns = [np.stack(column) for column in zip(*rows, strict=True)]
        write_rows(folder / f"details_{side}.png", headings, columns)
    if subject.segmenter is not None:
        headings = ("original", "reconstruction", "masks", "found before", "found after")
        write_rows(
            folder / f"outlines_{side}.png", headings, _outlined(subject, reconstruct, scores)
        )


def _planted(
    subject: Subject, reconstruct: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[np.ndarray, ...]]:
    """Return, for each size, pieces of an image with a detail before and after."""
    from ..validation import details

    cohort, detail = subject.cohort, details.DETAILS.get(subject.cohort.domain)
    if detail is None:
        return []
    number = int(np.random.default_rng(derive_seed(subject.seed, "shown")).integers(len(cohort)))
    image, rows = cohort.floats([number])[0], []
    for size in details.sizes(cohort.size_px)[:SHOWN_SIZES]:
        at = details.place(image, size, seed=derive_seed(subject.seed, "place", number, size))
        if at is None:
            continue
        planted = details.plant(image, detail, size, at)
        plain, again = reconstruct(np.stack([image, planted]))
        difference = np.clip(4 * np.abs(again - plain) - 1, -1, 1)
        rows.append(tuple(_around(x, at) for x in (planted, again, plain, difference)))
    return rows


def _outlined(
    subject: Subject,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    scores: Mapping[str, np.ndarray],
) -> list[np.ndarray]:
    """Return the images in which a segmenter loses most: columns of (n, C, H, W)."""
    judge = subject.segmenter
    lost = np.array([v for name, v in scores.items() if name.endswith(".dice_lost")])
    lost = np.nan_to_num(lost[:, judge.masked], nan=-1.0).max(0)
    worst = np.argsort(-lost, kind="stable")[:OUTLINED]
    places = judge.masked[worst]
    before = subject.cohort.floats(places)
    after = np.clip(reconstruct(before), -1, 1)
    maps = [judge.maps[worst] / 255, *(judge.outline(x, places)[0] for x in (before, after))]
    shown = [np.repeat(2 * m.max(1, keepdims=True) - 1, before.shape[1], axis=1) for m in maps]
    return [before, after, *shown]


def _around(image: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    """Return the surroundings of a place, half as wide as the image and at least 32 px."""
    size = image.shape[-1]
    half = min(size, max(32, size // 4)) // 2
    y, x = (int(min(max(round(middle), half), size - half)) for middle in at)
    return image[:, y - half : y + half, x - half : x + half]


# The page -----------------------------------------------------------------------------------------


def write_page(
    run: Run,
    names: Mapping[str, str],
    findings: Mapping[str, Finding],
    better: Mapping[str, Finding],
    said: Sequence[str],
) -> None:
    """Write report.html. It shows real patients, and says so."""
    from ..release.fidelity_page import FidelityPage, fidelity_page

    folder = run.folder / "evidence"
    others = {side: folder / f"findings_{side}.jsonl" for side in names if side != "autoencoder"}
    page = FidelityPage(
        title=" against ".join(names.values()),
        subject=domains.domain(run.protocol.domain).title,
        said=said,
        findings={
            names["autoencoder"]: findings,
            **{names[side]: read_findings(path) for side, path in others.items()},
        },
        better=better,
        panels=[panel for side, name in names.items() for panel in _panels(folder, side, name)],
        curves=_curves(findings, names, folder),
    )
    write_text(run.folder / "report.html", fidelity_page(page))


def _panels(folder: Path, side: str, name: str) -> list[Panel]:
    from ..release.sheets import Panel

    kinds = (
        ("details", "Planted details", DETAIL_CAPTION),
        ("outlines", "Masks", OUTLINED_CAPTION),
        ("worst", "Worst ten", WORST_CAPTION),
    )
    return [
        Panel(f"{heading}: {name}", caption, (folder / f"{file}_{side}.png").read_bytes())
        for file, heading, caption in kinds
        if (folder / f"{file}_{side}.png").exists()
    ]


def _curves(findings: Mapping[str, Finding], names: Mapping[str, str], folder: Path) -> list[Curve]:
    """Return how much is kept, and found, of planted details of every size."""
    from ..release.charts import Curve

    every = {names["autoencoder"]: findings}
    if "against" in names:
        every[names["against"]] = read_findings(folder / "findings_against.jsonl")
    curves = []
    for name, finding in findings.items():
        kind = name.rpartition(".half_")[2]
        if not finding.curve or kind not in ("kept", "found"):
            continue
        stem = name.replace(f"half_{kind}", kind)
        half = [(x, findings[f"{stem}.{x:.0f}_px"].reference) for x, _ in finding.curve]
        series = {who: list(found[name].curve) for who, found in every.items()}
        what = name.split(".")[1]
        words = "share of its contrast that is kept" if kind == "kept" else "share that is found"
        curves.append(Curve(f"Planted {what}: {words}", "share", {**series, "half size": half}))
    return curves
