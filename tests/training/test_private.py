"""DP-SGD by patient: right gradients, secret noise, and a kill that spends nothing twice."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from medsynth import protocol
from medsynth.budget import Account, Ledger, recompute
from medsynth.errors import StageError
from medsynth.models.denoiser import Denoiser
from medsynth.models.diffusion import Schedule
from medsynth.runtime import digest_bytes
from medsynth.training import clipping
from medsynth.training.clipping import PatientGradients
from medsynth.training.loop import learning_rate
from medsynth.training.private import (
    Step,
    check_gradients,
    check_possible,
    loss_at_levels,
    make_private,
    noised,
)
from medsynth.training.sampling import Patients, Secret

SHAPE, TOKENS, PATIENTS = (4, 8, 8), 5, 12
KEY = "7" * 64
BUSY = 3  # a step in which more patients take part than are in memory at a time


def settings(**private) -> protocol.Diffusion:
    budget = {
        "epsilon": 8.0,
        "delta": 1e-3,
        "noise_levels": 3,
        "accountant": "rdp",
        "microbatch": 4,
    }
    return protocol.Diffusion(
        widths=(16, 32),
        attention=(False, True),
        layers=1,
        groups=8,
        timesteps=100,
        ema=0.9,
        private=protocol.Private(**{**budget, **private}),
        training=protocol.Optimiser(images=24, batch=4, learning_rate=1e-3),
    )


def denoiser(**changes) -> Denoiser:
    torch.manual_seed(0)
    knobs = settings().model_copy(update=changes)
    return Denoiser.build(knobs, latent_channels=4, latent_px=8, tokens=TOKENS)


class Unfixed(PatientGradients):
    """Opacus' formulas on memory as it comes."""

    @staticmethod
    def formula(layer, x, gradient):
        from opacus.grad_sample import GradSampleModule

        return GradSampleModule.GRAD_SAMPLERS[type(layer)](layer, [x], gradient)


# Gradients a patient ------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention": (True, True)},
        {"attention": (False, False), "middle_attention": False, "layers": 2},
        {"widths": (16, 24, 32), "attention": (False, True, False), "objective": "eps"},
    ],
)
def test_gradients_are_those_of_one_patient_at_a_time(levels, changes):
    knobs = settings(noise_levels=levels).model_copy(update=changes)
    error = check_gradients(denoiser(**changes), knobs, latent_shape=SHAPE, device="cpu")
    assert error < 1e-6


def test_opacus_fault_on_channels_last_memory_is_caught_and_mended():
    """A convolution's gradient is read from the wrong pixels there: docs/opacus.md."""
    net = denoiser().to(memory_format=torch.channels_last)
    with pytest.raises(StageError, match=r"wrong by .* no epsilon would be true"):
        check_gradients(net, settings(), latent_shape=SHAPE, device="cpu", gradients=Unfixed)
    assert check_gradients(net, settings(), latent_shape=SHAPE, device="cpu") < 1e-6


def test_gradients_that_are_no_number_are_refused():
    class Lost(PatientGradients):
        @staticmethod
        def formula(layer, x, gradient):
            rows = PatientGradients.formula(layer, x, gradient)
            return {weight: row * float("nan") for weight, row in rows.items()}

    with pytest.raises(StageError, match="wrong by nan"):
        check_gradients(denoiser(), settings(), latent_shape=SHAPE, device="cpu", gradients=Lost)


def test_layer_without_a_formula_is_refused():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(StageError, match="no gradient a patient can be had of Scale"):
        PatientGradients(nn.Sequential(nn.Linear(2, 2), Scale()), 1)


def test_layer_that_mixes_patients_is_refused():
    """Batch normalisation: a patient's loss hangs on who else is there."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
    inputs = (torch.randn(6, 2),)
    with pytest.raises(StageError, match="wrong by"):
        clipping.check(net, lambda m, x: m(*x).square().unflatten(0, (-1, 2))[..., 0], inputs,
                       levels=2)  # fmt: skip


def test_clipping_bounds_each_patient_and_leaves_small_gradients_alone():
    rows = [torch.tensor([[3.0, 0.0], [0.1, 0.0], [0.0, 0.0]]), None, torch.tensor([4.0, 0.0, 0.0])]
    assert clipping.clip_factors(rows, 1.0).tolist() == pytest.approx([0.2, 1.0, 1.0])


def test_patient_whose_gradient_is_no_number_counts_nothing():
    rows = [torch.tensor([[float("inf"), 1.0], [1.0, 0.0]]), torch.tensor([1.0, 0.0])]
    sums = [torch.zeros(2), torch.zeros(())]
    clipping.add_clipped(sums, rows, clipping.clip_factors(rows, 1.0))
    assert [total.tolist() for total in sums] == [[1.0, 0.0], 0.0]


# Who takes part -----------------------------------------------------------------------------------


def test_each_patient_takes_part_with_the_same_chance_whatever_the_number_of_images():
    numbers = np.repeat([5, 2, 9, 7], [1, 40, 3, 2])
    patients, counts, seen = Patients(numbers), np.zeros(10), []
    secret = Secret(b"0" * 32)
    for step in range(4000):
        chosen = patients.draw(0.25, secret.generator("patients", step))
        who = numbers[chosen]
        assert len(set(who.tolist())) == len(who)  # one image of each
        counts[who] += 1
        seen += chosen.tolist()
    assert len(patients) == 4
    # binomial, 5 standard deviations
    assert np.abs(counts[[2, 5, 7, 9]] - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    assert set(seen) == set(range(len(numbers)))


def test_sizes_of_the_samples_vary_as_poisson_sampling_has_it():
    patients, secret = Patients(np.arange(40)), Secret(b"1" * 32)
    sizes = [len(patients.draw(0.1, secret.generator("patients", i))) for i in range(2000)]
    assert 0 in sizes
    assert np.mean(sizes) == pytest.approx(4.0, abs=0.25)
    assert np.var(sizes) == pytest.approx(40 * 0.1 * 0.9, rel=0.15)


def test_secret_is_drawn_once_and_only_its_owner_reads_it(tmp_path):
    one, again = Secret.open(tmp_path / "a"), Secret.open(tmp_path / "a")
    other = Secret.open(tmp_path / "b")
    assert one.key == again.key != other.key
    assert one.id == again.id != other.id
    assert one.key.hex() not in one.id
    assert (tmp_path / "a" / "noise.key").stat().st_mode & 0o777 == 0o600


def test_random_numbers_differ_by_secret_purpose_and_step():
    draws = {
        Secret(bytes([key]) * 32).generator(purpose, step).random()
        for key in (0, 1) for purpose in ("noise", "patients") for step in (0, 1)
    }  # fmt: skip
    assert len(draws) == 8


# A step -------------------------------------------------------------------------------------------


def data():
    random = np.random.default_rng(0)
    images = 2 * PATIENTS
    latents = random.standard_normal((2, images, *SHAPE), dtype=np.float32)
    conditions = torch.from_numpy(random.integers(0, TOKENS, (2, images, 1)))
    return latents, conditions, np.arange(images) // 2


def task(knobs: protocol.Diffusion, folder, **changes):
    from medsynth.training.loop import Player, Task

    latents, conditions, patients = data()
    player = Player(denoiser(), lambda *_: None, learning_rate(knobs.training))
    plain = Task(
        "diffusion",
        {"denoiser": player},
        lambda start, count: None,
        knobs.training.images,
        knobs.training.batch,
        0,
        ema=("denoiser", knobs.ema),
    )
    return make_private(
        plain,
        knobs,
        latents=latents,
        conditions=conditions,
        patients=patients,
        folder=folder,
        account=folder / "spent.json",
        device="cpu",
    )


def folder_with_key(path, key: str = KEY):
    (path / "secret").mkdir(parents=True)
    (path / "secret" / "noise.key").write_text(key)
    return path


def sums_of(step: Step, number: int = 0) -> list[torch.Tensor]:
    return step._clipped_sum(denoiser().train(), number)[0]


def test_sum_is_that_of_gradients_clipped_by_hand(tmp_path):
    step = task(settings(clip=0.05), folder_with_key(tmp_path)).step
    net, random = denoiser(), step.secret.generator("levels", BUSY)
    chosen = step.patients.draw(step.training.sample_rate, step.secret.generator("patients", BUSY))
    assert len(chosen) > 4  # more than a microbatch
    latents, conditions, _ = data()
    schedule, knobs = Schedule("cosine", 100), settings()
    expected = [torch.zeros_like(weight) for weight in net.parameters()]
    for start in range(0, len(chosen), 4):
        inputs = noised(latents, conditions, schedule, knobs, "cpu")(
            chosen[start : start + 4], random
        )
        losses = loss_at_levels(schedule, knobs)(net, inputs)
        for value in losses.mean(1):
            rows = torch.autograd.grad(value, list(net.parameters()), retain_graph=True)
            norm = torch.cat([row.flatten() for row in rows]).norm()
            for total, row in zip(expected, rows, strict=True):
                total += row * min(1.0, 0.05 / float(norm))
    for total, found in zip(expected, sums_of(step, BUSY), strict=True):
        torch.testing.assert_close(found, total, atol=1e-6, rtol=1e-4)


def test_one_patient_changes_the_sum_by_no_more_than_the_clip(tmp_path):
    step = task(settings(clip=0.05), folder_with_key(tmp_path)).step
    single = replace(step.training, sample_rate=1.0)
    step = replace(step, training=single, patients=Patients(np.zeros(24)))
    total = torch.cat([x.flatten() for x in sums_of(step)]).norm()
    assert float(total) == pytest.approx(0.05, rel=1e-4)


def test_step_without_a_patient_is_noise_alone_of_the_right_size(tmp_path):
    step = task(settings(clip=0.05), folder_with_key(tmp_path)).step
    step = replace(step, training=replace(step.training, sample_rate=1e-9, noise_multiplier=3.0))
    sums, logs = step._clipped_sum(denoiser().train(), 0)
    assert logs == {}
    assert all(not total.any() for total in sums)
    step._add_noise(sums, 0)
    values = torch.cat([total.flatten() for total in sums])
    assert float(values.std()) == pytest.approx(3.0 * 0.05, rel=0.02)
    assert abs(float(values.mean())) < 5 * 0.15 / len(values) ** 0.5


def test_microbatches_change_no_result_but_rounding(tmp_path):
    """Whoever is with whom in memory: times and noises are drawn in the patients' order."""
    one = task(settings(microbatch=1, noise_levels=1), folder_with_key(tmp_path / "a")).step
    latents, conditions, _ = data()
    found = []
    for size in (2, 12):
        step = replace(one, settings=one.settings.model_copy(update={"microbatch": size}))
        found.append(sums_of(replace(step, draw=fixed(latents, conditions)), 2))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def fixed(latents, conditions):
    """Inputs that hang on the image alone."""

    def draw(chosen, random):
        z = torch.from_numpy(latents[0, chosen])
        return z, conditions[0, chosen], torch.full((len(z),), 50), torch.ones_like(z)

    return draw


# A training ---------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands in for SIGKILL."""


def run(knobs, folder, die_at: int | None = None):
    from medsynth.training.loop import train

    def progress(what, share):
        if die_at is not None and share * 6 >= die_at:
            raise Killed

    return train(task(knobs, folder), folder, progress)["denoiser"]


def weights(module: nn.Module) -> str:
    return digest_bytes(b"".join(v.numpy().tobytes() for v in module.state_dict().values()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = folder_with_key(tmp_path_factory.mktemp("whole"))
    return folder, weights(run(settings(), folder))


@pytest.mark.parametrize(("die_at", "state_is_lost"), [(1, True), (4, False)])
def test_killed_and_started_again_weights_ledger_and_account_are_the_same(
    whole, tmp_path, die_at, state_is_lost
):
    folder, expected = whole
    broken = folder_with_key(tmp_path)
    with pytest.raises(Killed):
        run(settings(), broken, die_at)
    if state_is_lost:
        shutil.rmtree(broken / "state")
    assert weights(run(settings(), broken)) == expected
    for name in ("ledger.json", "spent.json"):
        assert (broken / name).read_bytes() == (folder / name).read_bytes()


def test_ledger_lists_what_was_spent_and_its_epsilon_can_be_had_again(whole):
    folder, _ = whole
    ledger = Ledger.read(folder / "ledger.json")
    (row,) = ledger.trainings
    assert (row.steps, row.sample_rate, ledger.patients) == (6, 4 / PATIENTS, PATIENTS)
    assert recompute(ledger) == ledger.epsilon <= ledger.budget == 8.0
    assert ledger.epsilon > 7.8
    assert Account(folder / "spent.json").trainings() == (row,)
    assert ledger.largest_error < 1e-6


def test_noise_can_not_be_had_from_the_protocol(whole, tmp_path):
    """The same protocol with another secret ends elsewhere."""
    other = folder_with_key(tmp_path, "8" * 64)
    assert weights(run(settings(), other)) != whole[1]


def test_training_again_takes_from_what_is_left(tmp_path):
    folder = folder_with_key(tmp_path)
    with pytest.raises(Killed):
        run(settings(), folder, 3)
    shutil.rmtree(folder / "secret")  # as a change of the protocol does
    with pytest.raises(StageError, match="the budget is spent"):
        task(settings(), folder)
    task(settings(epsilon=12.0), folder)
    ledger = Ledger.read(folder / "ledger.json")
    assert [row.steps for row in ledger.trainings] == [6, 6]
    assert 8.0 < ledger.epsilon <= 12.0


def test_trainings_that_keep_no_promise_are_refused_before_they_start():
    check_possible(settings(), patients=PATIENTS)
    with pytest.raises(StageError, match=r"delta 0\.1 is not below 1 / 12 .* 0\.008"):
        check_possible(settings(delta=0.1), patients=PATIENTS)
    with pytest.raises(StageError, match=r"batch 4 is the expected number .* are 3 training"):
        check_possible(settings(), patients=3)


def test_more_processes_than_one_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StageError, match="one process"):
        check_possible(settings(), patients=PATIENTS)
