"""A study with masks that is small enough for a test: chests whose lungs and hearts are known."""

from __future__ import annotations

from pathlib import Path

from tiny import study

from medsynth import pipeline, protocol
from medsynth.data import phantoms

MASKS = {
    "classes": {1: "lung", 2: "heart"},
    "diffusion": {
        "widths": [16, 32], "attention": [False, False], "layers": 1, "groups": 8, "ema": 0.9,
        "training": {"images": 128, "batch": 16, "learning_rate": 2e-3},
    },
}  # fmt: skip
KNOBS = {
    "masks": MASKS,
    "control": {
        "kinds": ["mask"], "images": 4,
        "training": {"images": 48, "batch": 8, "learning_rate": 1e-3},
    },
    "gate.rules": [
        {"finding": "memorization.p_value", "at_least": 0.0},
        {"finding": "masks.p_value", "at_least": 0.0},
    ],
}  # fmt: skip
"""What makes it a study with masks, whose rules let everything pass: study(**KNOBS)."""


def study_of_pairs(**changes) -> protocol.Protocol:
    return study(**KNOBS | changes)


def write_pairs(folder: Path) -> pipeline.Masks:
    """Write phantom chests and their masks."""
    raw, masks = folder / "raw", folder / "masks"
    phantoms.write_folder(raw, domain="chest_xray", patients=40, seed=1, size_px=32, masks=masks)
    return pipeline.Masks(masks, raw)
