"""Where the autoencoder comes from: the patients, made-up images, or a folder that is pinned, and
which the patients may train further.

`source.json` beside the weights says which: what a privacy budget covers hangs on it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..cohort import Cohort, Record
from ..data.loader import Frames
from ..errors import StageError
from ..runtime import (
    SCRATCH_FOLDERS,
    VOLATILE,
    choose_device,
    derive_seed,
    digest_files,
    digest_json,
    read_json,
    read_stage,
    require_stage,
    wait_for_everyone,
    write_json,
    writes,
)
from .run import Progress, Run, parts_of

if TYPE_CHECKING:
    from ..models.autoencoder import Autoencoder

PHANTOMS = 2000  # made-up patients, one image each


def fit_autoencoder(run: Run, folder: Path, progress: Progress) -> None:
    """Train the autoencoder, or take it over, into `folder`."""
    settings = run.protocol.autoencoder
    if settings.source == "public":
        if writes():
            _take_over(run, folder)
    elif settings.source == "phantoms":
        cohort = _draw_phantoms(run, folder / "latents", progress)
        _train(run, Frames(cohort, np.arange(len(cohort))), folder, progress)
    else:
        cohort, parts = parts_of(run)
        start = _pinned(run)[1] if settings.fine_tuned else None
        _train(run, Frames(cohort, parts["train"]), folder, progress, start)
    if writes():
        write_json(folder / "source.json", {"source": settings.source, "sha256": settings.sha256})


def _train(
    run: Run, frames: Frames, folder: Path, progress: Progress, start: Autoencoder | None = None
) -> None:
    from ..training.autoencoder import fit_autoencoder as fit

    cohort, parts = parts_of(run)
    fit(
        frames,
        Frames(cohort, parts["validation"]),
        run.protocol.autoencoder,
        symmetry=run.domain.augmentations,
        seed=run.protocol.seed,
        folder=folder,
        device=choose_device(),
        start=start,
        progress=progress,
    )


def _draw_phantoms(run: Run, folder: Path, progress: Progress) -> Cohort:
    """Draw made-up patients into `folder`, or find those that an interrupted run drew."""
    from ..data import phantoms

    study = run.protocol
    if writes() and not (folder / "cohort.json").exists():
        folder.mkdir(exist_ok=True)
        count = min(PHANTOMS, study.autoencoder.training.images)
        seed, images = derive_seed(study.seed, "phantoms"), []
        for patient in range(count):
            images.append(phantoms.draw(study.domain, patient, 0, seed, study.image.size_px)[0])
            progress("phantoms", (patient + 1) / count)
        records = tuple(Record(f"phantom-{i}", "synthetic") for i in range(count))
        Cohort(study.domain, records, np.stack(images)).write(folder)
    wait_for_everyone()
    return Cohort.read(folder)


def _take_over(run: Run, folder: Path) -> None:
    """Copy the autoencoder that the protocol pins."""
    source, opened = _pinned(run)
    _refuse_own_patients(run, source)
    if (source / "medsynth.json").exists():
        for name in _named(source):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)
    else:
        opened.save(folder)


def _named(source: Path) -> dict[str, str]:
    """Return {file: its sha256} of a folder's lasting files."""
    return digest_files(source, skip=(*VOLATILE, *SCRATCH_FOLDERS))


def _pinned(run: Run) -> tuple[Path, Autoencoder]:
    """Return the folder that the protocol pins, and the autoencoder in it, of medsynth's or another
    diffusers make. Raises StageError where it is not the one that the protocol describes."""
    from ..models.adopted import adopt
    from ..models.autoencoder import Autoencoder

    settings = run.protocol.autoencoder
    source = Path(settings.weights)
    if not source.is_dir():
        raise StageError(f"autoencoder.weights: expected a folder, {source.name} is none")
    if (found := digest_json(_named(source))) != settings.sha256:
        raise StageError(
            f"autoencoder.weights: {source.name}/ is not the folder that autoencoder.sha256 pins: "
            f"its digest is {found}"
        )
    own = (source / "medsynth.json").exists()
    taken = Autoencoder.load(source) if own else adopt(source, channels=run.domain.channels)
    config = taken.net.config
    channels = config.in_channels // taken.fold_px**2
    has = (channels, taken.downscale, config.latent_channels)
    wanted = (run.domain.channels, settings.downscale, settings.latent_channels)
    if has != wanted:
        raise StageError(
            f"autoencoder.weights: (channels, times smaller, latent channels) are {has}, "
            f"and the protocol and its domain say {wanted}"
        )
    return source, taken


def _refuse_own_patients(run: Run, source: Path) -> None:
    """Refuse as public what says of itself that it learned from this very intake.

    An accident is found so; other weights of the same patients are for people to rule out.
    """
    record, where = read_stage(source), source / "source.json"
    own = require_stage(run.folder / "intake", by="autoencoder").digest
    patients = not where.exists() or read_json(where)["source"] == "patients"
    if record is not None and record.inputs.get("intake") == own and patients:
        raise StageError(
            f"autoencoder.weights: {source.name}/ was trained on this study's own patients: it is "
            f"not public. Write source: patients, or take one that never saw them"
        )
