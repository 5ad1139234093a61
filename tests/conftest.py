"""What all tests share: Hypothesis draws the same examples each time, without a clock."""

from hypothesis import Phase, settings

# Shrinking a failure may take minutes; the failing example alone says enough.
settings.register_profile(
    "medsynth", derandomize=True, deadline=None, database=None,
    phases=(Phase.explicit, Phase.generate),
)  # fmt: skip
settings.load_profile("medsynth")
