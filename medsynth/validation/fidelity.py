"""Do the synthetic images look like real ones, and like all of them?

Synthetic images are compared with held-out patients' images, which the generator never saw; the
floor beside each number is the same comparison of training with held-out images: as near as real
comes to real. All three sides have the same number of images, because most of these numbers
depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..cohort import Cohort
from ..errors import DataError
from ..finding import Direction, Finding
from ..runtime import derive_seed
from . import Case, distances, manifold
from .search import in_batches
from .statistics import Estimate, bootstrap_mean, divide

FEWEST = 10
FLOOR = "real against real: training against held-out patients, as many images"
DISTANCES = {
    "frechet": (distances.frechet, distances.frechet_interval, "squared Frechet distance"),
    "kernel": (
        distances.kernel,
        distances.kernel_interval,
        "unbiased squared distance, cubic kernel",
    ),
}
# name: (measure, its k, whether it is a mean over synthetic images, else over real ones)
NEIGHBOURS = {
    "precision": (manifold.precision, 3, True),
    "recall": (manifold.recall, 3, False),
    "density": (manifold.density, 5, True),
    "coverage": (manifold.coverage, 5, False),
}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: lens features (N, D), fine detail (N,), patients (N,)."""

    features: np.ndarray
    detail: np.ndarray
    patients: np.ndarray


def measure(case: Case) -> Iterable[Finding]:
    """Measure fidelity in the lens's features, and sharpness in pixels.

    Raises DataError with fewer than 10 images a side.
    """
    synthetic, train, holdout = sides(case)
    for name in DISTANCES:
        yield distance(case, name, synthetic, train, holdout)
    for name in NEIGHBOURS:
        yield neighbours(case, name, synthetic, train, holdout)
    yield sharpness(case, synthetic, train, holdout)


def sides(case: Case) -> tuple[Side, Side, Side]:
    """Draw as many images at random from each cohort and look at them through the lens."""
    cohorts = {"synthetic": case.synthetic, "train": case.train, "holdout": case.holdout}
    n = min(case.settings.fidelity_images, *(len(cohort) for cohort in cohorts.values()))
    if n < FEWEST:
        raise DataError(f"fidelity needs at least {FEWEST} images a side, got {n}")
    return tuple(_side(case, name, cohort, n) for name, cohort in cohorts.items())


def _side(case: Case, name: str, cohort: Cohort, n: int) -> Side:
    rng = np.random.default_rng(derive_seed(case.seed, "fidelity", name))
    chosen = rng.permutation(len(cohort))[:n]
    images = cohort.floats(chosen)
    patients = np.arange(n) if name == "synthetic" else cohort.patients[chosen]
    case.progress(f"fidelity: {name} images", 1.0)
    return Side(in_batches(case.lens, images).astype(np.float64), detail(images), patients)


def detail(images: np.ndarray) -> np.ndarray:
    """Return (N,) energy of what a Gaussian blur of 1 px removes from (N, C, H, W) images."""
    from scipy import ndimage

    fine = images - ndimage.gaussian_filter(images, (0, 0, 1, 1), mode="nearest")
    return (fine.astype(np.float64) ** 2).mean((1, 2, 3))


def distance(case: Case, name: str, synthetic: Side, train: Side, holdout: Side) -> Finding:
    """Measure one distance, of DISTANCES, with its real-against-real floor."""
    plain, with_interval, unit = DISTANCES[name]
    rng = np.random.default_rng(derive_seed(case.seed, "fidelity", name))
    groups = divide([synthetic.patients, holdout.patients], rng)
    estimate = with_interval(synthetic.features, holdout.features, *groups)
    return _finding(
        name,
        estimate,
        len(synthetic.features),
        unit,
        "lower is better",
        "in lens features; delete-a-group jackknife over patients",
        plain(train.features, holdout.features),
    )


def neighbours(case: Case, name: str, synthetic: Side, train: Side, holdout: Side) -> Finding:
    """Measure one of NEIGHBOURS with its real-against-real floor."""
    function, k, over_synthetic = NEIGHBOURS[name]
    values = function(synthetic.features, holdout.features, k)
    groups = (synthetic if over_synthetic else holdout).patients
    floor = float(function(train.features, holdout.features, k).mean())
    rng = np.random.default_rng(derive_seed(case.seed, "fidelity", name))
    estimate = bootstrap_mean(values, groups, case.settings.bootstrap, rng)
    unit = {"density": "real balls an image is in, over k"}.get(
        name, f"share of {'synthetic' if over_synthetic else 'held-out'} images"
    )
    return _finding(
        name,
        estimate,
        len(values),
        unit,
        "higher is better",
        f"k = {k} in lens features; bootstrap over "
        f"{'images' if over_synthetic else 'patients'}, neighbours held fixed",
        floor,
    )


def sharpness(case: Case, synthetic: Side, train: Side, holdout: Side) -> Finding:
    """Compare fine detail with real images': below 1 is smoother than real, above 1 noisier."""
    rng = np.random.default_rng(derive_seed(case.seed, "fidelity", "sharpness"))
    real = float(holdout.detail.mean())
    value = float(synthetic.detail.mean()) / real
    spread = [
        _spread(synthetic.detail / real, synthetic.patients, case, rng),
        _spread(value * holdout.detail / real, holdout.patients, case, rng),
    ]
    reach = 1.96 * float(np.hypot(*spread))
    return _finding(
        "sharpness",
        Estimate(value, value - reach, value + reach),
        len(synthetic.detail),
        "ratio",
        "neither",
        "energy that a blur of 1 px removes, synthetic over "
        "held-out; delta method with bootstrap over patients",
        float(train.detail.mean() / real),
    )


def _spread(
    values: np.ndarray, patients: np.ndarray, case: Case, rng: np.random.Generator
) -> float:
    interval = bootstrap_mean(values, patients, case.settings.bootstrap, rng)
    return (interval.high - interval.low) / (2 * 1.96)


def _finding(
    name: str,
    estimate: Estimate,
    n: int,
    unit: str,
    direction: Direction,
    method: str,
    floor: float,
) -> Finding:
    return Finding(
        f"fidelity.{name}",
        estimate.value,
        estimate.low,
        estimate.high,
        n,
        unit,
        direction,
        f"{method}; {n} images a side",
        floor,
        FLOOR,
    )
