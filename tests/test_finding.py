"""Findings and verdicts: what is written is what is read, and NaN never passes for a number."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsynth.errors import DataError
from medsynth.finding import (
    Finding,
    Judgement,
    Verdict,
    read_findings,
    read_verdict,
    write_findings,
)
from medsynth.runtime import read_json, write_json

PLAIN = Finding("fidelity.x", 0.5, 0.4, 0.6, 100, "share", "lower is better", "counted")
number = st.floats(allow_nan=False, allow_infinity=False)


def test_findings_are_written_sorted_and_read_back(tmp_path):
    second = replace(PLAIN, name="a.first", reference=0.1, reference_is="held-out patients")
    write_findings(tmp_path / "f.jsonl", [PLAIN, second])
    assert read_findings(tmp_path / "f.jsonl") == {"a.first": second, "fidelity.x": PLAIN}
    assert list(read_findings(tmp_path / "f.jsonl")) == ["a.first", "fidelity.x"]


def test_order_of_findings_does_not_change_the_file(tmp_path):
    other = replace(PLAIN, name="other")
    write_findings(tmp_path / "a", [PLAIN, other])
    write_findings(tmp_path / "b", [other, PLAIN])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("end", ["value", "low", "high"])
def test_what_is_not_finite_is_no_number_before_and_after_writing(strange, end, tmp_path):
    broken = replace(PLAIN, **{end: strange})
    write_findings(tmp_path / "f.jsonl", [broken])
    assert not broken.is_number
    assert not read_findings(tmp_path / "f.jsonl")["fidelity.x"].is_number
    assert "NaN" not in (tmp_path / "f.jsonl").read_text()


@given(number, number, number, st.integers(0, 10**9), st.text())
def test_any_finite_finding_survives_the_file(tmp_path_factory, value, low, high, n, method):
    path = tmp_path_factory.mktemp("finding") / "f.jsonl"
    finding = replace(PLAIN, value=value, low=low, high=high, n=n, method=method)
    write_findings(path, [finding])
    assert read_findings(path) == {"fidelity.x": finding}


def test_a_name_that_comes_twice_is_refused(tmp_path):
    write_findings(tmp_path / "f.jsonl", [PLAIN, PLAIN])
    with pytest.raises(DataError, match=r"f\.jsonl: the finding fidelity\.x comes twice"):
        read_findings(tmp_path / "f.jsonl")


def test_verdict_survives_the_file(tmp_path):
    verdict = Verdict("refused", 2, ("what it means",), (
        Judgement("a", "at most 1", "passed", 0.5, "fine"),
        Judgement("b", "at most 1", "refused", 2.0, "too high"),
        Judgement("c", "at most 1", "inconclusive", None, "no number"),
        Judgement("d", "at most 1", "waived", None, "not asked"),
    ), {"cohort": "00"})  # fmt: skip
    write_json(tmp_path / "v.json", verdict.to_dict())
    assert read_verdict(tmp_path / "v.json") == verdict
    assert read_json(tmp_path / "v.json")["attempt"] == 2


def test_only_refusals_and_doubts_are_reasons():
    judgements = tuple(
        Judgement(kind, "bar", kind, None, f"why {kind}")
        for kind in ("passed", "refused", "inconclusive", "waived")
    )
    verdict = Verdict("refused", 1, (), judgements)
    assert verdict.reasons == ("why refused", "why inconclusive")


@pytest.mark.parametrize("outcome", ["passed", "refused", "inconclusive", "waived"])
def test_only_passed_passes(outcome):
    assert Verdict(outcome, 1, (), ()).passed == (outcome == "passed")


def test_an_interval_that_widens_survives_a_file_and_one_that_does_not_adds_nothing(tmp_path):
    wide = Finding("a", 0.1, 0.0, 0.2, 9, "", "neither", "m", at_attempts=((0.0, 0.2), (0.0, 0.3)))
    plain = Finding("b", 0.1, 0.0, 0.2, 9, "", "neither", "m")
    write_findings(tmp_path / "f.jsonl", [wide, plain])
    assert read_findings(tmp_path / "f.jsonl") == {"a": wide, "b": plain}
    assert "at_attempts" not in (tmp_path / "f.jsonl").read_text().splitlines()[1]
