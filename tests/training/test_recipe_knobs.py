"""Which knobs of a recipe go together, and that one that is null asks for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import study

from medsynth.errors import ProtocolError
from medsynth.pipeline.run import PLANS, Run

ADDED = {
    "autoencoder": ("ssim_scales", "gradient_weight", "frequency_weight", "energy_weight"),
    "diffusion": ("zero_terminal_snr", "times"),
}


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
