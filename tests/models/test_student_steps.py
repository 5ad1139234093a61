"""On Gaussian data a student's points, what each step must say, and where it ends are known."""

import itertools
import math

import pytest
import torch

from medsynth import protocol
from medsynth.models.diffusion import CLEAN, Schedule, ddim
from medsynth.models.solvers import walk
from medsynth.models.steps import Steps, read_pairs

KINDS = ("cosine", "scaled_linear", "flow")


def settings(few=4, **knobs) -> protocol.Sample:
    knobs = {"steps": 20, "sampler": "unipc"} | knobs
    return protocol.Sample(student=protocol.Student(steps=few), **knobs)


def diffusion(kind: str = "cosine", **knobs) -> protocol.Diffusion:
    return protocol.Diffusion(schedule=kind, **knobs)


def best_denoiser(schedule: Schedule, std: float):
    """E[v | x_t] for data N(0, std^2)."""

    def denoise(x, t):
        abar = torch.as_tensor(schedule.abar)[t].reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        return (abar * (1 - abar)).sqrt() * (1 - std**2) * x / (abar * std**2 + 1 - abar)

    return denoise


def deviation(schedule: Schedule, std: float, t: int) -> float:
    """The deviation of x_t: the exact flow keeps x over it as it is."""
    abar = 1.0 if t == CLEAN else schedule.abar[t]
    return math.sqrt(abar * std**2 + 1 - abar)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("steps", "of"), [(1, 20), (2, 20), (4, 20), (5, 50)])
@pytest.mark.parametrize("spacing", ["angle", "even"])
def test_a_student_steps_at_every_nth_of_the_denoiser_s_times(kind, steps, of, spacing):
    asked = protocol.Sample(steps=of, spacing=spacing, student=protocol.Student(steps=steps))
    made = Steps.of(asked, diffusion(kind))
    assert len(made.pairs) == steps
    assert (made.pairs[0][0], made.pairs[-1][1]) == (999, CLEAN)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(made.pairs))
    times = [t for t, _ in walk(made.schedule, of, spacing=spacing)]
    assert [t for t, _ in made.pairs] == times[:: of // steps]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
def test_the_points_of_a_walk_lie_on_the_exact_flow(kind, std):
    asked = settings(5)
    steps = Steps.of(asked, diffusion(kind))
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = steps.walks(best_denoiser(steps.schedule, std), x, asked)
    assert points.shape == (6, 3, 2)
    times = [t for t, _ in steps.pairs] + [CLEAN]
    start = deviation(steps.schedule, std, times[0])
    for point, t in zip(points, times, strict=True):
        exact = x * deviation(steps.schedule, std, t) / start
        torch.testing.assert_close(point, exact, rtol=0.005 if t == CLEAN else 0.02, atol=0)


@pytest.mark.parametrize("objective", ["v", "flow"])
def test_a_step_misses_nothing_exactly_where_ddim_ends_on_the_next_point(objective):
    asked = settings(4)
    steps = Steps.of(asked, diffusion("cosine", objective=objective))
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = torch.arange(8) % 4
    said = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ends = torch.cat(
        [
            ddim(lambda x, t, i=i: said[i : i + 1], x[i : i + 1], steps.schedule,
                 [steps.pairs[step[i]]], objective=objective)
            for i in range(8)
        ]
    )  # fmt: skip
    missed = steps.error(said, x, ends, step)
    torch.testing.assert_close(missed, torch.zeros_like(missed), atol=1e-9, rtol=0)


def test_what_a_step_misses_is_the_error_of_v():
    steps = Steps.of(settings(4), diffusion())
    x, wrong = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    step = torch.arange(8) % 4
    turns = [steps.schedule.angle(t) - steps.schedule.angle(t_prev) for t, t_prev in steps.pairs]
    turn = torch.tensor(turns, dtype=torch.float64)[step][:, None]
    right = torch.randn(8, 3, dtype=torch.float64)
    end = turn.cos() * x - turn.sin() * right
    torch.testing.assert_close(steps.error(right + wrong, x, end, step).abs(), wrong.abs())
    assert steps.times(step).tolist() == [steps.pairs[i][0] for i in step]


def test_what_the_folder_says_is_read_back(tmp_path):
    asked = settings(4, guidance=2.0)
    steps = Steps.of(asked, diffusion())
    steps.write(tmp_path, asked)
    assert tuple(read_pairs(tmp_path)) == steps.pairs


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps": 20, "eta": 0.5, "sampler": "ddim"}, "which eta 0.5 leaves to chance"),
        ({"steps": 22}, r"sample.steps 22 must be twice student.steps \(4\), or another"),
        ({"steps": 4}, r"sample.steps 4 must be twice"),
    ],
)
def test_a_student_that_could_not_learn_is_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        settings(4, **knobs)
