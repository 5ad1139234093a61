"""Is a control obeyed? What was asked for is looked for again in what was drawn.

Each number stands beside two floors: the same model, seed and labels under another patient's map
(`_shuffled`, the reference), and the autoencoder's own reconstruction of the real image
(`_reconstructed`), better than which a latent model can hardly be. A control is ignored where its
interval does not lie clear of the first floor's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..data.controls import points_of
from ..finding import Direction, Finding
from ..runtime import derive_seed
from .resampling import Resampled, Resampling

SHUFFLED, RECONSTRUCTED = "shuffled", "reconstructed"
OTHER_MAP = "drawn with the same seed and labels under another patient's map"

Score = Mapping[str, float]


@dataclass(frozen=True)
class Measured:
    """Unit, direction and method of one measure."""

    unit: str
    direction: Direction
    method: str


MEASURES = {
    "dice": Measured(
        "0 to 1", "higher is better", "Dice overlap of the map asked for and the map found"
    ),
    "boundary_f1": Measured(
        "0 to 1",
        "higher is better",
        "F1 of boundaries, found within 1 px (1/64 of the side from 128 px on)",
    ),
    "edge_distance": Measured(
        "px",
        "lower is better",
        "mean distance between boundaries, both ways; a diagonal where nothing was found",
    ),
    "point_error": Measured(
        "px",
        "lower is better",
        "mean distance from each point to the nearest found; a diagonal where there is none",
    ),
    "correlation": Measured(
        "-1 to 1", "higher is better", "correlation of both maps, pixel by pixel"
    ),
}
PRIMARY = {"keypoints": "point_error", "soft_edges": "correlation"}  # else boundary_f1


def primary(kind: str) -> str:
    """Return the measure that says whether a kind of control is obeyed."""
    return PRIMARY.get(kind, "boundary_f1")


def compare(kind: str, wanted: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Compare two maps (K, H, W) of a kind; NaN where nothing was asked for.

    Masks are compared class by class, and the mean over the classes that were asked for is taken.
    """
    score = {"keypoints": _points, "soft_edges": _soft}.get(kind, _outlines)
    rows = [score(a, b) for a, b in zip(wanted, found, strict=True)]
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _points(wanted: np.ndarray, found: np.ndarray) -> dict[str, float]:
    asked, there = points_of(wanted), points_of(found)
    if not len(asked):
        return {"point_error": math.nan}
    if not len(there):
        return {"point_error": math.hypot(*wanted.shape)}
    apart = np.linalg.norm(asked[:, None] - there[None], axis=2)
    return {"point_error": float(apart.min(1).mean())}


def _soft(wanted: np.ndarray, found: np.ndarray) -> dict[str, float]:
    if np.ptp(wanted) == 0:
        return {"correlation": math.nan}
    flat = np.ptp(found) == 0
    return {"correlation": 0.0 if flat else float(np.corrcoef(wanted.ravel(), found.ravel())[0, 1])}


def _outlines(wanted: np.ndarray, found: np.ndarray) -> dict[str, float]:
    a, b = wanted >= 0.5, found >= 0.5
    if not a.any():
        return {"dice": math.nan, "boundary_f1": math.nan, "edge_distance": math.nan}
    if not b.any():
        return {"dice": 0.0, "boundary_f1": 0.0, "edge_distance": math.hypot(*a.shape)}
    edges = boundary(a), boundary(b)
    to_b = ndimage.distance_transform_edt(~edges[1])[edges[0]]
    to_a = ndimage.distance_transform_edt(~edges[0])[edges[1]]
    near = max(1.0, a.shape[-1] / 64)
    recall, precision = (to_b <= near).mean(), (to_a <= near).mean()
    both = recall + precision
    return {
        "dice": float(2 * (a & b).sum() / (a.sum() + b.sum())),
        "boundary_f1": float(2 * recall * precision / both) if both else 0.0,
        "edge_distance": float(to_b.mean() + to_a.mean()) / 2,
    }


def boundary(mask: np.ndarray) -> np.ndarray:
    """Return a mask's pixels that touch what is outside of it; of a thin line all of them."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


# Findings -----------------------------------------------------------------------------------------


def measure(
    wanted: Mapping[str, np.ndarray],
    found: Mapping[str, Mapping[str, np.ndarray]],
    *,
    patients: np.ndarray,
    draws: int,
    seed: int,
) -> list[Finding]:
    """Measure how well maps are obeyed, with intervals over patients.

    `wanted` are {kind: (N, K, H, W)} maps asked for, and `found` the same by what they were found
    in: "" the drawn images, SHUFFLED and RECONSTRUCTED the floors. `patients` (N,) number the
    patients whose images the maps are of.
    """
    rng = np.random.default_rng(derive_seed(seed, "obedience"))
    resampling = Resampling(patients, draws=draws, rng=rng)
    findings = []
    for kind, maps in wanted.items():
        means = {where: _means(kind, maps, found[where][kind], resampling) for where in found}
        for name in means[""]:
            findings += _beside_floors(
                kind, name, {where: row[name] for where, row in means.items()}
            )
        findings.append(_gain(kind, means))
    return findings


def _means(kind: str, wanted, found, resampling: Resampling) -> dict[str, Resampled]:
    rows = [compare(kind, a, b) for a, b in zip(wanted, found, strict=True)]
    return {name: resampling.mean(np.array([row[name] for row in rows])) for name in rows[0]}


def _beside_floors(kind: str, name: str, means: Mapping[str, Resampled]) -> Iterator[Finding]:
    said = MEASURES[name]
    method = f"{said.method}; held-out patients' maps, bootstrap over patients"
    for where, mean in means.items():
        got = mean.estimate()
        yield Finding(
            name=f"control.{kind}.{name}" + (f"_{where}" if where else ""),
            value=got.value,
            low=got.low,
            high=got.high,
            n=mean.patients,
            unit=said.unit,
            direction=said.direction if where == "" else "neither",
            method=f"{method}; {_FLOORS[where]}" if where else method,
            reference=None if where else means[SHUFFLED].value,
            reference_is="" if where else OTHER_MAP,
        )


_FLOORS = {
    SHUFFLED: OTHER_MAP,
    RECONSTRUCTED: "in the autoencoder's reconstruction of the real image",
}


def _gain(kind: str, means: Mapping[str, Mapping[str, Resampled]]) -> Finding:
    """How much better the map is obeyed than another's is by chance, image by image."""
    name = primary(kind)
    better = means[""][name], means[SHUFFLED][name]
    sign = MEASURES[name].direction == "lower is better"
    difference = better[1] - better[0] if sign else better[0] - better[1]
    got = difference.estimate()
    return Finding(
        name=f"control.{kind}.gain",
        value=got.value,
        low=got.low,
        high=got.high,
        n=difference.patients,
        unit=MEASURES[name].unit,
        direction="higher is better",
        method=f"{name}, less the same {OTHER_MAP} (of a distance the other way round); paired "
        f"bootstrap over patients; 0 = ignored",
    )


def ignored(findings: Sequence[Finding]) -> list[str]:
    """Return in words which controls are ignored: those whose interval is not clear of the floor's.

    What is no number counts as ignored.
    """
    known = {finding.name: finding for finding in findings}
    said = []
    for kind in dict.fromkeys(name.split(".")[1] for name in known):
        name = f"control.{kind}.{primary(kind)}"
        got, floor = known[name], known[f"{name}_{SHUFFLED}"]
        lower = got.direction == "lower is better"
        clear = got.high < floor.low if lower else got.low > floor.high
        if not clear:
            said.append(
                f"{kind} is ignored: {primary(kind)} {got.value:.3g} ({got.low:.3g} to "
                f"{got.high:.3g}) is not clear of {floor.value:.3g} ({floor.low:.3g} to "
                f"{floor.high:.3g}), {OTHER_MAP}"
            )
    return said
