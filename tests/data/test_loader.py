"""Batches: which image comes when follows from seed and count; linked images count once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames, Order, draw
from medsynth.runtime import derive_seed


def frames(links, chosen=None) -> Frames:
    records = tuple(Record(f"r{i}", "real", link=link) for i, link in enumerate(links))
    pixels = np.arange(len(links), dtype=np.uint8)[:, None, None, None] * np.ones((4, 4, 1), "u1")
    return Frames(
        Cohort("chest_xray", records, pixels), np.arange(len(links)) if chosen is None else chosen
    )


def test_each_pass_takes_every_image_once():
    drawn = draw(7, start=0, count=21, seed=5)
    assert all(sorted(drawn[i : i + 7]) == list(range(7)) for i in (0, 7, 14))
    assert not np.array_equal(drawn[:7], drawn[7:14])


def test_draws_without_links_are_those_of_a_plain_permutation_a_pass():
    """Spelt out anew, so that results of studies without duplicates never move."""
    expected = np.concatenate(
        [np.random.default_rng(derive_seed(5, "pass", n)).permutation(9) for n in range(3)]
    )
    np.testing.assert_array_equal(draw(9, start=0, count=27, seed=5), expected)
    alone = frames([-1] * 9).groups
    np.testing.assert_array_equal(draw(9, start=0, count=27, seed=5, groups=alone), expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.integers(0, 99))
def test_each_pass_takes_one_image_of_every_group(links, seed):
    groups = frames(links).groups
    places = groups.max() + 1
    drawn = draw(len(links), start=0, count=3 * places, seed=seed, groups=groups)
    for i in range(3):
        taken = groups[drawn[i * places : (i + 1) * places]]
        assert sorted(taken) == list(range(places))


def test_all_images_of_a_group_get_their_turn_alike():
    groups = frames([0, -1, 0, 0, -1]).groups
    drawn = draw(5, start=0, count=3 * 3000, seed=1, groups=groups)
    counts = np.bincount(drawn, minlength=5)
    assert counts[[1, 4]].tolist() == [3000, 3000]
    # 1000 each, of 3000 draws: six standard deviations are 155
    assert np.abs(counts[[0, 2, 3]] - 1000).max() < 155


@pytest.mark.parametrize("groups", [None, np.array([0, 1, 1, 2, 0, 3, 4])])
@pytest.mark.parametrize("size", [1, 3, 4, 30])
def test_draws_do_not_depend_on_where_training_was_interrupted(groups, size):
    whole = draw(7, start=0, count=60, seed=5, groups=groups)
    pieces = [
        draw(7, start=s, count=min(size, 60 - s), seed=5, groups=groups) for s in range(0, 60, size)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_pass_is_shuffled_once_however_many_steps_it_has(monkeypatch):
    shuffled = []
    usual = Order._one_pass

    def counted(order, number):
        shuffled.append(number)
        return usual(order, number)

    monkeypatch.setattr(Order, "_one_pass", counted)
    order = Order(7, seed=5)
    pieces = [order.draw(start, 3) for start in range(0, 21, 3)]
    assert shuffled == [0, 1, 2]
    np.testing.assert_array_equal(np.concatenate(pieces), draw(7, start=0, count=21, seed=5))


def test_groups_are_those_of_the_chosen_images_in_order_of_appearance():
    some = frames([4, -1, 2, 4, -1, 2, 4], np.array([3, 1, 6, 4, 2]))
    assert some.groups.tolist() == [0, 1, 0, 2, 3]
    assert some.weights.tolist() == [0.5, 1, 0.5, 1, 1]


def test_an_image_whose_copies_stand_elsewhere_counts_for_itself():
    assert frames([0, 0, -1], np.array([1, 2])).weights.tolist() == [1, 1]
