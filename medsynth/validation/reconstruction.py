"""Does the autoencoder keep what a doctor looks at?

Images of held-out patients go through the autoencoder and are compared with themselves; beside
each number stands the same for training patients: a gap says that the autoencoder learnt its
patients by heart. Where there is no autoencoder nothing is measured.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable

import numpy as np
import torch

from ..cohort import Cohort
from ..finding import Direction, Finding
from ..runtime import derive_seed, write_text
from . import Case
from .pictures import write_rows
from .search import in_batches
from .statistics import bootstrap_mean

KERNEL_PX = 11
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SHOWN = 8
MEASURES: dict[str, tuple[str, Direction, str]] = {
    "mse": ("squared share of white", "lower is better", "mean squared error, pixels in [0, 1]"),
    "psnr": ("dB", "higher is better", "mean over images of the peak signal-to-noise ratio"),
    "ssim": ("1 = identical", "higher is better", "structural similarity, Gaussian window 11 px"),
    "ms_ssim": ("1 = identical", "higher is better", "multi-scale structural similarity"),
}


def measure(case: Case) -> Iterable[Finding]:
    """Measure reconstruction; writes the worst and the typical images into `case.private`."""
    if case.reconstruct is None:
        return
    n = min(case.settings.fidelity_images, len(case.train), len(case.holdout))
    chosen = _draw(case, case.holdout, n, "holdout")
    before = case.holdout.floats(chosen)
    after = np.clip(in_batches(case.reconstruct, before), -1, 1)
    scores = compare(before, after)
    case.progress("reconstruction: held-out images", 1.0)
    originals = case.train.floats(_draw(case, case.train, n, "train"))
    reference = compare(originals, np.clip(in_batches(case.reconstruct, originals), -1, 1))
    case.progress("reconstruction: training images", 1.0)
    _write_private(case, chosen, before, after, scores)
    for name in MEASURES:
        yield _finding(case, name, scores[name], reference[name], case.holdout.patients[chosen])


def _draw(case: Case, cohort: Cohort, n: int, side: str) -> np.ndarray:
    rng = np.random.default_rng(derive_seed(case.seed, "reconstruction", side))
    return np.sort(rng.permutation(len(cohort))[:n])


def compare(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Compare (N, C, H, W) images in [-1, 1] one by one: {name in MEASURES: (N,)}."""
    a, b = ((torch.from_numpy(np.asarray(x, np.float32)) + 1) / 2 for x in (before, after))
    mse = ((a - b) ** 2).flatten(1).mean(1).double().numpy()
    psnr = -10 * np.log10(np.maximum(mse, 1e-10))
    return {
        "mse": mse,
        "psnr": psnr,
        "ssim": _batched(ssim, a, b),
        "ms_ssim": _batched(ms_ssim, a, b),
    }


def ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return (N,) structural similarity over the places where the window fits in the image.

    Source: Wang et al., IEEE TIP 13 (2004).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _, full = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    edge = KERNEL_PX // 2  # torchmetrics also counts places that it filled up by reflection
    return full[..., edge:-edge, edge:-edge].flatten(1).mean(1)


def ms_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return (N,) multi-scale structural similarity, over as many halvings as the size allows.

    Source: Wang, Simoncelli and Bovik, Asilomar (2003).
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    weights = SCALE_WEIGHTS[: scales(a.shape[-1])]
    betas = tuple(weight / sum(weights) for weight in weights)
    return multiscale_structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", betas=betas, normalize="relu"
    ).reshape(-1)


def scales(size_px: int) -> int:
    """Return how many scales MS-SSIM has at a size: the smallest holds the window; 5 at most."""
    return max(1, min(5, int(math.log2(size_px / KERNEL_PX)) + 1))


def _batched(function, a: torch.Tensor, b: torch.Tensor, batch: int = 64) -> np.ndarray:
    parts = [function(a[i : i + batch], b[i : i + batch]) for i in range(0, len(a), batch)]
    return torch.cat(parts).double().numpy()


def _finding(
    case: Case, name: str, values: np.ndarray, reference: np.ndarray, patients: np.ndarray
) -> Finding:
    unit, direction, method = MEASURES[name]
    if name == "ms_ssim":
        method += f" over {scales(case.holdout.size_px)} scales"
    rng = np.random.default_rng(derive_seed(case.seed, "reconstruction", name))
    mean = bootstrap_mean(values, patients, case.settings.bootstrap, rng)
    return Finding(
        f"reconstruction.{name}",
        mean.value,
        mean.low,
        mean.high,
        len(values),
        unit,
        direction,
        f"{method}; bootstrap over held-out patients",
        float(reference.mean()),
        "the same on training patients' images",
    )


def _write_private(
    case: Case,
    chosen: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    scores: dict[str, np.ndarray],
) -> None:
    order = np.argsort(scores["ssim"], kind="stable")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["holdout", *MEASURES])
    for i in order:
        row = [f"{scores[name][i]:.6g}" for name in MEASURES]
        table.writerow([case.holdout.records[chosen[i]].id, *row])
    write_text(case.private / "reconstructions.csv", text.getvalue())
    middle = max(0, len(order) // 2 - SHOWN // 2)
    for name, few in (("worst", order[:SHOWN]), ("typical", order[middle : middle + SHOWN])):
        difference = np.clip(4 * np.abs(before[few] - after[few]) - 1, -1, 1)
        write_rows(
            case.private / f"reconstructions_{name}.png",
            ("original", "reconstruction", "difference x 4"),
            [before[few], after[few], difference],
        )
