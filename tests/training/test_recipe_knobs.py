"""Which knobs of a recipe go together, and that one that is null asks for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import study

from medsynth.errors import ProtocolError
from medsynth.pipeline.run import PLANS, Run

ADDED = {
    "autoencoder": ("ssim_scales", "gradient_weight", "frequency_weight", "energy_weight"),
    "diffusion": ("zero_terminal_snr", "times", "averages", "patience", "told"),
}
STEP = ("microbatch", "checkpointing", "channels_last", "compile")
PRIVATE = {"diffusion.private": {"epsilon": 8.0, "delta": 1e-6}, "sample.labels": {}}


def refusal(**changes) -> str:
    with pytest.raises(ProtocolError) as caught:
        study(**changes)
    return str(caught.value)


@pytest.mark.parametrize("knobs", [{"zero_terminal_snr": True}, {"schedule": "flow"}])
def test_noise_is_not_predicted_where_there_is_nothing_but_noise(knobs):
    changes = {f"diffusion.{name}": value for name, value in knobs.items()}
    assert "says nothing" in refusal(**{"diffusion.objective": "eps"}, **changes)
    for objective in ("v", "flow"):
        study(**{"diffusion.objective": objective}, **changes)


@pytest.mark.parametrize("stage", ADDED)
def test_null_knobs_are_no_part_of_what_a_stage_depends_on(stage):
    tiny = study()
    assert stage in PLANS[stage].sections
    assert set(ADDED[stage]) < set(tiny.section(stage))
    assert not set(ADDED[stage]) & set(Run(Path(), tiny).settings(stage)[stage])


@pytest.mark.parametrize("stage", ["lens", "autoencoder", "diffusion"])
def test_null_knobs_of_a_step_are_no_part_of_what_a_stage_depends_on(stage):
    tiny = study()
    assert set(STEP) < set(tiny.section(stage)["training"])
    assert not set(STEP) & set(Run(Path(), tiny).settings(stage)[stage]["training"])


@pytest.mark.parametrize("knob", ["microbatch", "checkpointing"])
def test_the_lens_sees_whole_batches(knob):
    asked = {f"lens.training.{knob}": True if knob == "checkpointing" else 8}
    assert "compares all images of a batch" in refusal(**asked)


@pytest.mark.parametrize(
    "asked",
    [{"diffusion.patience": 3}, {"diffusion.averages": {}}]
    + [{"diffusion.told": {}}]
    + [{f"diffusion.training.{knob}": 8 if knob == "microbatch" else True} for knob in STEP],
    ids=str,
)
def test_a_budget_is_not_kept_by_what_it_does_not_cover(asked):
    study(**PRIVATE)
    study(**asked)
    assert "private" in refusal(**PRIVATE, **asked)


def test_a_length_that_a_person_wrote_looks_at_nobody():
    study(**PRIVATE, **{"diffusion.averages": {"length": 0.1}})


@pytest.mark.parametrize(
    "other", [{"diffusion.choose": {}}, {"diffusion.patience": 2}, {"diffusion.ema": 0.0}], ids=str
)
def test_weights_are_averaged_at_the_end_of_a_whole_training(other):
    study(**other)
    assert "averages takes" in refusal(**{"diffusion.averages": {}}, **other)
