"""The samplers' benchmark draws every way from the same noise, goes on, and names the knee."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import study

from medsynth import pipeline

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import samplers

SHORT = {f"{name}.training.images": 64 for name in ("lens", "autoencoder", "diffusion")}


def rows(frechet: float, sharpness: float, rate: float) -> list[dict[str, float]]:
    """Two seeds around these means."""
    return [
        dict.fromkeys(samplers.COLUMNS, 0.5)
        | {"frechet": frechet * by, "sharpness": sharpness * by, "rate": rate}
        for by in (0.9, 1.1)
    ]


FOUND = {
    samplers.LIMIT: rows(1.0, 0.80, 1.0),
    ("unipc", 20): rows(1.02, 0.79, 5.0),
    ("unipc", 12): rows(1.03, 0.70, 8.0),  # too soft
    ("dpm", 20): rows(1.08, 0.79, 6.0),  # too far
}


def test_knee_is_the_fastest_way_that_is_neither_far_nor_soft():
    assert samplers.knee(FOUND) == ("unipc", 20)
    assert samplers.knee({samplers.LIMIT: FOUND[samplers.LIMIT]}) == samplers.LIMIT


def test_table_has_means_and_intervals_over_seeds_and_the_floor():
    lines = samplers.table(FOUND, {"frechet": 0.25}).splitlines()
    assert len(lines) == 2 + len(FOUND) + 1
    # Student's t with one degree of freedom: 12.706 x 0.1414 / sqrt(2)
    assert "| unipc | 100 | 1 ± 1.3 |" in lines[2]
    assert lines[-1].startswith("| real against real | | 0.25 | - |")


@pytest.fixture(scope="module")
def models(raw, tmp_path_factory):
    run = pipeline.start(study(**SHORT), tmp_path_factory.mktemp("samplers"))
    pipeline.ingest(run, raw)
    pipeline.split(run)
    pipeline.fit(run)
    return samplers.Models.open(run, 12)


def test_every_way_starts_from_the_same_noise_and_ends_near_the_limit(models):
    limit, again, near, few = (
        models.draw(way, steps, 1, images=2)
        for way, steps in (("unipc", 20), ("unipc", 20), ("ddim", 60), ("ddim", 3))
    )
    np.testing.assert_array_equal(limit, again)
    assert abs(near - limit).mean() < abs(few - limit).mean() / 5


def test_measurement_is_kept_and_the_limit_is_off_by_nothing(models, tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "LIMIT", ("unipc", 6))
    first = samplers.measure(models, "unipc", 6, 1, tmp_path)
    assert first["off"] == 0
    assert samplers.measure(models, "medfusion", 4, 1, tmp_path)["off"] > 0
    monkeypatch.setattr(samplers, "score", None)
    assert samplers.measure(models, "unipc", 6, 1, tmp_path) == first
    assert len(list(tmp_path.glob("*.png"))) == 2
