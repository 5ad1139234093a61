"""A student of the run's denoiser, for who wants images quickly: the stage student/.

It reads labels, and no image: what it learns from the denoiser draws.
"""

from __future__ import annotations

from pathlib import Path

from ..data.loader import Frames
from ..runtime import choose_device, derive_seed, writes
from ..vocabulary import Vocabulary
from .run import Progress, Run, open_autoencoder, parts_of


def fit_student(run: Run, folder: Path, progress: Progress) -> None:
    """Train the student into `folder`."""
    from ..models.denoiser import Denoiser, encode_conditions
    from ..models.steps import Steps
    from ..training import student

    study, device = run.protocol, choose_device()
    settings, seed = study.sample, study.seed
    autoencoder = open_autoencoder(run, device)
    denoiser = Denoiser.load(run.folder / "diffusion").to(device)
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")
    conditions = encode_conditions(vocabulary, _labels(run))
    cache = folder / "latents"
    cache.mkdir(exist_ok=True)
    unet, steps = denoiser.unet.config, Steps.of(settings, study.diffusion)
    walks = student.walk_all(
        denoiser,
        conditions,
        steps,
        settings,
        shape=(unet.in_channels, unet.sample_size, unet.sample_size),
        path=cache / "walks.npy",
        seed=seed,
        device=device,
        progress=progress,
    )
    # A layer that is told of augmentation has no part in drawing: it would get no gradient.
    began = Denoiser(denoiser.unet, denoiser.tokens).requires_grad_(True).train()
    if settings.student.training.checkpointing:
        began.unet.enable_gradient_checkpointing()
    trained = student.fit_student(
        began,
        walks,
        conditions,
        autoencoder,
        steps,
        settings,
        seed=seed,
        folder=folder,
        device=device,
        progress=progress,
    )
    if writes():
        trained.save(folder)
        steps.write(folder, settings)


def _labels(run: Run) -> list[dict[str, str]]:
    """Return the labels of all walks, as `sample` would choose them."""
    from .. import synthesis

    settings = run.protocol.sample
    settings = settings.model_copy(update={"images": settings.student.walks})
    real, weights = labels_of(run)
    return synthesis.choose_conditions(
        real, settings, derive_seed(run.protocol.seed, "student"), weights=weights
    )


def labels_of(run: Run) -> tuple[list[dict[str, str]], list[float]]:
    """Return the training images' labels and what each image counts for; none under a privacy
    budget, which covers no labels: what the protocol does not name is then left out."""
    if run.protocol.diffusion.private is not None:
        return [], []
    cohort, parts = parts_of(run)
    train = Frames(cohort, parts["train"])
    return train.labels, train.weights.tolist()
