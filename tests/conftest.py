"""What all tests share: Hypothesis draws the same examples each time, without a clock; and whole
runs of a tiny study, for the modules that make a `finished` one.
"""

import shutil

import pytest
from hypothesis import Phase, settings
from tiny import write_raw

from medsynth import pipeline

# Shrinking a failure may take minutes; the failing example alone says enough.
settings.register_profile(
    "medsynth", derandomize=True, deadline=None, database=None,
    phases=(Phase.explicit, Phase.generate),
)  # fmt: skip
settings.load_profile("medsynth")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A folder of phantom chests, as a hospital would hand them over."""
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture
def run(finished, tmp_path) -> pipeline.Run:
    """A copy of the module's `finished` run, to be tampered with."""
    shutil.copytree(finished, tmp_path / "run")
    return pipeline.open_run(tmp_path / "run")
