from __future__ import annotations

import numpy as np
import pytest

from medsynth.validation import manifold

MEASURES = (manifold.precision, manifold.recall, manifold.density, manifold.coverage)


def by_loops(synthetic, real, k):
    """The definitions, word for word."""

    def ball(points, i):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    real_balls = [ball(real, i) for i in range(len(real))]
    made_balls = [ball(synthetic, i) for i in range(len(synthetic))]
    apart = np.linalg.norm(synthetic[:, None] - real[None], axis=2)
    inside = apart <= np.array(real_balls)
    back = np.array(made_balls) >= apart.T
    return inside.any(1), back.any(1), inside.sum(1) / k, inside.any(0)


def test_all_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    synthetic, real = rng.standard_normal((25, 3)), rng.standard_normal((30, 3)) + 0.5
    for measure, wanted in zip(MEASURES, by_loops(synthetic, real, 3), strict=True):
        np.testing.assert_allclose(measure(synthetic, real, 3), wanted)


@pytest.mark.parametrize("measure", MEASURES)
def test_a_far_cloud_scores_nothing(measure):
    rng = np.random.default_rng(1)
    assert measure(rng.standard_normal((40, 4)) + 100, rng.standard_normal((40, 4))).mean() == 0


@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_images_score_everything(measure):
    real = np.random.default_rng(2).standard_normal((40, 4))
    assert measure(real[::-1], real).mean() >= 1


def test_a_generator_of_one_mode_keeps_precision_and_loses_recall_and_coverage():
    rng = np.random.default_rng(3)
    real = rng.standard_normal((200, 2)) + 10 * (np.arange(200) % 2)[:, None]
    one_mode = rng.standard_normal((200, 2))
    assert manifold.precision(one_mode, real).mean() > 0.85
    assert manifold.recall(one_mode, real).mean() < 0.6
    assert manifold.coverage(one_mode, real).mean() < 0.6


def test_far_from_the_origin_distances_keep_their_digits():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 50, 3))
    np.testing.assert_array_equal(manifold.coverage(a, b), manifold.coverage(a + 1e6, b + 1e6))
