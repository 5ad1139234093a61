from __future__ import annotations

import numpy as np
import pytest

from medsynth.validation.recognition import FOLDS, Eye, divide, learn, pair_ranks, small


def people(count: int, images: int, *, seed: int = 0, noise: float = 1.5) -> tuple:
    """Rows of patients who differ in 4 of 40 directions; images of one patient differ in all the
    others, much more so."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(count), images)
    rows = noise * rng.standard_normal((len(patients), 40))
    rows[:, :4] = rng.standard_normal((count, 4))[patients]
    rows[:, :4] += 0.1 * rng.standard_normal((len(patients), 4))
    return rows @ np.linalg.qr(rng.standard_normal((40, 40)))[0], patients


def test_a_likeness_learnt_from_some_people_knows_others():
    rows, patients = people(240, 3)
    known = patients < 200
    embed = learn(rows[known], patients[known])
    seen = embed(rows[~known])
    np.testing.assert_allclose(np.linalg.norm(seen, axis=1), 1)
    assert pair_ranks(seen, patients[~known]).mean() > 0.8
    plain = rows[~known] / np.linalg.norm(rows[~known], axis=1, keepdims=True)
    assert pair_ranks(plain, patients[~known]).mean() < 0.65


def test_somebody_with_many_images_weighs_no_more_than_another():
    rows, patients = people(60, 2)
    many = np.concatenate([np.arange(120), np.tile([0, 1], 40)])
    once = learn(np.concatenate([rows, rows + 0.0]), np.concatenate([patients, patients + 60]))
    often = learn(rows[many], patients[many])
    rng = np.random.default_rng(0)
    fresh = rng.standard_normal((30, 40))
    a, b = (eye(fresh) @ eye(fresh).T for eye in (once, often))
    # The principal directions see the repeats, the scatter does not: nearly the same likeness.
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9


def test_ranks_of_pairs_are_the_share_of_strangers_who_are_less_alike():
    rows, patients = people(6, 3, seed=2)
    rows = np.round(rows)  # with ties
    ranks = pair_ranks(rows, patients)
    pairs = [(i, j) for i in range(18) for j in range(i)]
    like = {pair: rows[pair[0]] @ rows[pair[1]] for pair in pairs}
    strange = [like[i, j] for i, j in pairs if patients[i] != patients[j]]
    for person in range(6):
        own = [like[i, j] for i, j in pairs if patients[i] == patients[j] == person]
        wins = [np.mean([(x > y) + 0.5 * (x == y) for y in strange]) for x in own]
        assert ranks[person] == pytest.approx(np.mean(wins))


def test_people_with_one_image_have_no_pairs():
    assert len(pair_ranks(np.eye(5), np.arange(5))) == 0


def test_every_fold_has_its_share_of_people_with_several_images():
    patients = np.concatenate([np.arange(40), np.arange(13)])
    folds = divide(patients, np.random.default_rng(0))
    assert np.ptp(np.bincount(folds, minlength=FOLDS)) <= 1
    assert np.ptp(np.bincount(folds[:13], minlength=FOLDS)) <= 1


@pytest.mark.parametrize("part", ["all", "half"])
def test_the_person_and_the_score_are_those_of_a_plain_search(part):
    rng = np.random.default_rng(1)
    gallery, patients = rng.standard_normal((30, 5)), rng.permutation(np.repeat(np.arange(10), 3))
    inside = np.ones(30, bool) if part == "all" else patients < 5
    queries = rng.standard_normal((2, 7, 5))
    found = Eye(lambda rows: rows, gallery, patients).find(queries, inside)
    for q in range(7):
        best = {
            person: max(
                float(way[q] @ gallery[i])
                for way in queries
                for i in np.flatnonzero(inside & (patients == person))
            )
            for person in np.unique(patients[inside])
        }
        first, who = max((value, who) for who, value in best.items())
        second = max(value for other, value in best.items() if other != who)
        assert found.patient[q] == who
        assert found.score[q] == pytest.approx((1 - first + 1e-3) / (1 - second + 1e-3))


def test_an_image_is_not_compared_with_itself():
    rng = np.random.default_rng(1)
    gallery = rng.standard_normal((20, 5))
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    eye = Eye(lambda rows: rows, gallery, np.arange(20))
    own, everyone = np.arange(20), np.ones(20, bool)
    np.testing.assert_array_equal(eye.find(gallery[None], everyone).patient, own)
    assert (eye.find(gallery[None], everyone, but=own).patient != own).all()


def test_brightness_and_contrast_say_nothing_of_a_person():
    images = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 1, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(small(images * 1.7 + 0.1), small(images), atol=1e-4)
    assert small(images).shape == (3, 256)
