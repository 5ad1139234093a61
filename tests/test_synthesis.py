from collections import Counter

import numpy as np
import pytest
import torch

from medsynth import protocol, synthesis
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.vocabulary import Vocabulary

LABELS = [{"finding": "normal"}, {"finding": "opacity"}]
TRAINING = protocol.Optimiser(images=8, batch=8, learning_rate=1e-3)
DIFFUSION = protocol.Diffusion(
    widths=(16, 32), attention=(False, True), layers=1, groups=8, training=TRAINING
)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    settings = protocol.Autoencoder(fold_px=4, widths=(16,), latent_channels=4, training=TRAINING)
    denoiser = Denoiser.build(DIFFUSION, latent_channels=4, latent_px=8, tokens=3)
    return denoiser.eval(), Autoencoder.build(settings, channels=1).eval()


def draw(models, conditions, seeds, **knobs) -> np.ndarray:
    settings = protocol.Sample(**{"steps": 5, "batch": 4, **knobs})
    return synthesis.sample(
        *models,
        Vocabulary.from_labels(LABELS),
        conditions,
        settings=settings,
        diffusion=DIFFUSION,
        seeds=seeds,
        device="cpu",
    )


WAYS = {
    "ddim": {},
    "noisy": {"eta": 1.0, "sampler": "ddim"},
    "dpm": {"sampler": "dpm", "spacing": "even"},
    "unipc": {"sampler": "unipc"},
    "interval": {"sampler": "unipc", "guidance": 2.0, "guidance_interval": (0.5, 3.0)},
}


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("way", WAYS)
def test_image_depends_on_its_seed_and_condition_alone(models, way, guidance):
    knobs = {"guidance": guidance, **WAYS[way]}
    conditions, seeds = [LABELS[i % 2] for i in range(6)], [11, 12, 13, 14, 15, 16]
    together = draw(models, conditions, seeds, **knobs)
    order = [4, 0, 5, 2]
    apart = draw(
        models,
        [conditions[i] for i in order],
        [seeds[i] for i in order],
        **{"batch": 3, **knobs},
    )
    np.testing.assert_allclose(apart, together[order], atol=1e-4)
    assert abs(together[0] - together[2]).max() > 0.01


@pytest.mark.parametrize("way", WAYS)
def test_image_is_the_same_to_the_bit_whoever_fills_its_batch(models, way):
    conditions, seeds = [LABELS[i % 2] for i in range(6)], [11, 12, 13, 14, 15, 16]
    together = draw(models, conditions, seeds, **WAYS[way])
    alone = draw(models, conditions[4:5], seeds[4:5], **WAYS[way])
    np.testing.assert_array_equal(alone[0], together[4])


def test_guidance_in_an_interval_is_neither_guidance_everywhere_nor_none(models):
    plain, everywhere, within = (
        draw(models, LABELS, [7, 8], sampler="unipc", **knobs)
        for knobs in ({}, {"guidance": 3.0}, {"guidance": 3.0, "guidance_interval": (0.5, 3.0)})
    )
    assert abs(within - plain).max() > 1e-4
    assert abs(within - everywhere).max() > 1e-4


def test_another_condition_is_another_image(models):
    one, other = draw(models, LABELS, [7, 7])
    assert abs(one - other).max() > 1e-4


def choose(real, count, seed=0, labels=None):
    settings = protocol.Sample(images=count, labels=labels)
    return synthesis.choose_conditions(real, settings, seed)


def test_labels_follow_the_joint_counts_of_the_real_cohort():
    real = [{"a": "x", "b": "1"}] * 60 + [{"a": "x", "b": "2"}] * 30 + [{"a": "y"}] * 10
    made = Counter(tuple(sorted(row.items())) for row in choose(real, 50))
    assert made == {(("a", "x"), ("b", "1")): 30, (("a", "x"), ("b", "2")): 15, (("a", "y"),): 5}


def test_wished_shares_are_followed():
    real = [{"a": "x", "b": "1"}] * 30 + [{"a": "y", "b": "2"}] * 10
    made = choose(real, 100, labels={"a": {"x": 1.0, "y": 3.0}})
    assert Counter(row["a"] for row in made) == {"x": 25, "y": 75}
    assert Counter(row["b"] for row in made) == {"1": 75, "2": 25}


def test_real_images_count_for_their_weight():
    real = [{"a": "x", "b": "1"}] * 4 + [{"a": "y", "b": "2"}] * 3
    settings, weights = protocol.Sample(images=40), [0.25] * 4 + [1.0] * 3
    made = synthesis.choose_conditions(real, settings, 0, weights=weights)
    assert Counter(row["a"] for row in made) == {"x": 10, "y": 30}
    wished = settings.model_copy(update={"labels": {"a": {"x": 1.0}}})
    made = synthesis.choose_conditions(real, wished, 0, weights=weights)
    assert Counter(row["b"] for row in made) == {"1": 10, "2": 30}


@pytest.mark.parametrize("count", [1, 7, 100])
def test_shares_that_do_not_divide_still_give_as_many_as_asked(count):
    real = [{"a": "x"}] * 3 + [{"a": "y"}] * 3 + [{"a": "z"}]
    assert len(choose(real, count)) == count


def test_cohort_without_labels_has_empty_conditions():
    assert choose([{}] * 5, 3) == [{}, {}, {}]


class Killed(Exception):
    """Stands in for SIGKILL."""


def test_killed_sampling_goes_on_to_the_same_cohort(tmp_path):
    conditions = [{"finding": "normal"}] * 10
    drawn = []

    def picture(numbers, wanted, seeds):
        drawn.append(list(numbers))
        return np.stack([np.full((1, 8, 8), (seed % 200) / 100 - 1) for seed in seeds])

    def dies(what, share):
        if share >= 0.5:
            raise Killed

    options = {"bits": 8, "batch": 3, "seed": 5, "folder": tmp_path}
    with pytest.raises(Killed):
        synthesis.sample_cohort(picture, conditions, **options, progress=dies)
    synthesis.sample_cohort(picture, conditions, **options)
    assert drawn == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    made = synthesis.join_blocks(conditions, domain="chest_xray", seed=5, folder=tmp_path)
    assert [record.seed for record in made.records] == [
        synthesis.image_seed(5, i) for i in range(10)
    ]
    assert {record.origin for record in made.records} == {"synthetic"}
    assert made.pixels.shape == (10, 8, 8, 1)
