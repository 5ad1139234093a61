"""Attempts are counted, and what a test rejected stays rejected."""

import json

import pytest

from medsynth.errors import StaleError
from medsynth.release import attempts


def put(path, evidence, *, generator="g", rejected=False):
    """Put evidence before the gate: count it and write it down."""
    number = attempts.number(path, evidence)
    attempts.record(path, evidence=evidence, generator=generator, rejected=rejected)
    return number


@pytest.fixture
def path(tmp_path):
    return tmp_path / "attempts.jsonl"


def test_the_same_evidence_is_the_same_attempt_and_new_evidence_the_next(path):
    assert [put(path, digest) for digest in ("a", "a", "b", "a", "c", "c")] == [1, 1, 2, 1, 3, 3]
    assert len(path.read_text().splitlines()) == 3


def test_a_rejection_stays_with_its_generator_whatever_comes_later(path):
    put(path, "a", rejected=True)
    put(path, "b")
    put(path, "a", rejected=False)  # judged again, under softer rules
    put(path, "c", generator="another")
    assert attempts.rejections(path, "g") == [1]
    assert attempts.rejections(path, "another") == []


def test_a_line_that_a_kill_cut_in_two_does_not_count(path):
    put(path, "a")
    path.write_text(path.read_text() + '{"attempt": 2, "evid')
    assert put(path, "b") == 2
    assert [json.loads(line)["evidence"] for line in path.read_text().splitlines()] == ["a", "b"]


@pytest.mark.parametrize(
    "damage", ["first line gone", "middle line gone", "rubbish", "twice", "verdict taken out"]
)
def test_a_log_of_attempts_that_was_changed_stops_the_gate(path, damage):
    for digest in "abc":
        put(path, digest)
    a, b, c = path.read_text().splitlines(keepends=True)
    path.write_text({
        "first line gone": b + c,
        "middle line gone": a + c,
        "rubbish": a + "?\n" + b,
        "twice": a + b + b,
        "verdict taken out": a + b.replace('"rejected"', '"other"'),
    }[damage])  # fmt: skip
    with pytest.raises(StaleError, match=r"attempts\.jsonl was changed"):
        attempts.number(path, "d")
