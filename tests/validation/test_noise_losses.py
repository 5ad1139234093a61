from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import study

from medsynth.cohort import Cohort, Record, to_pixels
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.models.diffusion import Schedule
from medsynth.training.diffusion import denoising_loss
from medsynth.validation.losses import Model, latent_losses, losses, open_model
from medsynth.vocabulary import Vocabulary

TIMES = (20, 300, 800)


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    settings = study()
    words = Vocabulary.from_labels([{"finding": "a"}, {"finding": "b"}])
    autoencoder = Autoencoder.build(settings.autoencoder, channels=1).eval()
    denoiser = Denoiser.build(
        settings.diffusion, latent_channels=4, latent_px=8, tokens=words.size
    ).eval()
    return denoiser, autoencoder, words, settings.diffusion


@pytest.fixture(scope="module")
def model(networks):
    return open_model(*networks, device="cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, (5, 1, 32, 32)).astype(np.float32)


def labelled(count: int) -> list[dict[str, str]]:
    return [{"finding": "ab"[i % 2]} for i in range(count)]


def test_one_that_knows_the_noise_has_no_loss_and_one_that_guesses_none_has_a_loss_of_one():
    """Clean latents of zero: x_t is the noise itself, scaled."""
    abar = np.linspace(0.99, 0.01, 1000)

    def knows(x_t, time, labels):
        return x_t / np.sqrt(1 - abar[time]).astype(np.float32)

    latents = np.zeros((3, 4, 32, 32), np.float32)
    seen = latent_losses(Model(np.copy, knows, abar), latents, labelled(3), times=TIMES, seed=0)
    blind = latent_losses(
        Model(np.copy, lambda x, t, _: 0 * x, abar), latents, labelled(3), times=TIMES, seed=0
    )
    assert np.allclose(seen, 0, atol=1e-9)
    assert np.allclose(blind, 1, atol=4 * np.sqrt(2 / 4096))


@pytest.mark.parametrize("objective", ["v", "eps"])
def test_the_loss_is_the_one_that_was_trained_on_up_to_its_weight(networks, images, objective):
    denoiser, autoencoder, words, settings = networks
    settings = settings.model_copy(
        update={"objective": objective, "min_snr_gamma": None, "loss": "l2"}
    )
    model = open_model(denoiser, autoencoder, words, settings, device="cpu")
    schedule = Schedule(settings.schedule, settings.timesteps)
    found = losses(model, images, labelled(5), times=[300], seed=4)[:, 0]
    eps = np.random.default_rng(4).standard_normal((4, 8, 8), np.float32)
    with torch.inference_mode():
        z = autoencoder.encode(torch.from_numpy(images))
        condition = torch.tensor([words.encode(row) for row in labelled(5)])
        trained = denoising_loss(
            denoiser, z, condition, torch.full((5,), 300),
            torch.from_numpy(eps).expand_as(z), schedule, settings,
        ).numpy()  # fmt: skip
    # an error in v is one in eps over sqrt(abar)
    scale = schedule.abar[300] if objective == "v" else 1.0
    assert np.allclose(found, trained * scale, rtol=1e-4)


def test_an_image_s_losses_depend_on_nothing_but_itself_and_the_seed(model, images):
    whole = losses(model, images, labelled(5), times=TIMES, seed=7)
    alone = losses(model, images[3:4], labelled(5)[3:4], times=TIMES, seed=7)
    assert whole.shape == (5, 3)
    assert np.allclose(whole[3], alone[0], rtol=1e-4)
    assert not np.allclose(whole, losses(model, images, labelled(5), times=TIMES, seed=8))


def test_a_cohort_is_read_as_its_images_are(model, images):
    cohort = Cohort(
        "chest_xray",
        tuple(Record(f"i{i}", "real") for i in range(5)),
        to_pixels(images, bits=16),
    )
    found = losses(model, cohort, labelled(5), times=TIMES, seed=7)
    assert np.allclose(found, losses(model, images, labelled(5), times=TIMES, seed=7), rtol=1e-2)


def test_labels_that_the_model_never_saw_are_as_no_labels(model, images):
    known = losses(model, images, labelled(5), times=TIMES, seed=7)
    strange = [{"finding": "c", "view": "AP"}] * 5
    unknown = losses(model, images, strange, times=TIMES, seed=7)
    assert np.array_equal(unknown, losses(model, images, [{}] * 5, times=TIMES, seed=7))
    assert not np.allclose(known, unknown, rtol=1e-6)
