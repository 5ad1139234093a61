"""Only a concept's vectors learn, and they learn what its images show.

`Known` is the best denoiser there is for flat images whose level is the condition's first number,
so that what a concept of such images must become is known too.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medsynth import protocol
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.models.diffusion import Schedule
from medsynth.runtime import read_jsonl
from medsynth.training import inversion

TRAINING = protocol.Optimiser(images=8, batch=8, learning_rate=1e-3)
DIFFUSION = protocol.Diffusion(
    widths=(8, 16), attention=(False, True), layers=1, groups=8, training=TRAINING
)
LEVELS = {1: -1.5, 2: 0.5, 3: 1.5}  # of the latents under each token
SPREAD = 0.1
TOKEN = 4


class Known(Denoiser):
    """Predicts v as well as can be for pixels N(level, SPREAD^2)."""

    def __init__(self):
        table = torch.zeros(TOKEN, 16)
        table[list(LEVELS), 0] = torch.tensor(list(LEVELS.values()))
        super().__init__(Best(), nn.Embedding.from_pretrained(table))


class Best(nn.Module):
    """What a network would answer that had learned this."""

    def __init__(self):
        super().__init__()
        self.schedule = Schedule.of(DIFFUSION)

    def forward(self, x, t, words, *, class_labels, **_):
        signal, noise = self.schedule.signal_noise(t, x)
        level = class_labels[:, 0].reshape(-1, 1, 1, 1)
        gain = signal * SPREAD**2 / (signal**2 * SPREAD**2 + noise**2)
        x_0 = level + gain * (x - signal * level)
        return SimpleNamespace(sample=(signal * x - x_0) / noise)  # v of this x_0


def examples(level: float, count: int = 12) -> inversion.Examples:
    rng = np.random.default_rng(9)
    z = (level + SPREAD * rng.standard_normal((1, count, 2, 4, 4))).astype(np.float32)
    return inversion.Examples(z, torch.full((1, count, 1), TOKEN))


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    settings = protocol.Autoencoder(fold_px=4, widths=(8,), latent_channels=2, training=TRAINING)
    return Autoencoder.build(settings, channels=1).eval()


@pytest.fixture(scope="module")
def denoiser():
    torch.manual_seed(0)
    return Denoiser.build(DIFFUSION, latent_channels=2, latent_px=4, tokens=TOKEN).eval()


def learn(denoiser, autoencoder, folder, *, images, level=1.0, progress=lambda what, share: None):
    folder.mkdir(exist_ok=True)
    training = protocol.Optimiser(images=images, batch=8, learning_rate=0.04, decay="constant")
    return inversion.learn(
        denoiser, autoencoder, examples(level),
        protocol.Concept(vectors=2, training=training), DIFFUSION,
        start=2, seed=3, folder=folder, device="cpu", progress=progress,
    )  # fmt: skip


def weights(module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_nothing_but_the_vectors_changes(denoiser, autoencoder, tmp_path):
    before = [weights(module) for module in (denoiser, autoencoder)]
    concept, _ = learn(denoiser, autoencoder, tmp_path, images=24)
    for module, old in zip((denoiser, autoencoder), before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in module.state_dict().items())
    assert not torch.equal(concept.vectors[0], denoiser.tokens.weight[2])
    assert {path.name for path in tmp_path.iterdir()} >= {"vectors.safetensors", "log.jsonl"}


@pytest.mark.parametrize("level", [1.0, -0.5])
def test_vectors_come_to_stand_for_a_level_that_no_token_says(autoencoder, level, tmp_path):
    concept, losses = learn(Known(), autoencoder, tmp_path, images=480, level=level)
    assert concept.vectors.detach()[:, 0].mean() == pytest.approx(level, abs=0.06)
    known = inversion.token_losses(
        Known(), examples(level), DIFFUSION, token=TOKEN, candidates=LEVELS, device="cpu"
    )
    assert losses["after"] < 0.6 * min(known.values()) <= losses["before"] + 1e-6


@pytest.mark.parametrize(("level", "nearest"), [(-1.2, 1), (-0.4, 2), (0.9, 2), (1.1, 3)])
def test_the_nearest_known_token_has_the_least_loss(level, nearest):
    losses = inversion.token_losses(
        Known(), examples(level), DIFFUSION, token=TOKEN, candidates=LEVELS, device="cpu"
    )
    assert min(losses, key=losses.get) == nearest


class Killed(Exception):
    """Stands in for SIGKILL."""


def test_killed_learning_goes_on_to_the_same_vectors(denoiser, autoencoder, tmp_path):
    whole, told = learn(denoiser, autoencoder, tmp_path / "whole", images=48)

    def dies(what, share):
        if share >= 0.5:
            raise Killed

    with pytest.raises(Killed):
        learn(denoiser, autoencoder, tmp_path / "cut", images=48, progress=dies)
    assert 0 < len(read_jsonl(tmp_path / "cut" / "log.jsonl")) < 6
    again, told_again = learn(denoiser, autoencoder, tmp_path / "cut", images=48)
    assert torch.equal(again.vectors, whole.vectors)
    assert told_again == told


def test_rate_grows_with_the_batch_where_none_is_given():
    rule = "gate: {rules: [{finding: memorization.p_value, not_rejected_at: 0.05}]}"
    read = protocol.parse(
        f"name: x\ndomain: fundus\nconcept: {{training: {{batch: 4}}}}\n{rule}"
    ).concept
    assert read.training.learning_rate == pytest.approx(0.02)
    usual = protocol.Concept().training
    assert usual.images // usual.batch == 3000
