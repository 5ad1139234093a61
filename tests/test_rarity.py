"""No combination of labels that fewer than k patients have is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsynth import protocol, synthesis
from medsynth.rarity import suppress

VALUES = {"sex": "FM", "age": "yo", "disease": "xyz"}
ROW = st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in VALUES.items()})
REAL = st.lists(st.tuples(ROW, st.integers(0, 12)), min_size=1, max_size=40)


def patients_with(labels, real) -> set:
    return {who for row, who in real if labels.items() <= row.items()}


@settings(max_examples=60, deadline=None)
@given(real=REAL, wanted=st.lists(ROW, max_size=15), rarest=st.integers(1, 6))
def test_every_combination_that_is_left_has_k_patients(real, wanted, rarest):
    made, told = suppress(wanted, [row for row, _ in real], [who for _, who in real], rarest=rarest)
    for before, after in zip(wanted, made, strict=True):
        assert after.items() <= before.items()  # nothing is made up
        assert not after or len(patients_with(after, real)) >= rarest
        if not before or len(patients_with(before, real)) >= rarest:
            assert after == before  # nothing is left out that need not be
    changed = [before != after for before, after in zip(wanted, made, strict=True)]
    assert (told.images_changed, told.images) == (sum(changed), len(wanted))
    assert told.rare <= told.combinations


@settings(max_examples=40, deadline=None)
@given(real=REAL, seed=st.integers(0, 99), wish=st.booleans(), rarest=st.integers(1, 5))
def test_labels_that_are_drawn_have_k_patients_by_the_patients_or_by_a_wish(
    real, seed, wish, rarest
):
    rows, who = [row for row, _ in real], [who for _, who in real]
    labels = {"sex": {"F": 1, "M": 3}} if wish else None
    sample = protocol.Sample(images=30, labels=labels)
    wanted = synthesis.choose_conditions(rows, sample, seed)
    made, _ = suppress(wanted, rows, who, rarest=rarest)
    assert all(not row or len(patients_with(row, real)) >= rarest for row in made)


def test_the_attribute_goes_that_leaves_the_most_patients():
    real = [{"sex": "F", "disease": "x"}] * 9 + [{"sex": "M", "disease": "x"}, {"sex": "M"}]
    made, told = suppress([{"sex": "M", "disease": "x"}], real, range(11), rarest=5)
    assert made == [{"disease": "x"}]
    assert (told.rare, told.combinations) == (1, 1)


def test_many_images_of_one_patient_are_one_patient():
    real = [{"disease": "x"}] * 50
    assert suppress([{"disease": "x"}], real, [7] * 50, rarest=2)[0] == [{}]
    assert suppress([{"disease": "x"}], real, range(50), rarest=2)[0] == [{"disease": "x"}]


def test_a_combination_that_nobody_has_goes_like_one_that_somebody_has():
    common = [{"sex": s, "age": a} for s, a in (("F", "y"), ("M", "o")) for _ in range(5)]
    one = [{"sex": "F", "age": "o"}]
    (had,), _ = suppress(one, [*common, *one], range(11), rarest=5)
    (nobodys,), _ = suppress(one, common, range(10), rarest=5)
    assert set(had) == set(nobodys)
    assert len(had) == 1


@pytest.mark.parametrize(
    ("rarest", "words"), [(1, "any rarity"), (3, "No rarer"), (4, "1 were rarer: 2 of 5")]
)
def test_what_is_said_counts_and_names_nothing(rarest, words):
    real = [{"disease": "common"}] * 5 + [{"disease": "secret"}] * 3
    wanted = [{"disease": "common"}] * 3 + [{"disease": "secret"}] * 2
    _, told = suppress(wanted, real, np.arange(8), rarest=rarest)
    assert words in told.sentence
    assert "secret" not in told.sentence


def test_shares_of_what_is_common_stay_as_they_are():
    real = [{"sex": "F"}] * 30 + [{"sex": "M"}] * 10 + [{"sex": "X"}]
    wanted = synthesis.choose_conditions(real, protocol.Sample(images=410), 0)
    made, _ = suppress(wanted, real, range(41), rarest=5)
    counts = {value: sum(row.get("sex") == value for row in made) for value in "FMX"}
    assert counts == {"F": 300, "M": 100, "X": 0}
