"""Attacks on a model that learned its images by heart on purpose, and on one that learned none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_truth import cohort, make_case
from made_attack import numbered
from scipy import stats
from tiny import study

from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser, encode_conditions
from medsynth.models.diffusion import Schedule
from medsynth.training.diffusion import denoising_loss
from medsynth.validation.losses import Model, open_model
from medsynth.validation.weights import LEVELS, choose, measure, proximal_errors, times_of
from medsynth.vocabulary import Vocabulary

ATTACKS = ("loss", "score", "pia", "calibrated")
SETTINGS = study(**{"diffusion.attention": [False, False]}).diffusion
WORDS = Vocabulary((), ())


@pytest.fixture(scope="module")
def sides():
    return cohort(range(20), name="chest_xray"), cohort(range(100, 160), name="chest_xray")


@pytest.fixture(scope="module")
def autoencoder(sides):
    """A linear code, of images that are nobody's here: it gives nothing away."""
    built = Autoencoder.build(study().autoencoder, channels=1)
    built.start_from(torch.from_numpy(cohort(range(200, 240), name="chest_xray").floats()))
    return built.eval()


def denoiser() -> Denoiser:
    torch.manual_seed(0)
    return Denoiser.build(SETTINGS, latent_channels=4, latent_px=8, tokens=WORDS.size)


def over_train(net: Denoiser, z: torch.Tensor, *, steps: int) -> None:
    schedule = Schedule(SETTINGS.schedule, SETTINGS.timesteps)
    words = encode_conditions(WORDS, [{}] * 16)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    draws = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(z), (16,), generator=draws)
        t = torch.randint(schedule.timesteps, (16,), generator=draws)
        eps = torch.randn(z[rows].shape, generator=draws)
        loss = denoising_loss(net, z[rows], words, t, eps, schedule, SETTINGS).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measured(folder, sides, autoencoder, net, **changes):
    model = open_model(net.eval(), autoencoder, WORDS, SETTINGS, device="cpu")
    case = make_case(folder, *sides, sides[0], model=model, **changes)
    return {finding.name: finding for finding in measure(case)}


@pytest.fixture(scope="module")
def fresh(sides, autoencoder, tmp_path_factory):
    return measured(tmp_path_factory.mktemp("fresh"), sides, autoencoder, denoiser())


@pytest.fixture(scope="module")
def learned_by_heart(sides, autoencoder, tmp_path_factory):
    net = denoiser()
    with torch.inference_mode():
        z = autoencoder.encode(torch.from_numpy(sides[0].floats()))
    over_train(net, z.clone(), steps=250)
    return measured(tmp_path_factory.mktemp("over"), sides, autoencoder, net)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_works_on_a_model_that_was_over_trained(learned_by_heart, attack):
    found = learned_by_heart[f"membership.{attack}.auc"]
    assert found.low > 0.6
    assert found.low > found.reference


def test_what_is_expected_of_an_image_sharpens_the_attack(learned_by_heart):
    assert learned_by_heart["membership.calibrated.auc"].value > 0.9


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_finds_anybody_in_a_model_that_learned_nothing(fresh, attack):
    found = fresh[f"membership.{attack}.auc"]
    assert found.low < 0.5 < found.high


def test_the_test_tells_the_two_models_apart(fresh, learned_by_heart):
    assert learned_by_heart["membership.model.p_value"].value <= 0.005
    assert fresh["membership.model.p_value"].value > 0.05


def blind() -> Model:
    """It never sees any noise."""
    return Model(np.copy, lambda x_t, time, labels: 0 * x_t, np.linspace(0.99, 0.01, 100))


def test_without_a_model_or_where_none_is_to_be_asked_nothing_is_said(tmp_path, sides):
    assert list(measure(make_case(tmp_path, *sides, sides[0]))) == []
    settings = make_case(tmp_path, *sides, sides[0]).settings
    off = settings.model_copy(update={"white_box_images": 0})
    assert list(measure(make_case(tmp_path, *sides, sides[0], model=blind(), settings=off))) == []


def test_a_model_that_sees_no_noise_at_all_is_a_guess(tmp_path, sides):
    found = {f.name: f for f in measure(make_case(tmp_path, *sides, sides[0], model=blind()))}
    assert found["membership.score.auc"].value == 0.5


def test_a_model_that_never_saw_them_accuses_patients_at_the_nominal_rate(tmp_path):
    """A hundred and fifty models that differ in their weights, and who is held out."""
    rng = np.random.default_rng(0)
    small = 0
    for trial in range(150):
        weights = rng.standard_normal((64, 64)).astype(np.float32) / 8

        def predict(x_t, time, labels, weights=weights):
            return np.tanh(x_t.reshape(len(x_t), -1) @ weights).reshape(x_t.shape)

        everyone = numbered(50)
        pixels = rng.integers(0, 65536, everyone.pixels.shape).astype(np.uint16)
        everyone = type(everyone)(everyone.domain, everyone.records, pixels)
        train, holdout = everyone.take(range(30)), everyone.take(range(30, 50))
        model = Model(np.copy, predict, np.linspace(0.99, 0.01, 100))
        case = make_case(tmp_path, train, holdout, train, model=model, seed=trial)
        found = {finding.name: finding.value for finding in measure(case)}
        small += found["membership.model.p_value"] <= 0.05
    assert stats.binomtest(small, 150, 0.05, alternative="greater").pvalue > 0.001


def test_as_many_images_of_a_patient_are_looked_at_on_either_side():
    rng = np.random.default_rng(0)
    train = np.repeat(np.arange(5), [1, 1, 9, 20, 2])
    holdout = np.repeat(np.arange(40), 2)
    for cap in (4, 60, 85, 200):
        chosen = choose(train, holdout, cap, rng)
        assert all(len(side) <= cap for side in chosen)
        counts = [
            np.bincount(side[rows], minlength=side.max() + 1)
            for side, rows in zip((train, holdout), chosen, strict=True)
        ]
        if cap == 200:
            assert [len(side) for side in chosen] == [33, 80]
        if cap == 60:  # two of each held-out patient would be 80
            assert [count.max() for count in counts] == [1, 1]
        if cap == 85:  # of 20 images all, and of a held-out patient both
            assert counts[0].tolist() == [1, 1, 9, 20, 2]


def test_proximal_errors_are_those_of_the_paper_on_a_model_known_in_closed_form():
    """eps(x, t) = c x: the noise seen on x_0 is c x_0, and on what bears it c (s + n c) x_0."""
    abar, c = np.linspace(0.98, 0.02, 100), 0.3
    model = Model(np.copy, lambda x_t, time, labels: (c * x_t).astype(np.float32), abar)
    z = np.random.default_rng(0).standard_normal((6, 2, 4, 4)).astype(np.float32)
    seen, kept = proximal_errors(model, z, [{}] * 6, times=[10, 60])
    size = (z**4).reshape(6, -1).mean(1) ** 0.25
    assert np.allclose(seen, c * size, rtol=1e-5)
    for column, time in enumerate((10, 60)):
        factor = np.sqrt(abar[time]) + np.sqrt(1 - abar[time]) * c - 1
        assert np.allclose(kept[:, column], c * abs(factor) * size, rtol=1e-4)


def test_times_are_those_of_the_noise_shares_of_either_schedule():
    for kind in ("scaled_linear", "cosine"):
        abar = Schedule(kind, 1000).abar
        model = Model(np.copy, lambda x_t, time, labels: x_t, abar)
        shares = 1 - abar[times_of(model, LEVELS)]
        assert np.allclose(shares, LEVELS, atol=0.005)
