"""On Gaussian data the exact result is known; at matching times diffusers is the oracle."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from medsynth import protocol
from medsynth.models.diffusion import CLEAN, Schedule, ddim, noise_like, spaced_times
from medsynth.models.solvers import dpm_solver, solve, unipc, walk

KINDS = ("scaled_linear", "cosine")
ALL = (*KINDS, "flow")  # which ends in pure noise, of which diffusers' solvers make NaN
SOLVERS = {"dpm": dpm_solver, "unipc": unipc}


def settings(sampler="unipc", **knobs) -> protocol.Sample:
    return protocol.Sample(sampler=sampler, **knobs)


def best_denoiser(schedule: Schedule, std: float):
    """E[v | x_t] for data N(0, std^2): linear in x, so the result is a factor of the start."""

    def denoise(x, t):
        abar = torch.as_tensor(schedule.abar)[t].reshape(-1, *[1] * (x.ndim - 1))
        return (abar * (1 - abar)).sqrt() * (1 - std**2) * x / (abar * std**2 + 1 - abar)

    return denoise


def factor(schedule: Schedule, std: float, **knobs) -> float:
    """What a start of 1 becomes."""
    x = torch.ones(1, 1, dtype=torch.float64)
    made = solve(best_denoiser(schedule, std), x, schedule, settings(**knobs), objective="v")
    return made.item()


def exact(schedule: Schedule, std: float) -> float:
    abar = schedule.abar[-1]
    return std / math.sqrt(abar * std**2 + 1 - abar)


def bent(x, t):
    """Any smooth v that is far from linear in x."""
    return torch.sin(2 * x) + 0.3 * torch.cos(t.reshape(-1, 1) / 150).to(x)


# Exactness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_20_steps_of_unipc_keep_the_deviation_of_gaussian_data_within_half_a_percent(kind, std):
    schedule = Schedule(kind, 1000)
    assert factor(schedule, std, steps=20) == pytest.approx(exact(schedule, std), rel=0.005)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("std", "within"), [(0.5, 0.005), (1.0, 0.005), (2.0, 0.025)])
def test_20_steps_of_dpm_solver_do_so_where_data_are_not_wide(kind, std, within):
    schedule = Schedule(kind, 1000)
    made = factor(schedule, std, sampler="dpm", steps=20)
    assert made == pytest.approx(exact(schedule, std), rel=within)


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    "schedule",
    [Schedule("scaled_linear", 1000, zero_terminal=True), Schedule("flow", 1000)],
    ids=lambda schedule: schedule.kind,
)
def test_without_any_signal_at_the_start_nothing_is_lost(sampler, std, schedule):
    """abar = 0 at the first time: no division by it."""
    assert schedule.abar[-1] == 0
    made = factor(schedule, std, sampler=sampler, steps=20)
    assert made == pytest.approx(std, rel=0.035)
    assert factor(schedule, std, sampler=sampler, steps=200) == pytest.approx(std, rel=0.005)


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("kind", ALL)
def test_second_order_loses_far_less_than_ddim(sampler, kind):
    schedule = Schedule(kind, 1000)
    for std in (0.5, 1.0, 2.0):
        lost, by_ddim = (
            abs(factor(schedule, std, sampler=name, steps=20) - exact(schedule, std))
            for name in (sampler, "ddim")
        )
        assert lost < by_ddim / 3


@pytest.mark.parametrize("sampler", SOLVERS)
@pytest.mark.parametrize("spacing", ["angle", "even"])
def test_a_network_that_knows_the_image_gives_it_back_in_any_number_of_steps(sampler, spacing):
    schedule, image = (
        Schedule("cosine", 1000),
        torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None],
    )

    def knows(x, t):
        abar = torch.as_tensor(schedule.abar)[t][:, None]
        return (abar.sqrt() * x - image) / (1 - abar).sqrt()

    x = torch.randn(7, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for steps in (1, 2, 3, 20):
        asked = settings(sampler, steps=steps, spacing=spacing)
        made = solve(knows, x, schedule, asked, objective="v")
        torch.testing.assert_close(made, image, rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS.values())
def test_one_step_is_the_first_estimate_of_the_image(solver):
    schedule, x = Schedule("cosine", 1000), torch.randn(3, 2, dtype=torch.float64)
    (pair,) = pairs = spaced_times(schedule, 1)
    t = torch.full((3,), pair[0])
    estimate, _ = schedule.split(bent(x, t), x, t, "v")
    assert torch.equal(solver(bent, x, schedule, pairs, objective="v"), estimate)


def test_architecture_page_says_what_20_steps_miss():
    page = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    schedule = Schedule("cosine", 1000)

    def missed(sampler, std, spacing="angle"):
        made = factor(schedule, std, sampler=sampler, spacing=spacing, steps=20)
        return f"{100 * (made / exact(schedule, std) - 1):.1f}"

    for sampler in ("ddim", *SOLVERS):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{sampler}`")]
        said = [cell.strip().removesuffix(" %") for cell in row.split("|")[3:6]]
        assert said == [missed(sampler, std) for std in (0.5, 1.0, 2.0)]
    even = [missed(sampler, 1.0, "even") for sampler in ("ddim", *SOLVERS)]
    assert "{}, {} and {} %".format(*even) in page


# Against diffusers --------------------------------------------------------------------------------


def diffusers_walk(name: str, schedule: Schedule, pairs, x: torch.Tensor) -> torch.Tensor:
    betas = 1 - schedule.abar / np.concatenate([[1.0], schedule.abar[:-1]])
    kind = {"dpm": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}[name]
    scheduler = kind(trained_betas=betas.tolist(), prediction_type="sample", solver_order=2)
    scheduler.set_timesteps(len(pairs))
    # UniPC takes no times from outside, and both round their tables to float32.
    times = [t for t, _ in pairs]
    sigmas = [math.sqrt((1 - schedule.abar[t]) / schedule.abar[t]) for t in times]
    scheduler.timesteps = torch.tensor(times)
    scheduler.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float64)
    for t in times:
        now = torch.full((len(x),), t)
        x_0, _ = schedule.split(bent(x, now), x, now, "v")
        x = scheduler.step(x_0, t, x).prev_sample
    return x


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers'
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 3, 10, 20])
@pytest.mark.parametrize("spacing", ["angle", "even"])
def test_solvers_agree_with_diffusers_at_the_same_times(name, kind, steps, spacing):
    schedule = Schedule(kind, 1000)
    pairs = walk(schedule, steps, spacing=spacing)
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = SOLVERS[name](bent, x, schedule, pairs, objective="v")
    torch.testing.assert_close(made, diffusers_walk(name, schedule, pairs, x), rtol=0, atol=1e-5)


# One call -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["angle", "even"])
@pytest.mark.parametrize("sampler", [None, "ddim"])
def test_ddim_behind_the_call_is_ddim_as_it_stands(sampler, spacing):
    schedule, x = Schedule("cosine", 1000), torch.randn(3, 2, dtype=torch.float64)
    pairs, generators = walk(schedule, 6, spacing=spacing), [torch.Generator() for _ in range(6)]
    one = ddim(bent, x, schedule, pairs, objective="v", eta=0.5, generators=generators[:3])
    asked = settings(sampler, steps=6, eta=0.5, spacing=spacing)
    other = solve(bent, x, schedule, asked, objective="v", generators=generators[3:])
    assert torch.equal(one, other)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_noise_and_velocity_give_the_same_image(sampler):
    schedule, x = Schedule("cosine", 1000), torch.randn(3, 2, dtype=torch.float64)

    def as_noise(x, t):
        return schedule.split(bent(x, t), x, t, "v")[1]

    asked = settings(sampler, steps=8)
    by_velocity = solve(bent, x, schedule, asked, objective="v")
    by_noise = solve(as_noise, x, schedule, asked, objective="eps")
    # At the first time abar is 2e-9: eps says next to nothing of x_0 there.
    torch.testing.assert_close(by_velocity, by_noise, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_an_image_is_its_own_start_whatever_stands_beside_it(sampler):
    schedule = Schedule("cosine", 1000)
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    x = noise_like(torch.empty(8, 4, 6, 6), generators)

    def rowwise(x, t):
        return torch.sin(2 * x)

    def made(rows):
        return solve(rowwise, x[rows], schedule, settings(sampler, steps=9), objective="v")

    order = [5, 0, 3, 3, 7, 1, 2, 6]
    assert torch.equal(made(order), made(list(range(8)))[order])


@pytest.mark.parametrize("steps", [1, 2, 7, 49, 150, 999, 1000])
def test_even_times_walk_from_the_noisiest_over_zero_to_the_clean_end(steps):
    pairs = walk(Schedule("scaled_linear", 1000), steps, spacing="even")
    assert len(pairs) == steps
    assert (pairs[0][0], pairs[-1][1]) == (999, CLEAN)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))
    if steps > 1:
        assert pairs[-1][0] == 0
        gaps = [t - before for t, before in pairs[:-1]]
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1


def test_times_are_even_in_the_angle_unless_asked_otherwise():
    schedule = Schedule("cosine", 1000)
    assert walk(schedule, 20) == walk(schedule, 20, spacing="angle") == spaced_times(schedule, 20)
    assert walk(schedule, 20, spacing="even") != walk(schedule, 20)


@pytest.mark.parametrize("spacing", ["angle", "even"])
def test_more_steps_than_there_are_times_are_refused(spacing):
    with pytest.raises(ValueError, match="steps must be 1 to 10, got 11"):
        walk(Schedule("cosine", 10), 11, spacing=spacing)
