"""Linked duplicates count once, whichever network is trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from medsynth import protocol
from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames
from medsynth.training import diffusion
from medsynth.training.autoencoder import fit_autoencoder
from medsynth.training.diffusion import fit_diffusion
from medsynth.training.lens import fit_lens

IMAGES, LINKED, PASSES = 12, 5, 2  # the first five are one picture, so a pass has eight draws
DRAWS = PASSES * (IMAGES - LINKED + 1)
TRAINING = protocol.Optimiser(images=DRAWS, batch=4, learning_rate=1e-4)
LEVELS = np.linspace(10, 245, IMAGES).astype(np.uint8)


class Watched(Frames):
    """Frames that remember which images were asked for by number."""

    def __init__(self, cohort: Cohort, chosen: np.ndarray):
        super().__init__(cohort, chosen)
        self.asked: Counter = Counter()

    def __getitem__(self, indices):
        if isinstance(indices, np.ndarray):
            self.asked.update(indices.tolist())
        return super().__getitem__(indices)


def watched() -> Watched:
    records = [Record(f"r{i}", "real", patient=f"p{i}") for i in range(IMAGES)]
    records[:LINKED] = [replace(record, link=0) for record in records[:LINKED]]
    pixels = np.broadcast_to(LEVELS[:, None, None, None], (IMAGES, 16, 16, 1)).copy()
    return Watched(Cohort("chest_xray", tuple(records), pixels), np.arange(IMAGES))


def assert_counted_once(asked: Counter) -> None:
    assert sum(asked[i] for i in range(LINKED)) == PASSES
    assert [asked[i] for i in range(LINKED, IMAGES)] == [PASSES] * (IMAGES - LINKED)


def test_the_lens_sees_linked_images_once_a_pass(tmp_path):
    frames = watched()
    settings = protocol.Lens(width=8, features=16, training=TRAINING)
    fit_lens(frames, settings, seed=0, folder=tmp_path, device="cpu")
    assert_counted_once(frames.asked)


def test_the_autoencoder_sees_linked_images_once_a_pass(tmp_path):
    frames = watched()
    settings = protocol.Autoencoder(widths=(16, 16), latent_channels=4, training=TRAINING)
    fit_autoencoder(
        frames,
        Frames(frames.cohort, np.arange(2)),
        settings,
        symmetry="identity",
        seed=0,
        folder=tmp_path,
        device="cpu",
    )
    assert_counted_once(frames.asked)


def test_the_denoiser_sees_linked_images_once_a_pass(tmp_path, monkeypatch):
    seen: Counter = Counter()
    usual = diffusion.denoising_loss

    def watch(denoiser, z, *rest, **more):
        if torch.is_grad_enabled():
            seen.update(z[:, 0, 0, 0].long().tolist())
        return usual(denoiser, z, *rest, **more)

    monkeypatch.setattr(diffusion, "denoising_loss", watch)
    monkeypatch.setattr(diffusion, "SHOWN_STEPS", 1)
    views = 2
    numbers = np.arange(IMAGES, dtype=np.float32)[None, :, None, None, None]
    latents = np.broadcast_to(numbers, (views, IMAGES, 4, 8, 8)).copy()
    nothing = torch.zeros(views, IMAGES, 1, dtype=torch.long)
    fit_diffusion(
        latents,
        nothing,
        (latents[0, :2], nothing[0, :2]),
        Echo(),
        protocol.Diffusion(
            widths=(16, 32), attention=(False, True), layers=1, groups=8, training=TRAINING
        ),
        tokens=1,
        seed=0,
        folder=tmp_path,
        device="cpu",
        groups=watched().groups,
    )
    assert_counted_once(seen)


class Echo:
    """An autoencoder for the preview alone."""

    def to(self, device: str) -> Echo:
        return self

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, :1]
