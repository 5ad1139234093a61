"""Children of images: both ends are known, and between them the Gaussian case is."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from medsynth import protocol, synthesis, variation
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser, encode_conditions
from medsynth.models.diffusion import CLEAN, Schedule
from medsynth.models.solvers import solve
from medsynth.vocabulary import Vocabulary

TRAINING = protocol.Optimiser(images=8, batch=8, learning_rate=1e-3)
DIFFUSION = protocol.Diffusion(
    widths=(16, 32), attention=(False, True), layers=1, groups=8, training=TRAINING
)
VOCABULARY = Vocabulary.from_labels([{"finding": "normal"}, {"finding": "opacity"}])
LABELS = [{"finding": "normal"}, {"finding": "opacity"}, {}]
SAMPLERS = ("ddim", "dpm", "unipc")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    settings = protocol.Autoencoder(fold_px=4, widths=(16,), latent_channels=4, training=TRAINING)
    denoiser = Denoiser.build(DIFFUSION, latent_channels=4, latent_px=8, tokens=VOCABULARY.size)
    autoencoder = Autoencoder.build(settings, channels=1)
    autoencoder.start_from(torch.from_numpy(images(1, 40)))
    autoencoder.set_scale(torch.zeros(4), torch.full((4,), 1.3))
    return denoiser.eval(), autoencoder.eval()


def images(seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = rng.uniform(-0.8, 0.8, (count, 1, 8, 8)).astype(np.float32)
    return small.repeat(4, 2).repeat(4, 3)


def parents(seed: int = 2, stays: np.ndarray | None = None) -> variation.Parents:
    return variation.Parents(images(seed), encode_conditions(VOCABULARY, LABELS), stays)


def vary(models, given, strengths, *, seeds=(5, 6, 7), **knobs) -> np.ndarray:
    settings = protocol.Sample(**{"steps": 6, "batch": 2, **knobs})
    return variation.vary(
        *models, given, strengths,
        settings=settings, diffusion=DIFFUSION, seeds=seeds, device="cpu",
    )  # fmt: skip


def test_strength_0_is_what_the_autoencoder_keeps(models):
    given = parents()
    kept = models[1].reconstruct(torch.from_numpy(given.images)).detach().numpy()
    np.testing.assert_allclose(vary(models, given, [0.0] * 3), kept, atol=1e-6)
    assert abs(kept - given.images).mean() < 0.2  # it keeps something


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_strength_1_is_what_sampling_draws_whoever_the_parent_is(models, sampler):
    made, other = (
        vary(models, parents(seed), [1.0] * 3, sampler=sampler, guidance=2.0) for seed in (2, 3)
    )
    drawn = synthesis.sample(
        *models, VOCABULARY, LABELS,
        settings=protocol.Sample(steps=6, batch=2, sampler=sampler, guidance=2.0),
        diffusion=DIFFUSION, seeds=(5, 6, 7), device="cpu",
    )  # fmt: skip
    np.testing.assert_array_equal(made, other)
    np.testing.assert_array_equal(made, drawn)


@pytest.mark.parametrize("knobs", [{"sampler": "unipc"}, {"eta": 1.0}])
def test_child_follows_from_its_parent_strength_and_seed_alone(models, knobs):
    given, strengths, seeds = parents(), [0.25, 0.75, 0.25], [5, 6, 7]
    together = vary(models, given, strengths, seeds=seeds, **knobs)
    for i in range(3):
        alone = vary(models, given.take([i]), strengths[i : i + 1], seeds=seeds[i : i + 1], **knobs)
        np.testing.assert_array_equal(alone[0], together[i])
    again = vary(models, given, strengths, seeds=[8, 6, 7], **knobs)
    assert abs(again[0] - together[0]).max() > 0.01
    np.testing.assert_array_equal(again[1:], together[1:])


def test_the_stronger_the_further_from_the_parent(models):
    given = parents()
    away = [
        abs(vary(models, given, [strength] * 3) - given.images).mean()
        for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert away == sorted(away)
    assert away[-1] > 1.5 * away[0]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("objective", ["v", "eps", "flow"])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_what_is_to_stay_stays_for_every_solver(models, sampler, objective, strength):
    """Half of the picture stays: its latents come back, the other half's do not."""
    denoiser, autoencoder = models
    stays = np.zeros((3, 32, 32), bool)
    stays[:, :, :16] = True
    seen = []

    class Latents(torch.nn.Module):
        encode = staticmethod(autoencoder.encode)

        def decode(self, z):
            seen.append(z.clone())
            return autoencoder.decode(z)

    given = parents(stays=stays)
    variation.vary(
        denoiser, Latents(), given, [strength] * 3,
        settings=protocol.Sample(steps=6, batch=3, sampler=sampler),
        diffusion=DIFFUSION.model_copy(update={"objective": objective}),
        seeds=(5, 6, 7), device="cpu",
    )  # fmt: skip
    z = autoencoder.encode(torch.from_numpy(given.images))
    torch.testing.assert_close(seen[0][..., :4], z[..., :4], atol=2e-3, rtol=0)
    assert abs(seen[0][..., 4:] - z[..., 4:]).mean() > 0.05


def test_mask_of_nothing_that_stays_is_no_mask(models):
    nothing = vary(models, parents(stays=np.zeros((3, 32, 32), bool)), [0.5] * 3)
    np.testing.assert_allclose(nothing, vary(models, parents(), [0.5] * 3), atol=1e-6)


def test_a_place_stays_only_where_all_of_its_pixels_do():
    stays = torch.ones(1, 32, 32, dtype=torch.bool)
    stays[0, 5, 9] = False
    small = variation.shrink(stays, 8)
    assert small.shape == (1, 1, 8, 8)
    assert (~small).nonzero().tolist() == [[0, 0, 1, 2]]


@pytest.mark.parametrize("kind", ["cosine", "scaled_linear"])
@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_gaussian_child_is_as_wide_as_the_data_and_as_like_its_parent_as_theory_says(
    kind, strength, std
):
    """Along the exact way x_t keeps its place in the distribution: x_0 = x_t std / std(x_t)."""
    schedule, knobs = Schedule(kind, 1000), protocol.Sample(steps=40, sampler="unipc")
    pairs = variation.walk_from(schedule, strength, knobs)
    abar = float(schedule.abar[round(strength * 1000) - 1])
    assert pairs[0][0] == round(strength * 1000) - 1

    def best(x, t):
        table = torch.as_tensor(schedule.abar)[t].reshape(-1, 1)
        return (table * (1 - table)).sqrt() * (1 - std**2) * x / (table * std**2 + 1 - table)

    parent, noise = torch.eye(2, dtype=torch.float64)[:, :, None].unbind(0)
    start = math.sqrt(abar) * parent + math.sqrt(1 - abar) * noise
    child = solve(best, start, schedule, knobs, objective="v", pairs=pairs)
    wide = math.sqrt(abar * std**2 + 1 - abar)
    assert child[0].item() == pytest.approx(math.sqrt(abar) * std / wide, rel=0.01)
    assert child[1].item() == pytest.approx(math.sqrt(1 - abar) * std / wide, rel=0.01)


@pytest.mark.parametrize("spacing", ["angle", "even"])
def test_walk_from_a_strength_joins_the_whole_walk(spacing):
    schedule, knobs = Schedule("cosine", 1000), protocol.Sample(steps=10, spacing=spacing)
    whole = variation.walk_from(schedule, 1.0, knobs)
    assert len(whole) == 10
    part = variation.walk_from(schedule, 0.5, knobs)
    assert part[0][0] == 499
    assert part[1:] == whole[-len(part[1:]) :]
    assert [t for _, t in part] == [*(t for t, _ in part[1:]), CLEAN]
    assert variation.walk_from(schedule, 0.0, knobs) == []
    with pytest.raises(ValueError, match="0 to 1"):
        variation.walk_from(schedule, 1.2, knobs)


def test_strengths_are_drawn_evenly_in_any_order():
    choices = (1.0, 0.75, 0.5, 0.25)
    drawn = [variation.draw_strengths(choices, 10, seed=seed) for seed in range(200)]
    assert all(set(Counter(row).values()) <= {2, 3} for row in drawn)
    total = Counter(strength for row in drawn for strength in row)
    assert all(440 < total[choice] < 560 for choice in choices)
    assert len({row[0] for row in drawn}) == 4
    assert variation.draw_strengths(choices, 10, seed=3) == drawn[3]
