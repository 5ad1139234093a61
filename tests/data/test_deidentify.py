"""Pseudonyms: the same for the same, nothing without the secret."""

from __future__ import annotations

import hashlib
import hmac

import pytest

from medsynth.data.deidentify import pseudonym, read_or_make_secret
from medsynth.errors import DataError

SECRET = bytes(range(32))


def test_a_pseudonym_is_the_keyed_hash_of_kind_and_value():
    expected = hmac.new(SECRET, b"medsynth\x1fpatient\x1fMRN 1", hashlib.sha256).hexdigest()[:16]
    assert pseudonym(SECRET, "patient", "MRN 1") == expected


def test_another_value_kind_or_secret_gives_another_pseudonym():
    words = {
        pseudonym(SECRET, "patient", "1"),
        pseudonym(SECRET, "patient", "2"),
        pseudonym(SECRET, "source", "1"),
        pseudonym(SECRET[::-1], "patient", "1"),
    }
    assert len(words) == 4


def test_a_secret_is_drawn_once_and_only_its_owner_may_read_it(tmp_path):
    path = tmp_path / "secret"
    first = read_or_make_secret(path)
    assert len(first) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_or_make_secret(path) == first
    assert read_or_make_secret(tmp_path / "other") != first


@pytest.mark.parametrize("content", ["", "abc", "zz" * 32, "00" * 31])
def test_a_spoiled_secret_is_an_error_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "secret"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(DataError, match="expected 64 hex digits"):
        read_or_make_secret(path)
    assert path.read_text() == content


def test_a_secret_that_others_may_read_is_an_error(tmp_path):
    path = tmp_path / "secret"
    read_or_make_secret(path)
    path.chmod(0o640)
    with pytest.raises(DataError, match="chmod 600"):
        read_or_make_secret(path)
