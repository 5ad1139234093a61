"""From patients to networks, the stage `fit`, and how images are drawn by them."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..data import canaries
from ..data.loader import Frames
from ..domains import Symmetry
from ..errors import StageError
from ..runtime import (
    choose_device,
    derive_seed,
    require_stage,
    writes,
)
from ..vocabulary import Vocabulary
from . import choice
from .autoencoder import fit_autoencoder
from .prompted import take_base
from .run import Progress, Run, open_autoencoder, parts_of, silent
from .student import fit_student

if TYPE_CHECKING:
    from ..models.autoencoder import Autoencoder
    from ..training.told import Told

HELD = 4096  # validation images, at most, that the denoiser's loss is looked at on


def fit(run: Run, progress: Progress = silent) -> None:
    """Train the lens, the autoencoder, the denoiser and perhaps its student, each into a folder of
    its own, or take over what the protocol pins instead."""
    if run.protocol.diffusion.private is not None:
        _check_budget(run)
    if run.protocol.diffusion.choose is not None:
        choice.check_possible(run)
    run.build("lens", lambda folder: fit_lens(run, folder, progress), all_ranks=True)
    run.build("autoencoder", lambda folder: fit_autoencoder(run, folder, progress), all_ranks=True)
    train = fit_diffusion if run.protocol.diffusion.base is None else take_base
    run.build("diffusion", lambda folder: train(run, folder, progress), all_ranks=True)
    if run.protocol.sample.student is not None:
        run.build("student", lambda folder: fit_student(run, folder, progress), all_ranks=True)


def _check_budget(run: Run) -> None:
    """Refuse at once what private training would refuse after the other networks' training."""
    if importlib.util.find_spec("opacus") is None:
        raise StageError(
            "diffusion.private needs Opacus, which is not installed: "
            "pip install 'medsynth[private]'"
        )
    from ..training.private import check_possible

    require_stage(run.folder / "split", by="fit")
    cohort, parts = parts_of(run)
    patients = len(np.unique(cohort.patients[parts["train"]]))
    planted = run.protocol.diffusion.canaries
    if planted is not None:  # each that is trained on is somebody of its own
        patients += int(canaries.toss(planted.count, seed=run.protocol.seed).sum())
    check_possible(run.protocol.diffusion, patients=patients)


def fit_lens(run: Run, folder: Path, progress: Progress) -> None:
    """Train the lens on training and held-out patients alike, into `folder`."""
    cohort, parts = parts_of(run)
    # Training and held-out patients alike, in the cohort's order: no label of which is which.
    both = np.sort(np.concatenate([parts["train"], parts["holdout"]]))
    make_lens(run, Frames(cohort, both), folder, progress)


def make_lens(run: Run, frames: Frames, folder: Path, progress: Progress) -> None:
    """Train the lens on images into a folder, or take the weights that the protocol names."""
    settings = run.protocol.lens
    if settings.weights is not None:
        from ..models.lens import open_weights

        path = Path(settings.weights)
        open_weights(path, settings.sha256)
        if writes():
            shutil.copyfile(path, folder / f"lens{path.suffix}")
        return
    from ..training.lens import fit_lens as train_lens

    train_lens(
        frames,
        settings,
        seed=run.protocol.seed,
        folder=folder,
        device=choose_device(),
        progress=progress,
    )


def fit_diffusion(run: Run, folder: Path, progress: Progress) -> None:
    """Train the denoiser on the autoencoder's latents, into `folder`."""
    from ..models.denoiser import encode_conditions
    from ..training.diffusion import encode_views
    from ..training.diffusion import fit_diffusion as train_denoiser

    cohort, parts = parts_of(run)
    device = choose_device()
    autoencoder = open_autoencoder(run, device)
    train, held = Frames(cohort, parts["train"]), Frames(cohort, parts["validation"])
    vocabulary = _vocabulary(run, train)
    if writes():
        vocabulary.write(folder / "vocabulary.json")
    cache = folder / "latents"
    cache.mkdir(parents=True, exist_ok=True)
    learned = _with_canaries(run, train, folder)
    latents = encode_views(
        autoencoder, learned, run.domain.augmentations, cache / "train.npy", device
    )
    seen = Frames(cohort, _looked_at(parts["validation"], run.protocol.seed))
    held_latents = encode_views(autoencoder, seen, "identity", cache / "held.npy", device)[0]
    denoiser = train_denoiser(
        latents,
        conditions_of_views(run, learned, vocabulary, run.domain.augmentations),
        (held_latents, encode_conditions(vocabulary, map(vocabulary.known, seen.labels))),
        autoencoder,
        run.protocol.diffusion,
        tokens=vocabulary.size,
        seed=run.protocol.seed,
        folder=folder,
        device=device,
        groups=learned.groups,
        patients=learned.patients,
        account=run.folder / "spent.json",
        told=_changed_views(run, learned, vocabulary, autoencoder, cache / "told.npy"),
        progress=progress,
    )
    if run.protocol.diffusion.choose is not None:
        study = choice.Study(run, folder, train, held, autoencoder, vocabulary, device)
        choice.choose(study, denoiser, progress)


def _looked_at(validation: np.ndarray, seed: int) -> np.ndarray:
    """Return the validation images that the loss is taken on, of more than HELD so many."""
    if len(validation) <= HELD:
        return validation
    order = np.random.default_rng(derive_seed(seed, "looked at")).permutation(len(validation))
    return validation[np.sort(order[:HELD])]


def _with_canaries(run: Run, train: Frames, folder: Path) -> Frames | canaries.Joined:
    """Let the canaries whose coin says so follow the training images, where any are asked for."""
    asked, image = run.protocol.diffusion.canaries, run.protocol.image
    if asked is None:
        return train
    made = canaries.make(
        asked.count,
        domain=run.protocol.domain,
        size_px=image.size_px,
        bits=image.bits,
        seed=run.protocol.seed,
    )
    if writes():
        made.write(folder)
    return canaries.Joined(train, made)


def _changed_views(
    run: Run,
    train: Frames | canaries.Joined,
    vocabulary: Vocabulary,
    autoencoder: Autoencoder,
    path: Path,
) -> Told | None:
    """Encode the views that the denoiser is told of, where the protocol asks for them."""
    from ..training.told import Told, encode_changed, mirrored

    settings, device = run.protocol.diffusion.told, choose_device()
    if settings is None:
        return None
    latents, amounts = encode_changed(
        autoencoder, train, settings, path, seed=run.protocol.seed, device=device
    )
    mirrors = [mirrored(settings, view) for view in range(settings.views)]
    return Told(latents, amounts, _conditions(run, train, vocabulary, mirrors), settings.share)


def _vocabulary(run: Run, train: Frames) -> Vocabulary:
    """Take the labels from the training patients, or, under a privacy budget, from the protocol."""
    if run.protocol.diffusion.private is None:
        return Vocabulary.from_labels(train.labels)
    named = run.protocol.sample.labels
    return Vocabulary.from_labels({name: value} for name in named for value in named[name])


def conditions_of_views(
    run: Run, train: Frames | canaries.Joined, vocabulary: Vocabulary, symmetry: Symmetry
):
    """Return the tokens (V, N, L) of every view of the training images."""
    from ..training.augment import views_of

    mirrors = [mirror for _, mirror in views_of(symmetry)]
    return _conditions(run, train, vocabulary, mirrors)


def _conditions(
    run: Run, train: Frames | canaries.Joined, vocabulary: Vocabulary, mirrors: list[bool]
):
    """Return the tokens (V, N, L) of the training images, or of their mirror images."""
    import torch

    from ..models.denoiser import encode_conditions

    flipped = [run.domain.mirror(labels) for labels in train.labels]
    sides = [
        encode_conditions(vocabulary, map(vocabulary.known, labels))
        for labels in (train.labels, flipped)
    ]
    return torch.stack([sides[mirror] for mirror in mirrors])


def drawer(run: Run, denoiser, device: str, *, pairs=None):
    """Return a draw(conditions, seeds, maps=None) -> (N, C, H, W) as the protocol says, by the
    run's denoiser or by one that a control steers, on a device; `pairs` are the times of another
    walk than the protocol's."""
    from .. import synthesis

    autoencoder = open_autoencoder(run, device)
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")

    def draw(conditions, seeds, maps: np.ndarray | None = None) -> np.ndarray:
        return synthesis.sample(
            denoiser,
            autoencoder,
            vocabulary,
            conditions,
            settings=run.protocol.sample,
            diffusion=run.protocol.diffusion,
            seeds=seeds,
            device=device,
            maps=maps,
            pairs=pairs,
        )

    return draw
