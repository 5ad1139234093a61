"""What a card says of how the images were drawn."""

import pytest
from tiny import study

from medsynth.release.cards import study_rows

WAYS = [
    ({}, "DDIM, 4 steps, guidance 1, eta 0"),
    ({"sampler": "ddim", "eta": 0.5}, "DDIM, 4 steps, guidance 1, eta 0.5"),
    ({"sampler": "unipc", "steps": 1}, "UniPC, 1 step, guidance 1"),
    ({"sampler": "dpm", "spacing": "even"}, "DPM-Solver++(2M), 4 steps even in time, guidance 1"),
    (
        {"guidance": 2.0, "guidance_interval": [0.5, 3.0]},
        "DDIM, 4 steps, guidance 2 between noise levels 0.5 and 3, eta 0",
    ),
]


@pytest.mark.parametrize(("knobs", "said"), WAYS)
def test_card_says_how_images_were_drawn(knobs, said):
    changed = study(**{f"sample.{name}": value for name, value in knobs.items()})
    assert said in dict(study_rows(changed)).values()


LEARNED = [
    ({}, "predicts v, trained on 256 images (repeats counted)"),
    ({"objective": "eps", "patience": 3}, "predicts noise, trained on up to 256 images"),
    ({"objective": "flow"}, "predicts the velocity of rectified flow, trained on 256 images"),
    ({"told": {"share": 0.4}}, "(repeats counted), 40% of them changed, of which it is told"),
]


@pytest.mark.parametrize(("knobs", "said"), LEARNED)
def test_card_says_how_the_denoiser_learned(knobs, said):
    changed = study(**{f"diffusion.{name}": value for name, value in knobs.items()})
    assert said in dict(study_rows(changed))["Diffusion"]


def test_card_says_that_a_base_was_trained_by_others():
    pinned = {"weights": "sd", "sha256": "ab" * 32}
    changed = study(
        **{"autoencoder.source": "public"},
        **{f"autoencoder.{name}": value for name, value in pinned.items()},
        **{"diffusion.base": {**pinned, "prompt": "a chest, {finding}"}},
    )
    said = dict(study_rows(changed))["Diffusion"]
    assert said.startswith("predicts v, a text-conditioned network of others (sha256 abababababab)")
    assert 'told "a chest, {finding}"' in said
