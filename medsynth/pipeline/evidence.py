"""What is measured of a synthetic cohort: the stage `validate`, and what it opens for that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import budget
from ..cohort import Cohort
from ..data.canaries import Canaries
from ..errors import StageError, StaleError
from ..finding import Finding, read_findings, write_findings
from ..runtime import (
    StageRecord,
    choose_device,
    ranks,
    require_stage,
    writes,
)
from .masks import open_paired
from .obeyed import judged_controls
from .run import Progress, Run, level_of_test, open_autoencoder, parts_of, silent

if TYPE_CHECKING:
    from ..data.lessons import Segment, Teach
    from ..validation.losses import Model

JUDGED = ("synthetic", "evidence")  # bound by digests of their own


def validate(run: Run, progress: Progress = silent) -> StageRecord:
    """Measure everything into evidence/findings.jsonl; pictures of patients stay in private/.

    Several processes divide the search; the first one does the rest.
    """
    return run.build("evidence", lambda folder: _validate(run, folder, progress), all_ranks=True)


def _validate(run: Run, folder: Path, progress: Progress) -> None:
    from ..validation import Case, measure_all
    from ..validation.attack import run_attack
    from ..validation.paired import of_masks

    cohort, parts = parts_of(run)
    if run.protocol.validate_.utility is not None:
        check_one_process("validate.utility")
    private = folder / "private"
    private.mkdir(exist_ok=True)
    case = Case(
        settings=run.protocol.validate_,
        domain=run.domain,
        train=cohort.take(parts["train"]),
        holdout=cohort.take(parts["holdout"]),
        synthetic=Cohort.read(run.folder / "synthetic"),
        lens=open_lens(run),
        reconstruct=reconstructor(run),
        seed=run.protocol.seed,
        private=private,
        scratch=folder / "blocks",
        budget=_coverage(run),
        model=open_model(run),
        canaries=Canaries.read(run.folder / "diffusion"),
        paired=open_paired(run, folder / "latents" / "segmenter", progress),
        teach=teacher(run),
        segment=segmenter(run),
        level=level_of_test(run.protocol),
        progress=progress,
    )
    if writes():
        write_findings(folder / "findings.jsonl", measure_all(case))
        return
    run_attack(case)
    if case.paired is not None:
        run_attack(of_masks(case))


def _coverage(run: Run) -> budget.Coverage | None:
    """Return what epsilon holds for the run's images, reckoned again; None without a budget.

    Raises StaleError where the ledger says another epsilon than follows from its lines.
    """
    found = budget.read_coverage(run.folder, generator=run.protocol.sample.generator)
    if found is None:
        return None
    ledger, coverage = found
    again = budget.recompute(ledger)
    if abs(again - ledger.epsilon) > 1e-3 * again:
        raise StaleError(
            f"diffusion/ledger.json says epsilon {ledger.epsilon:.6g}, and {again:.6g} follows "
            f"from what it lists"
        )
    return coverage


def open_lens(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """Return the run's lens as a function from images to features."""
    from ..models.lens import Lens, features, open_weights

    folder, settings = run.folder / "lens", run.protocol.lens
    if settings.weights is None:
        lens = Lens.load(folder / "lens.safetensors")
    else:
        lens = open_weights(folder / f"lens{Path(settings.weights).suffix}", settings.sha256)
    return features(lens, device=choose_device())


def open_model(run: Run) -> Model:
    """Return what somebody who had the run's weights could ask of them."""
    from ..models.prompted import open_denoiser
    from ..validation.losses import open_model as ask
    from ..vocabulary import Vocabulary

    device, folder = choose_device(), run.folder / "diffusion"
    return ask(
        open_denoiser(folder).to(device),
        open_autoencoder(run, device),
        Vocabulary.read(folder / "vocabulary.json"),
        run.protocol.diffusion,
        device=device,
    )


def check_one_process(what: str) -> None:
    """Raise StageError where small networks are to be trained and several processes run."""
    if ranks()[1] > 1:
        raise StageError(
            f"{what} trains small networks, which one process does: run the same command without "
            f"torchrun"
        )


def teacher(run: Run) -> Teach:
    """Return what trains a small network on a lesson."""
    from ..training.classifier import fit_classifier

    symmetry, device = run.domain.augmentations, choose_device()
    return partial(fit_classifier, symmetry=symmetry, device=device)


def segmenter(run: Run) -> Segment:
    """Return what trains a small network to find masks."""
    from ..training.segmenter import fit_segmenter

    symmetry, device = run.domain.augmentations, choose_device()
    return partial(fit_segmenter, symmetry=symmetry, device=device)


def reconstructor(run: Run):
    """Return what passes images (N, C, H, W) in [-1, 1] through the run's autoencoder."""
    import torch

    device = choose_device()
    autoencoder = open_autoencoder(run, device)

    def reconstruct(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = torch.from_numpy(images).split(64)
            return torch.cat(
                [autoencoder.reconstruct(part.to(device)).cpu() for part in parts]
            ).numpy()

    return reconstruct


def remaining(run: Run) -> Cohort:
    """Return the synthetic images that the quarantine left: what a verdict is about."""
    from ..validation.quarantine import remaining as left_by

    return left_by(Cohort.read(run.folder / "synthetic"), run.folder / "evidence" / "private")


def findings_of(run: Run) -> dict[str, Finding]:
    """Return the findings that the gate judges: a run's evidence, and where a rule asks for them,
    those on its controls."""
    return read_evidence(run) | judged_controls(run)


def read_evidence(run: Run) -> dict[str, Finding]:
    """Return what `validate` found. Raises StageError where it has not."""
    require_stage(run.folder / "evidence", by="findings")
    return read_findings(run.folder / "evidence" / "findings.jsonl")
