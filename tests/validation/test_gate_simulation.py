"""The whole way of the cohort's test on images: search, ranking, permutations, verdict.

A small edition of benchmarks/gate.py, by its own functions.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
GENERATORS = {"null", "smooth", "shrunken", "collapsed", "one class"}
STUDIES = 120


@pytest.fixture(scope="module")
def benchmark():
    """benchmarks/gate.py as a module, and the worlds beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("gate_benchmark", BENCHMARKS / "gate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def measured(benchmark, tmp_path_factory):
    """Phantoms of chests, with all that the benchmark measures."""
    effort = benchmark.Effort(
        patients=50,
        fresh=36,
        others=14,
        copies=40,
        divisions=1,
        studies=STUDIES,
        mixes=30,
        lens=128,
    )
    folder = tmp_path_factory.mktemp("chest_xray")
    return benchmark.measure("chest_xray", None, effort, folder, changes=("exact", "combined"))


def test_it_alarms_at_its_level_at_most_whatever_the_generator(measured):
    assert set(measured["alarms"]) == GENERATORS
    for kind, counts in measured["alarms"].items():
        for level, (hits, studies) in counts.items():
            assert studies == STUDIES
            assert hits <= stats.binom.ppf(0.9995, STUDIES, float(level)), (kind, level)


def test_the_gate_s_own_code_says_of_each_generator_what_each_rule_says(measured):
    """One division, searched in full. The copy rate is no test: of fourteen images one that are
    flagged without cause break its bar, so nothing is claimed of that rule here."""
    assert set(measured["gate"]) == GENERATORS
    for kind, outcomes in measured["gate"].items():
        assert outcomes["passed: memorization.p_value"] == 1, kind
        assert outcomes["passed: memorization.exact_copies"] == 1, kind
        assert not any("smallest_rate" in rule for rule in outcomes)  # which is not measured here
        assert sum(outcomes.get(word, 0) for word in ("refused", "inconclusive", "passed")) == 1


def test_plain_copies_are_caught_and_more_of_them_more_often_and_changed_ones_too(measured):
    exact = measured["power"]["exact"]
    hits = [exact[count][0] for count in sorted(exact, key=int)]
    assert hits == sorted(hits)
    assert hits[0] < 0.7 * 30
    assert exact["10"][0] >= 27
    assert measured["power"]["combined"]["10"][0] >= 24


@pytest.mark.parametrize("domain", ["fundus", "histology"])
def test_other_images_alarm_at_its_level_at_most(benchmark, domain, tmp_path):
    """The nulls of the other domains, without copies and divisions."""
    effort = benchmark.Effort(24, 16, 8, 1, 0, STUDIES, 0, 128)
    seen = benchmark.world(domain, None, effort)
    looked = benchmark.look_up(seen, tmp_path, effort, changes=())
    rng = np.random.default_rng(0)
    alarms = 0
    for found in looked.made.values():
        alarms += benchmark.alarms(found["everyone"], seen.patients, STUDIES, rng)["0.05"][0]
    assert alarms <= stats.binom.ppf(0.9995, 4 * STUDIES, 0.05)


def test_what_was_searched_is_not_searched_again_and_comes_back_the_same(
    benchmark, tmp_path, monkeypatch
):
    effort = benchmark.Effort(12, 8, 4, 1, 1, 10, 0, 64)
    seen = benchmark.world("histology", None, effort)
    first = benchmark.look_up(seen, tmp_path, effort, changes=())
    monkeypatch.delattr("medsynth.validation.search.search")
    again = benchmark.look_up(seen, tmp_path, effort, changes=())
    for space, nearest in first.made["smooth"]["everyone"].spaces.items():
        other = again.made["smooth"]["everyone"].spaces[space]
        np.testing.assert_array_equal(nearest.score, other.score)
        np.testing.assert_array_equal(nearest.patient, other.patient)
