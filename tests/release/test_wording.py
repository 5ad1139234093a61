import math

import pytest

from medsynth.release import wording


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.0123, "share of synthetic images", "1.23 %"),
        (1.0, "share", "100 %"),
        (0.0, "share", "0 %"),
        (31.24, "dB", "31.2 dB"),
        (0.5, "probability", "0.5"),
        (12345.6, "images", "12,346 images"),
        (0.0000123, "", "1.23e-05"),
        (math.nan, "share", "not a number"),
        (math.inf, "", "infinite"),
        (None, "", "not a number"),
    ],
)
def test_quantity_writes_numbers_for_people(value, unit, words):
    assert wording.quantity(value, unit) == words


def test_pair_tells_two_different_numbers_apart_however_close():
    first, second = wording.pair(0.05, 0.05 + 1e-12)
    assert first != second
    assert wording.pair(0.05, 0.05) == ("0.05", "0.05")


def test_titles_are_words():
    assert wording.title("memorization.recall.quarter_turn") == "recall, quarter turn"
    assert wording.full_title("memorization.p_value") == "Memorization, p-value"
