"""Vocabulary: conditions to tokens and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsynth.errors import DataError
from medsynth.vocabulary import NULL, Vocabulary

LABELS = [{"side": "left", "disease": "healthy"}, {"side": "right", "disease": "sick"}]
words = st.text(min_size=1, max_size=4)
conditions = st.lists(st.dictionaries(words, words, max_size=3), max_size=6)


def test_tokens_are_in_the_order_of_names_and_values_and_start_after_null():
    vocabulary = Vocabulary.from_labels(LABELS)
    assert vocabulary.attributes == ("disease", "side")
    assert vocabulary.encode({"side": "right", "disease": "healthy"}) == (1, 4)
    assert vocabulary.size == 5
    assert vocabulary.length == 2


def test_what_is_not_known_is_the_null_token():
    vocabulary = Vocabulary.from_labels(LABELS)
    assert vocabulary.encode({"side": "left"}) == (NULL, 3)
    assert vocabulary.encode({}) == (NULL, NULL)


def test_without_labels_a_condition_is_one_null_token():
    vocabulary = Vocabulary.from_labels([{}, {}])
    assert (vocabulary.size, vocabulary.length, vocabulary.encode({})) == (1, 1, (NULL,))


def test_same_value_of_two_attributes_has_two_tokens():
    vocabulary = Vocabulary.from_labels([{"a": "yes", "b": "yes"}])
    assert vocabulary.encode({"a": "yes", "b": "yes"}) == (1, 2)


@given(conditions)
def test_decoding_undoes_encoding(labels):
    vocabulary = Vocabulary.from_labels(labels)
    for row in labels:
        tokens = vocabulary.encode(row)
        assert vocabulary.decode(tokens) == row
        assert len(tokens) == vocabulary.length
        assert all(0 <= token < vocabulary.size for token in tokens)


@given(conditions)
def test_order_of_images_does_not_matter(labels):
    assert Vocabulary.from_labels(labels) == Vocabulary.from_labels(labels[::-1])


@given(conditions)
def test_file_holds_the_vocabulary(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("vocabulary") / "v.json"
    vocabulary = Vocabulary.from_labels(labels)
    vocabulary.write(path)
    assert Vocabulary.read(path) == vocabulary


def test_unknown_values_are_all_named_with_those_there_are():
    vocabulary = Vocabulary.from_labels(LABELS)
    with pytest.raises(
        DataError, match=r"no token for side=up, x=y; the vocabulary has: disease=h"
    ):
        vocabulary.encode({"side": "up", "x": "y"})
