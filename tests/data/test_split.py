"""The split: patients on one side, by chance alone, and honest about what can be seen."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth.cohort import Cohort, Record
from medsynth.data.split import (
    describe,
    foresee,
    propose_holdout,
    say_halves,
    say_holdouts,
    split_patients,
)
from medsynth.errors import DataError
from medsynth.protocol import Split


def cohort(patients, links=None, labels=None):
    """A cohort with one image for each patient word in the list; "" is unknown."""
    records = tuple(
        Record(f"real-{i:06d}", "real", patient, labels[i] if labels else {},
               link=links[i] if links else -1)
        for i, patient in enumerate(patients)
    )  # fmt: skip
    pixels = np.arange(len(records), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Cohort("chest_xray", records, np.broadcast_to(pixels, (len(records), 8, 8, 1)).copy())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=60, max_size=120), st.integers(0, 2**40))
def test_split_never_shares_a_patient_nor_a_group_of_duplicates(words, seed):
    names = [f"p{word}" if word else "" for word in words]
    links = [word % 7 if word > 25 else -1 for word in words]
    images = cohort([*names, *(f"q{i}" for i in range(40))], [*links, *[-1] * 40])
    parts = split_patients(images, Split(), seed)
    for record, part in zip(images.records, parts, strict=True):
        for other, its_part in zip(images.records, parts, strict=True):
            same = record.patient == other.patient != "" or record.link == other.link != -1
            assert not same or part == its_part


def test_the_shares_are_shares_of_patients():
    images = cohort([f"p{i % 100}" for i in range(350)])
    parts = split_patients(images, Split(validation=0.1, holdout=0.4), 1)
    for part, expected in (("train", 50), ("validation", 10), ("holdout", 40)):
        assert len({images.records[i].patient for i in np.flatnonzero(parts == part)}) == expected


def test_the_order_of_the_records_changes_nothing_and_the_seed_does():
    images = cohort([f"p{i // 2}" for i in range(80)])
    order = np.random.default_rng(0).permutation(80)
    parts = split_patients(images, Split(), 5)
    np.testing.assert_array_equal(split_patients(images.take(order), Split(), 5), parts[order])
    np.testing.assert_array_equal(split_patients(images, Split(), 5), parts)
    assert (split_patients(images, Split(), 6) != parts).any()


def test_every_patient_is_held_out_as_often_as_any_other():
    images = cohort([f"p{i}" for i in range(20)])
    held = sum(split_patients(images, Split(), seed) == "holdout" for seed in range(600))
    # 600 draws at 0.4: standard deviation 12
    assert abs(held - 240).max() < 50


@pytest.mark.parametrize(
    ("patients", "shares"), [(2, {}), (20, {"validation": 0.0}), (3, {"holdout": 0.1})]
)
def test_a_part_without_a_patient_is_an_error(patients, shares):
    with pytest.raises(DataError, match=f"split of {patients} patients leaves none for"):
        split_patients(cohort([f"p{i}" for i in range(patients)]), Split(**shares), 0)


@pytest.mark.parametrize(
    ("train", "holdout", "expected"),
    # PRIVACY.md: at equal halves 5 / 7 / 10, at two thirds 8 / 12 / 18, at 90/10 29 / 44 / 66
    [(10**6, 10**6, (5, 7, 10)), (2 * 10**6, 10**6, (8, 12, 18)), (9 * 10**6, 10**6, (29, 44, 66))],
)
def test_foresight_of_large_cohorts_is_the_known_one(train, holdout, expected):
    seen = foresee(train, holdout)
    assert tuple(seen.copies.values()) == expected
    assert seen.train_share == pytest.approx(train / (train + holdout))


@pytest.mark.parametrize(("train", "holdout"), [(5, 4), (6, 3), (4, 6)])
def test_foresight_of_small_cohorts_agrees_with_counting_all_draws(train, holdout):
    copies = foresee(train, holdout).copies
    for level, smallest in copies.items():
        chances = []
        for k in range(1, train + 1):
            draws = list(combinations(range(train + holdout), k))
            chances.append(sum(all(i < train for i in draw) for draw in draws) / len(draws))
        enough = [k for k, chance in enumerate(chances, start=1) if chance <= float(level)]
        assert smallest == (enough[0] if enough else None)


def test_foresight_says_where_nothing_can_be_seen():
    seen = foresee(9, 1)
    assert set(seen.copies.values()) == {None}
    assert "no number of copies can be told from chance" in seen.sentence
    with pytest.raises(DataError, match="at least one"):
        foresee(10, 0)


def test_the_description_counts_every_part_and_claims_people_only_where_they_are_known():
    labels = [{"dx": "ill" if i % 2 else "well"} for i in range(60)]
    images = cohort([f"p{i // 2}" for i in range(60)], labels=labels)
    parts = split_patients(images, Split(), 0)
    said = describe(images, parts)
    assert said["parts"]["train"]["labels"] == {"dx": {"ill": 15, "well": 15}}
    assert [said["parts"][p]["images"] for p in ("train", "validation", "holdout")] == [30, 6, 24]
    assert said["foresight"]["train_patients"] == 15
    assert said["patients_known"]
    assert "about patients" in said["claim"]


@pytest.mark.parametrize(
    ("known", "start"), [(0, "No patient is known"), (30, "The patient of 30 of 60")]
)
def test_the_claim_is_weaker_where_patients_are_unknown(known, start):
    images = cohort([f"p{i}" for i in range(known)] + [""] * (60 - known))
    said = describe(images, split_patients(images, Split(), 0))
    assert said["claim"].startswith(start)
    assert "about images, not about people" in said["claim"]
    assert not said["patients_known"]
    assert said["images_of_unknown_patients"] == 60 - known


def test_the_claim_allows_for_what_the_data_set_does_not_know():
    images = cohort([f"p{i // 2}" for i in range(60)])
    parts = split_patients(images, Split(), 0)
    assert describe(images, parts)["caveats"] == []
    said = describe(images, parts, caveats=("A slide counts as a patient.",))
    assert said["caveats"] == ["A slide counts as a patient."]
    assert said["claim"].endswith("as far as the data set tells them apart.")


@pytest.mark.parametrize("patients", [60, 500, 3000])
@pytest.mark.parametrize("copies", [6, 10, 25])
def test_the_proposed_holdout_is_the_smallest_that_sees_so_many_copies(patients, copies):
    def chance(share):
        """That so many different patients are all training patients, counted draw by draw."""
        held_out = int(share * patients + 0.5)
        left = patients - int(0.1 * patients + 0.5)
        drawn = np.arange(copies)
        return float(np.prod((left - held_out - drawn) / (left - drawn)))

    share = propose_holdout(patients, copies, validation=0.1)
    assert chance(share) <= 0.025
    assert chance(share - 0.01) > 0.025


def test_no_holdout_is_proposed_where_none_is_enough():
    assert propose_holdout(400, 1, validation=0.1) is None
    assert propose_holdout(6, 20, validation=0.0) is None
    words = say_holdouts(400, validation=0.1, copies=(1, 10))
    assert "10 from 0.28 on" in words
    assert "1 never, for want of patients" in words


def test_equal_halves_see_what_they_are_known_to_see():
    """In large numbers k copies are all training patients with probability t^k."""
    assert propose_holdout(10**5, 6, validation=0.0) == pytest.approx(
        1 - 0.025 ** (1 / 6), abs=0.01
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 90), st.sampled_from([0.0, 0.1, 0.25]), st.integers(0, 2**40))
def test_halves_exchange_training_and_held_out_patients_and_nobody_else(count, validation, seed):
    images = cohort([f"p{i}" for i in range(count)])
    first, second = (
        split_patients(images, Split(validation=max(validation, 1 / count), half=half), seed)
        for half in ("first", "second")
    )
    exchanged = {"train": "holdout", "holdout": "train", "validation": "validation"}
    assert [exchanged[part] for part in first] == second.tolist()
    assert 0 <= (first == "train").sum() - (first == "holdout").sum() <= 1


def test_a_half_says_that_another_run_is_trained_on_whom_it_holds_out():
    images = cohort([f"p{i}" for i in range(40)])
    parts = split_patients(images, Split(half="second"), 0)
    assert "second of two runs" in describe(images, parts, half="second")["half"]
    assert describe(images, parts)["half"] == ""


def test_foresight_of_halves_is_that_of_as_many_on_either_side():
    seen = _copies_at(0.025, train=18, holdout=18)
    assert f"copies of {seen} at best" in say_halves(40, validation=0.1)
    assert "no copies either" in say_halves(4, validation=0.25)


def _copies_at(level, *, train, holdout):
    """The smallest k of which all fall on training patients by chance at most `level` often."""
    return next(k for k in range(1, train) if _chance(k, train, holdout) <= level)


def _chance(k, train, holdout):
    from math import comb

    return comb(train, k) / comb(train + holdout, k)
