"""Averages of weights, against ones that are reckoned directly from all steps' weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medsynth.runtime import read_json
from medsynth.training import averages, checkpoints
from medsynth.training.averages import (
    LENGTHS,
    LENGTHS_TRIED,
    Average,
    Profiles,
    exponential,
    gamma_of,
    power,
    products,
    reconstruct,
    shares,
)

STEPS, KEPT, CPU = 800, 16, torch.device("cpu")


def walk() -> np.ndarray:
    """(STEPS, 6): weights that drift and jitter as in a training."""
    random = np.random.default_rng(0)
    drift = np.linspace(1, 0, STEPS)[:, None] ** 2 * random.standard_normal(6)
    return drift + 0.1 * random.standard_normal((STEPS, 6)) + random.standard_normal(6)


def directly(weights: np.ndarray, gamma: float) -> np.ndarray:
    """The average in which step k counts k^(gamma + 1) - (k - 1)^(gamma + 1)."""
    steps = np.arange(1, len(weights) + 1, dtype=np.float64) / len(weights)
    counts = np.diff(np.concatenate([[0.0], steps ** (gamma + 1)]))
    return counts @ weights


def follow(average: Average | Profiles, weights: np.ndarray, folder=None) -> None:
    module = nn.Linear(3, 2, bias=False)
    for step, row in enumerate(weights, start=1):
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(row.reshape(2, 3)))
        average.update(module)
        if folder is not None and step % (STEPS // KEPT) == 0:
            average.keep(folder)


def fresh() -> nn.Linear:
    return nn.Linear(3, 2, bias=False)


@pytest.mark.parametrize("length", [0.03, 0.05, 0.1, 0.25])
def test_a_length_is_the_deviation_of_its_profile(length):
    gamma, k = gamma_of(length), (np.arange(200_000) + 0.5) / 200_000
    profile = k**gamma / (k**gamma).sum()
    mean = profile @ k
    assert np.sqrt(profile @ (k - mean) ** 2) == pytest.approx(length, rel=1e-4)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.3])
def test_a_length_that_no_power_has_is_refused(length):
    with pytest.raises(ValueError, match="expected a length"):
        gamma_of(length)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.2])
def test_averaging_by_a_power_counts_the_steps_by_that_power(length):
    weights, average = walk(), Average(fresh(), power(length), CPU)
    follow(average, weights)
    found = average.module.weight.detach().numpy().ravel()
    np.testing.assert_allclose(found, directly(weights, gamma_of(length)), atol=1e-5)


def test_the_usual_average_is_torch_s_with_a_short_start():
    weights, average = walk()[:60], Average(fresh(), exponential(0.9), CPU)
    follow(average, weights)
    mean = weights[0]
    for count, new in enumerate(weights[1:], start=1):
        keep = min(0.9, (1 + count) / (10 + count))
        mean = keep * mean + (1 - keep) * new
    np.testing.assert_allclose(average.module.weight.detach().numpy().ravel(), mean, atol=1e-5)


def test_products_are_the_integrals():
    k = (np.arange(400_000) + 0.5) / 400_000

    def profile(steps: float, gamma: float) -> np.ndarray:
        return np.where(k <= steps, (gamma + 1) * (k / steps) ** gamma / steps, 0.0)

    for a in ((0.3, 6.9), (1.0, 17.0)):
        for b in ((0.3, 17.0), (0.8, 2.0)):
            expected = (profile(*a) * profile(*b)).mean()
            assert products(*a, *b) == pytest.approx(expected, rel=1e-3)
            assert products(*b, *a) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("length", [0.05, 0.07, 0.1, 0.15, 0.25])
def test_any_length_is_reconstructed_as_if_it_had_been_tracked(length, tmp_path):
    weights = walk()
    follow(Profiles(fresh(), CPU), weights, tmp_path)
    found, missed = reconstruct(tmp_path, length)
    truth = directly(weights, gamma_of(length))
    others = [np.abs(directly(weights, gamma_of(x)) - truth).max() for x in LENGTHS if x != length]
    error = np.abs(found["weight"].numpy().ravel() - truth).max()
    assert missed < 0.1
    assert error < 0.25 * min(others)
    assert error < 0.01


def test_shares_are_the_least_squares_over_all_steps():
    """The oracle: numpy's least squares on the profiles themselves, step by step."""
    kept = [(steps, gamma_of(x)) for steps in (200, 400, 600, 800) for x in LENGTHS]
    wanted, k = (800, gamma_of(0.13)), (np.arange(80_000) + 0.5) / 100

    def column(steps: int, gamma: float) -> np.ndarray:
        return np.where(k <= steps, (gamma + 1) * (k / steps) ** gamma / steps, 0.0)

    matrix, target = np.stack([column(*pair) for pair in kept], 1), column(*wanted)
    expected = np.linalg.lstsq(matrix, target, rcond=None)[0]
    found, missed = shares(kept, wanted)
    np.testing.assert_allclose(matrix @ found, matrix @ expected, atol=1e-3 * target.max())
    left = np.linalg.norm(matrix @ expected - target) / np.linalg.norm(target)
    assert missed == pytest.approx(left, rel=0.02)
    assert found.sum() == pytest.approx(1.0, abs=0.05)


def test_one_that_was_kept_is_itself_and_misses_nothing(tmp_path):
    weights = walk()
    follow(Profiles(fresh(), CPU), weights, tmp_path)
    found, missed = reconstruct(tmp_path, LENGTHS[1])
    assert missed < 1e-5
    np.testing.assert_allclose(
        found["weight"].numpy().ravel(), directly(weights, gamma_of(LENGTHS[1])), atol=1e-5
    )


def test_stopped_and_gone_on_with_it_is_the_same():
    weights, whole, half = walk(), Profiles(fresh(), CPU), Profiles(fresh(), CPU)
    follow(whole, weights)
    follow(half, weights[:300])
    rest = Profiles(fresh(), CPU)
    rest.load_state_dict(half.state_dict())
    follow(rest, weights[300:])
    for key, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[key]), key


def test_the_length_with_the_lowest_loss_is_taken_and_all_are_written_down(tmp_path):
    weights = walk()
    follow(Profiles(fresh(), CPU), weights, tmp_path)
    module, truth = fresh(), torch.from_numpy(directly(weights, gamma_of(0.13)).reshape(2, 3))

    def validate():
        return {"validation_loss": float((module.weight.detach() - truth).abs().max())}

    assert averages.choose(module, tmp_path, None, validate) == 0.13
    assert validate()["validation_loss"] < 0.01
    row = read_json(tmp_path / "averages.json")
    assert row["chosen"] == 0.13
    assert [one["length"] for one in row["tried"]] == list(LENGTHS_TRIED)
    assert averages.choose(module, tmp_path, 0.05, validate) == 0.05
    assert len(checkpoints.kept(tmp_path, under=averages.FOLDER)) == KEPT
