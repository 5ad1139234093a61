"""On Gaussian data the best denoiser and the exact DDIM result are known in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch

from medsynth.models.diffusion import CLEAN, Schedule, ddim, noise_like, spaced_times

KINDS = ("scaled_linear", "cosine")
PURE = [Schedule("scaled_linear", 1000, True), Schedule("cosine", 1000, True)]
PURE += [Schedule("flow", 1000), Schedule("flow", 1000, True)]


def best_denoiser(schedule: Schedule, std: float, objective: str):
    """E[eps | x_t] or E[v | x_t] for data N(0, std^2)."""

    def denoise(x, t):
        abar = torch.as_tensor(schedule.abar)[t].reshape(-1, *[1] * (x.ndim - 1))
        eps = (1 - abar).sqrt() * x / (abar * std**2 + 1 - abar)
        if objective == "eps":
            return eps
        x_0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        return abar.sqrt() * eps - (1 - abar).sqrt() * x_0

    return denoise


def closed_form(schedule: Schedule, std: float, pairs) -> float:
    """The factor by which exact DDIM multiplies x_T: steps turn by differences of theta."""

    def theta(t):
        abar = 1.0 if t == CLEAN else schedule.abar[t]
        return math.atan2(math.sqrt(1 - abar), std * math.sqrt(abar))

    turned = math.prod(math.cos(theta(t) - theta(before)) for t, before in pairs)
    abar = schedule.abar[pairs[0][0]]
    return turned * std / math.sqrt(abar * std**2 + 1 - abar)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objective", ["v", "eps"])
@pytest.mark.parametrize("steps", [7, 30, 50, 150])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_ddim_agrees_with_the_closed_form_on_gaussian_data(kind, objective, steps, std):
    schedule = Schedule(kind, 1000)
    pairs = spaced_times(schedule, steps)
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(-1, 1)
    made = ddim(best_denoiser(schedule, std, objective), x, schedule, pairs, objective=objective)
    assert (made - closed_form(schedule, std, pairs) * x).abs().max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_default_spacing_keeps_96_5_percent_of_the_deviation_at_50_steps(kind, std):
    schedule = Schedule(kind, 1000)
    pairs = spaced_times(schedule, 50)
    abar = schedule.abar[-1]
    start = math.sqrt(abar * std**2 + 1 - abar)
    kept = closed_form(schedule, std, pairs) * start / std
    assert 0.965 <= kept <= 1.0


def test_default_spacing_shrinks_less_than_spacing_even_in_time():
    schedule = Schedule("scaled_linear", 1000)
    even = np.linspace(999, 0, 50).round().astype(int).tolist()
    even_pairs = list(zip(even, [*even[1:], CLEAN], strict=True))
    pairs = spaced_times(schedule, 50)
    assert closed_form(schedule, 0.5, pairs) > closed_form(schedule, 0.5, even_pairs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 49, 150, 999, 1000])
def test_times_walk_down_from_the_noisiest_to_the_clean_end(kind, steps):
    pairs = spaced_times(Schedule(kind, 1000), steps)
    assert len(pairs) == steps
    assert pairs[0][0] == 999
    assert pairs[-1][1] == CLEAN
    assert all(t > before for t, before in pairs)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(pairs))


def test_more_steps_than_times_are_refused():
    with pytest.raises(ValueError, match="steps must be 1 to 10, got 11"):
        spaced_times(Schedule("cosine", 10), 11)


def test_eta_one_keeps_the_spread_of_gaussian_data():
    """With eta 1 each step is DDPM's posterior, which has the right variance with enough steps."""
    schedule = Schedule("cosine", 1000)
    generators = [torch.Generator().manual_seed(i) for i in range(3000)]
    x = noise_like(torch.empty(3000, 1, dtype=torch.float64), generators)
    made = ddim(
        best_denoiser(schedule, 0.5, "v"),
        x,
        schedule,
        spaced_times(schedule, 200),
        objective="v",
        eta=1.0,
        generators=generators,
    )
    assert made.std().item() == pytest.approx(0.5, rel=0.05)
    assert made.mean().item() == pytest.approx(0.0, abs=0.04)


def test_eta_needs_a_generator_an_image():
    schedule = Schedule("cosine", 10)
    with pytest.raises(ValueError, match="needs a generator an image: 2, got 0"):
        ddim(
            lambda x, t: x,
            torch.zeros(2, 1),
            schedule,
            spaced_times(schedule, 2),
            objective="v",
            eta=0.5,
        )


@pytest.mark.parametrize("objective", ["v", "eps"])
def test_splitting_a_true_target_gives_back_image_and_noise(objective):
    schedule = Schedule("cosine", 1000)
    x_0, eps = torch.randn(2, 5, 3, dtype=torch.float64).unbind(0)
    t = torch.tensor([0, 10, 500, 900, 990])
    x_t = schedule.add_noise(x_0, eps, t)
    target = schedule.target(x_0, eps, t, objective)
    again_x, again_eps = schedule.split(target, x_t, t, objective)
    torch.testing.assert_close(again_x, x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(again_eps, eps, rtol=0, atol=1e-9)


def test_min_snr_weighs_the_error_in_the_image_by_at_most_gamma():
    """min(snr, gamma) on x_0 is min(snr, gamma)/snr on eps and min(snr, gamma)/(snr + 1) on v."""
    schedule = Schedule("cosine", 1000)
    t = torch.arange(1000)
    snr = torch.as_tensor(schedule.abar / (1 - schedule.abar)).float()
    capped = snr.clamp(max=5.0)
    torch.testing.assert_close(schedule.weight(t, "eps", 5.0), capped / snr)
    torch.testing.assert_close(schedule.weight(t, "v", 5.0), capped / (snr + 1))
    assert torch.equal(schedule.weight(t, "v", None), torch.ones(1000))


@pytest.mark.parametrize("kind", KINDS)
def test_noise_only_grows(kind):
    abar = Schedule(kind, 1000).abar
    assert (np.diff(abar) < 0).all()
    assert abar[0] > 0.99
    assert abar[-1] < 1e-2


# Pure noise at the last time, and the straight line ---------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rescaling_to_pure_noise_agrees_with_diffusers(kind):
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    plain = Schedule(kind, 1000).abar
    betas = 1 - plain / np.concatenate([[1.0], plain[:-1]])
    expected = np.cumprod(1 - rescale_zero_terminal_snr(torch.from_numpy(betas)).numpy())
    np.testing.assert_allclose(Schedule(kind, 1000, True).abar, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("schedule", PURE, ids=str)
def test_the_last_time_is_pure_noise_and_the_first_hardly_any(schedule):
    assert schedule.abar[-1] == 0.0
    assert schedule.abar[0] > 0.99
    assert (np.diff(schedule.abar) < 0).all()
    assert schedule.angle(999) == pytest.approx(math.pi / 2)
    x_0, eps = torch.randn(2, 3, 4).unbind(0)
    assert torch.equal(schedule.add_noise(x_0, eps, torch.full((3,), 999)), eps)


@pytest.mark.parametrize("schedule", PURE, ids=str)
@pytest.mark.parametrize("objective", ["v", "flow"])
def test_a_true_target_splits_back_at_every_time_pure_noise_included(schedule, objective):
    t = torch.arange(1000)
    x_0, eps = torch.randn(2, 1000, 3, dtype=torch.float64).unbind(0)
    target = schedule.target(x_0, eps, t, objective)
    again_x, again_eps = schedule.split(target, schedule.add_noise(x_0, eps, t), t, objective)
    torch.testing.assert_close(again_x, x_0, rtol=0, atol=1e-9)
    torch.testing.assert_close(again_eps, eps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", PURE, ids=str)
@pytest.mark.parametrize("objective", ["v", "flow"])
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_ddim_from_pure_noise_agrees_with_the_closed_form(schedule, objective, std):
    def denoise(x, t):
        abar = torch.as_tensor(schedule.abar)[t][:, None]
        share = abar * std**2 + 1 - abar
        x_0, eps = std**2 * abar.sqrt() * x / share, (1 - abar).sqrt() * x / share
        return schedule.target(x_0, eps, t, objective)

    pairs = spaced_times(schedule, 30)
    x = torch.linspace(-3, 3, 41, dtype=torch.float64).reshape(-1, 1)
    made = ddim(denoise, x, schedule, pairs, objective=objective)
    assert (made - closed_form(schedule, std, pairs) * x).abs().max() < 1e-4
    generators = [torch.Generator().manual_seed(i) for i in range(len(x))]
    noisy = ddim(denoise, x, schedule, pairs, objective=objective, eta=1.0, generators=generators)
    assert noisy.isfinite().all()


def test_ddim_on_the_flow_schedule_is_euler_s_method_on_the_straight_line():
    schedule, rate = Schedule("flow", 1000), torch.randn(5, 5, dtype=torch.float64)
    pairs = spaced_times(schedule, 12)

    def velocity(x, s):  # any field, of a point on the line
        return (x @ rate).tanh() * (1 + s)

    def denoise(x_t, t):
        s = (t[0].item() + 1) / 1000
        return velocity(x_t * math.hypot(1 - s, s), s)

    noise = torch.randn(7, 5, dtype=torch.float64)
    x = noise.clone()
    for t, before in pairs:
        s, s_next = (t + 1) / 1000, (before + 1) / 1000
        x = x + (s_next - s) * velocity(x, s)
    made = ddim(denoise, noise, schedule, pairs, objective="flow")
    torch.testing.assert_close(made, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("schedule", PURE, ids=str)
def test_min_snr_weighs_an_error_in_the_image_alike_whatever_is_predicted(schedule):
    t = torch.arange(1000)
    x_t, target, error = torch.randn(3, 1000, 4, dtype=torch.float64).unbind(0)
    snr = torch.as_tensor(schedule.abar / (1 - schedule.abar))
    for objective in ("v", "flow"):
        wrong = schedule.split(target + error, x_t, t, objective)[0]
        right = schedule.split(target, x_t, t, objective)[0]
        in_image = ((wrong - right) ** 2).mean(1) * snr.clamp(max=5.0)
        weighed = (error**2).mean(1) * schedule.weight(t, objective, 5.0)
        torch.testing.assert_close(weighed, in_image, rtol=1e-4, atol=1e-9)
