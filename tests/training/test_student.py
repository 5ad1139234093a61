"""A student of the exact denoiser of Gaussian data draws Gaussian data, in few steps."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from medsynth import protocol
from medsynth.models.diffusion import Schedule, ddim
from medsynth.models.steps import Steps
from medsynth.protocol import Optimiser
from medsynth.runtime import read_jsonl
from medsynth.training.student import fit_student, walk_all

WALKS, SHAPE = 220, (2, 3, 3)
TRAINING = Optimiser(images=6400, batch=32, learning_rate=0.06, warmup_images=320)


class Exact(nn.Module):
    """E[v | x_t] for data of deviation 0.5 under condition 1, of 2 under condition 2."""

    def __init__(self, schedule: Schedule):
        super().__init__()
        self.abar = torch.as_tensor(schedule.abar)

    def forward(self, x, t, condition):
        abar = self.abar[t].reshape(-1, 1, 1, 1).to(x.dtype)
        std = torch.tensor([1.0, 0.5, 2.0])[condition[:, 0]].reshape(-1, 1, 1, 1)
        return (abar * (1 - abar)).sqrt() * (1 - std**2) * x / (abar * std**2 + 1 - abar)


class Learner(nn.Module):
    """A number for each time and condition, times x: all that the exact answer needs."""

    def __init__(self):
        super().__init__()
        self.factors = nn.Embedding(3000, 1)
        nn.init.zeros_(self.factors.weight)

    def forward(self, x, t, condition):
        return self.factors(3 * t + condition[:, 0]).reshape(-1, 1, 1, 1) * x


class Echo(nn.Module):
    """An autoencoder for the preview alone."""

    def decode(self, z):
        return z[:, :1]


def settings(**knobs) -> protocol.Sample:
    student = protocol.Student(steps=4, walks=WALKS, ema=0.9, training=TRAINING)
    return protocol.Sample(steps=40, sampler="unipc", student=student, **knobs)


def learned(folder, progress=lambda what, share: None):
    folder.mkdir(exist_ok=True)
    asked = settings()
    steps = Steps.of(asked, protocol.Diffusion())
    conditions = 1 + torch.arange(WALKS)[:, None] % 2
    walks = walk_all(
        Exact(steps.schedule), conditions, steps, asked,
        shape=SHAPE, path=folder / "walks.npy", seed=5, device="cpu",
    )  # fmt: skip
    student = fit_student(
        Learner(), walks, conditions, Echo(), steps, asked,
        seed=5, folder=folder, device="cpu", progress=progress,
    )  # fmt: skip
    return student, steps, walks


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "whole"
    return *learned(folder), folder


def test_a_student_of_the_exact_denoiser_has_the_data_s_deviation(whole):
    student, steps, *_ = whole
    x = torch.ones(2, *SHAPE)
    condition = torch.tensor([[1], [2]])
    with torch.no_grad():
        made = ddim(
            lambda x, t: student(x, t, condition), x, steps.schedule, steps.pairs, objective="v"
        )
    abar = steps.schedule.abar[-1]
    for row, std in zip(made, (0.5, 2.0), strict=True):
        exact = std / math.sqrt(abar * std**2 + 1 - abar)
        assert row.mean().item() == pytest.approx(exact, rel=0.005)


def test_the_denoiser_itself_is_far_off_in_as_few_steps(whole):
    _, steps, *_ = whole
    exact, condition = Exact(steps.schedule), torch.tensor([[1]])
    made = ddim(
        lambda x, t: exact(x, t, condition), torch.ones(1, *SHAPE), steps.schedule, steps.pairs,
        objective="v",
    )  # fmt: skip
    assert abs(made.mean().item() / 0.5 - 1) > 0.1


def test_the_log_tells_how_far_it_is_from_the_denoiser(whole):
    rows = read_jsonl(whole[3] / "log.jsonl")
    assert rows[-1]["validation_off"] < 0.02 < 0.2 < rows[0]["validation_off"]
    assert rows[-1]["validation_deviation"] == pytest.approx(1, abs=0.005)


def test_a_walk_follows_from_its_number_and_its_condition(whole):
    walks = whole[2]
    assert walks.shape == (5, WALKS, *SHAPE)
    assert not np.array_equal(walks[0, 0], walks[0, 2])
    ratio = walks[-1].std((1, 2, 3)) / walks[0].std((1, 2, 3))
    assert ratio[0::2] == pytest.approx(0.5, rel=0.005)
    assert ratio[1::2] == pytest.approx(2.0, rel=0.005)


def test_killed_and_started_again_it_learns_the_same(whole, tmp_path):
    class Killed(Exception):
        """Stands in for SIGKILL."""

    def dies(what, share):
        if what == "student" and share > 0.5:
            raise Killed

    with pytest.raises(Killed):
        learned(tmp_path / "broken", dies)
    again, *_ = learned(tmp_path / "broken")
    assert torch.equal(again.factors.weight, whole[0].factors.weight)
