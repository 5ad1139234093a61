from __future__ import annotations

import numpy as np

from medsynth.validation.difficulty import expect, octaves, traits


def test_each_octave_sees_detail_of_its_own_size():
    """Chequers of 1, 2 and 4 px, each of energy 1."""
    places = np.arange(32)
    images = np.stack(
        [
            np.where((places[:, None] // size + places // size) % 2, 1.0, -1.0)[None]
            for size in (1, 2, 4)
        ]
    ).astype(np.float32)
    found = octaves(images)
    assert found.shape == (3, 3)
    assert found.argmax(1).tolist() == [0, 1, 2]
    assert np.allclose(found.max(1), 0, atol=1e-5)
    assert traits(images).shape == (3, 5)


def test_what_follows_from_an_image_s_looks_is_expected_and_taken_off():
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((600, 4))
    patients = np.repeat(np.arange(200), 3)
    own = rng.standard_normal(600)
    values = 5 * looks[:, 0] - looks[:, 1] ** 2 + own
    rest = values - expect(values, looks, patients, seed=0)
    assert np.corrcoef(rest, own)[0, 1] > 0.98


def test_a_patient_s_own_values_have_no_part_in_what_is_expected_but_by_everybody_s_mean():
    rng = np.random.default_rng(0)
    looks, patients = rng.standard_normal((90, 2)), np.repeat(np.arange(30), 3)
    values = rng.standard_normal(90)
    before = expect(values, looks, patients, seed=0)
    values[:3] += 900.0
    after = expect(values, looks, patients, seed=0)
    assert np.allclose((after - before)[:3], 3 * 900 / 90, atol=2.5)
    assert np.ptp(after[3:] - before[3:]) > 10  # others' slopes do hang on them
