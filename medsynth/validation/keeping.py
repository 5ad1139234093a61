"""What an autoencoder keeps of real images: everything that `medsynth fidelity` measures.

Every number is a mean over images of one number an image, so that three things follow alike: an
interval over patients, the same for a group of patients, and the paired difference of two
autoencoders. Beside each stands the same for images at half their size and back: a code a quarter
as large that needs no training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from ..cohort import Cohort
from ..domains import domain
from ..finding import Direction, Finding, word
from ..protocol import Validate
from ..runtime import derive_seed
from . import details, perception, reconstruction, structures
from .agreement import Judge
from .resampling import Resampled, Resampling
from .segmented import SEGMENTED, Segmenter

HALF = "the same images at half their size and back"
PRIMARY = "reconstruction.ms_ssim"
BATCH = 32
PLANTED = 64  # images into which details are planted
FEWEST = 5  # patients of a group
GROUPED = (
    "reconstruction.mse", "reconstruction.ms_ssim", "kept.edges", "kept.vessels", "kept.spots",
    "kept.nuclei",
)  # fmt: skip
SHARES = re.compile(r"detail\..*\.found\.|classifier\..*\.(agreement|accuracy)$")
LOST = re.compile(r"segmenter\.\w+\.dice_lost")
DETAIL = re.compile(r"detail\.(\w+)\.(kept|found)\.(\d+)_px")
JUDGED: dict[str, tuple[Direction, str]] = {
    "agreement": ("higher is better", "the same answer to the reconstruction as to the original"),
    "accuracy": ("higher is better", "right answers to the reconstruction"),
    "accuracy_lost": ("lower is better", "right answers to the original less those to the rest"),
}

Scores = Mapping[str, np.ndarray]
"""{name: (N,)}, one number an image; NaN where an image has none."""
Reconstruct = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Subject:
    """The images that autoencoders are asked about, and how. `judges` are classifiers of their
    labels, `segmenter` one of their masks; `progress` is told (what, share)."""

    cohort: Cohort
    settings: Validate
    seed: int
    judges: tuple[Judge, ...] = ()
    progress: Callable[[str, float], None] = field(default=lambda what, share: None)
    segmenter: Segmenter | None = None

    @property
    def resampling(self) -> Resampling:
        """The same draws of patients each time it is asked for."""
        rng = np.random.default_rng(derive_seed(self.seed, "keeping"))
        return Resampling(self.cohort.patients, draws=self.settings.bootstrap, rng=rng)


def look(subject: Subject, reconstruct: Reconstruct, *, what: str) -> Scores:
    """Pass all images through an autoencoder, and planted details through it, and score them."""
    cohort, rows = subject.cohort, []
    wanted = domain(cohort.domain).structures
    said = [np.full(len(cohort), -1) for _ in subject.judges]
    for start in range(0, len(cohort), BATCH):
        places = np.arange(start, min(start + BATCH, len(cohort)))
        before = cohort.floats(places)
        after = np.clip(reconstruct(before), -1, 1)
        pixels = reconstruction.compare(before, after)
        row = {f"reconstruction.{name}": values for name, values in pixels.items()}
        if not perception.missing():
            row["reconstruction.lpips"] = perception.lpips(before, after)
        row |= structures.compare_structures(before, after, wanted)
        if subject.segmenter is not None:
            row |= subject.segmenter.compare(before, after, places)
        rows.append(row)
        for answers, judge in zip(said, subject.judges, strict=True):
            answers[places] = judge.says(after, places)
        subject.progress(f"{what}: images", (places[-1] + 1) / len(cohort))
    scores = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    for answers, judge in zip(said, subject.judges, strict=True):
        for name, values in judge.compare(answers).items():
            scores[f"classifier.{word(judge.attribute)}.{name}"] = values
    return scores | _plant(subject, reconstruct, what)


def _plant(subject: Subject, reconstruct: Reconstruct, what: str) -> dict[str, np.ndarray]:
    cohort, detail = subject.cohort, details.DETAILS.get(subject.cohort.domain)
    if detail is None:
        return {}
    chosen = spread(cohort.patients, PLANTED, seed=derive_seed(subject.seed, "planted"))
    planted = details.plant_all(
        cohort.floats(chosen),
        reconstruct,
        detail,
        numbers=chosen.tolist(),
        seed=subject.seed,
        progress=lambda share: subject.progress(f"{what}: details", share),
    )
    scores = {}
    for kind, table in (("kept", planted.kept), ("found", planted.found)):
        for size, column in zip(details.sizes(cohort.size_px), table.T, strict=True):
            values = np.full(len(cohort), np.nan)
            values[chosen] = column
            scores[f"detail.{detail.name}.{kind}.{size}_px"] = values
    return scores


def spread(patients: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Return at most so many images' numbers, sorted: one of each patient before any second."""
    order = np.random.default_rng(seed).permutation(len(patients))
    turn: dict[int, int] = {}
    turns = [turn.setdefault(p, 0) for p in patients[order].tolist()]
    for i, patient in enumerate(patients[order].tolist()):
        turns[i] = turn[patient]
        turn[patient] += 1
    return np.sort(order[np.argsort(turns, kind="stable")[:most]])


def halved(images: np.ndarray) -> np.ndarray:
    """Return images (N, C, H, W) at half their size and back: means of four pixels, cubic."""
    small = F.avg_pool2d(torch.from_numpy(images), 2)
    again = F.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False)
    return again.clamp(-1, 1).numpy()


# Findings -----------------------------------------------------------------------------------------


def to_findings(subject: Subject, scores: Scores, reference: Scores) -> list[Finding]:
    """Return a finding of each score, of the sizes where it goes blind, and of each group."""
    draws = subject.resampling
    found = [_one(subject, name, draws.mean(values), reference) for name, values in scores.items()]
    found += _blind(subject, draws, scores, reference)
    for attribute, value, inside in groups(subject.cohort):
        for name in scores:
            if name in GROUPED or LOST.fullmatch(name):
                of_group = draws.mean(np.where(inside, scores[name], np.nan))
                whole = {name: scores[name][~inside]}
                said = f"{name}.{word(attribute)}.{word(value)}"
                found.append(_one(subject, name, of_group, whole, called=said))
    return found


def _one(
    subject: Subject, name: str, mean: Resampled, reference: Scores, *, called: str | None = None
) -> Finding:
    unit, direction, method = describe(subject, name)
    estimate = mean.share() if SHARES.search(name) else mean.estimate()
    known = reference[name][np.isfinite(reference[name])]
    return Finding(
        called or name,
        estimate.value,
        estimate.low,
        estimate.high,
        mean.images,
        unit,
        direction,
        f"{method}; bootstrap over {mean.patients} patients",
        float(known.mean()) if len(known) else None,
        "all other images" if called else HALF,
    )


def _blind(subject: Subject, draws: Resampling, scores: Scores, reference: Scores) -> list[Finding]:
    """Return the sizes below which less than half is kept, and found, with their curves."""
    findings = []
    for what, kind in sorted({m.groups()[:2] for name in scores if (m := DETAIL.match(name))}):
        curve, other = (_curve(draws, table, what, kind) for table in (scores, reference))
        size = details.blind_below(list(curve), list(curve.values()))
        usual = details.blind_below(list(other), list(other.values()))
        share = "half of its contrast is kept" if kind == "kept" else "half of them are found"
        estimate = size.estimate()
        findings.append(
            Finding(
                f"detail.{what}.half_{kind}",
                *(estimate.value, estimate.low, estimate.high),
                size.images,
                f"px of {subject.cohort.size_px}",
                "lower is better",
                f"size of a planted {what} below which less than {share}; 0 = even the smallest is "
                f"seen, infinite = not even the largest; bootstrap over {size.patients} patients",
                usual.value,
                HALF,
                curve=tuple((float(px), one.value) for px, one in curve.items()),
            )
        )
    return findings


def _curve(draws: Resampling, scores: Scores, what: str, kind: str) -> dict[int, Resampled]:
    found = {}
    for name, values in scores.items():
        match = DETAIL.match(name)
        if match and match.groups()[:2] == (what, kind):
            found[int(match[3])] = draws.mean(values)
    return dict(sorted(found.items()))


def better(subject: Subject, first: Scores, second: Scores) -> list[Finding]:
    """Return by how much the first autoencoder is better: above 0 it is, below 0 the second is.

    Draws of patients are the same for both. Numbers of which none is better are left out.
    """
    draws, findings = subject.resampling, []
    for name in first:
        unit, direction, method = describe(subject, name)
        if direction == "neither" or name not in second:
            continue
        pair = [draws.mean(scores[name]) for scores in (first, second)]
        if direction == "lower is better":
            pair.reverse()
        estimate = (pair[0] - pair[1]).estimate()
        findings.append(
            Finding(
                f"better.{name}",
                *(estimate.value, estimate.low, estimate.high),
                pair[0].images,
                unit,
                "higher is better",
                f"by how much the first is better: {method}; paired bootstrap over "
                f"{pair[0].patients} patients",
            )
        )
    return findings


def say_better(finding: Finding, first: str, second: str) -> str:
    """Say in a sentence which of two is better, or that it can't be told."""
    ends = f"by {abs(finding.value):.3g} ({finding.low:.3g} to {finding.high:.3g}), n = {finding.n}"
    what = finding.name.removeprefix("better.")
    if finding.low > 0 or finding.high < 0:
        return f"Better in {what}: {first if finding.low > 0 else second}, {ends}."
    return f"In {what} it can't be told which is better: {ends}."


def describe(subject: Subject, name: str) -> structures.Described:
    """Return (unit, direction, method) of a score."""
    family, _, rest = name.partition(".")
    if family == "reconstruction":
        unit, direction, method = {**reconstruction.MEASURES, "lpips": perception.DESCRIBED}[rest]
        scales = reconstruction.scales(subject.cohort.size_px)
        return unit, direction, f"{method} over {scales} scales" if rest == "ms_ssim" else method
    if family == "classifier":
        direction, method = JUDGED[name.rpartition(".")[2]]
        return "share of images", direction, f"{method}; {_say_judge(subject, rest)}"
    if family == "segmenter":
        kind, _, number = rest.partition(".")
        direction, method = SEGMENTED[number]
        right = subject.segmenter.right[kind]
        said = f"trained on originals of other patients, Dice {right:.2f} on the originals"
        return "Dice", direction, f"{method}; {said}"
    if match := DETAIL.match(name):
        what, kind, size = match.groups()
        said = "its contrast in the difference of the reconstructions with and without it"
        if kind == "found":
            said = "a matched filter answers it more than 95 % of the autoencoder's own errors"
        unit = "1 = kept" if kind == "kept" else "share of images"
        return unit, "higher is better", f"one planted {what} of {size} px an image: {said}"
    return structures.described(name)


def _say_judge(subject: Subject, rest: str) -> str:
    attribute = rest.rpartition(".")[0]
    judge = next(one for one in subject.judges if word(one.attribute) == attribute)
    right, most = judge.right, judge.commonest
    return (
        f"trained on originals of other patients, right on {100 * right:.0f} % of the originals "
        f"(the commonest of {len(judge.values)} values: {100 * most:.0f} %)"
    )


def groups(cohort: Cohort) -> list[tuple[str, str, np.ndarray]]:
    """Return (attribute, value, (N,) bool) of each group of at least 5 patients, not everybody."""
    found = []
    for attribute in sorted({name for record in cohort.records for name in record.labels}):
        labels = np.array(cohort.labels(attribute))
        for value in sorted(set(labels.tolist()) - {""}):
            inside = labels == value
            if len(np.unique(cohort.patients[inside])) >= FEWEST and not inside.all():
                found.append((attribute, value, inside))
    return found


def not_measured(subject: Subject) -> list[str]:
    """Say what was left out, and why."""
    kind = domain(subject.cohort.domain)
    left = [name for name in kind.structures if name not in structures.LOOKED_FOR]
    said = [perception.missing()] if perception.missing() else []
    if left:
        said.append(f"No measure of its own for: {', '.join(left)}.")
    if not subject.judges:
        said.append(
            "No classifier was asked: it needs a label with two values or more, of at least 8 "
            "patients each."
        )
    if subject.segmenter is None:
        said.append("No segmenter was asked: it needs masks (--masks).")
    said += [
        f"The classifier of {judge.attribute} is right on {100 * judge.right:.0f} % of the "
        f"originals, hardly more than the commonest value is ({100 * judge.commonest:.0f} %): "
        f"what it says of reconstructions means little."
        for judge in subject.judges
        if not judge.has_learned
    ]
    return said
