from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from medsynth.validation.one_run import one_run_bound, p_value

DELTA = 1e-5
# Computed with the paper's own code (arXiv 2305.08846, appendix D) at delta 1e-5 and 95 %.
GOLDEN = {
    100: (3.49, 1.82, 1.63, 0.70, 0.05, 59),
    200: (4.19, 2.55, 1.80, 0.82, 0.16, 113),
    500: (5.10, 3.48, 1.95, 0.92, 0.25, 269),
    1000: (5.78, 4.17, 2.02, 0.98, 0.30, 527),
}


@pytest.mark.parametrize("m", GOLDEN)
def test_bound_is_that_of_the_paper_s_code(m):
    *values, fewest = GOLDEN[m]
    cases = [(m, m), (m // 5, m // 5), (9 * m // 10, m), (3 * m // 4, m), (3 * m // 5, m)]
    found = [one_run_bound(right, r, m, delta=DELTA) for right, r in cases]
    assert np.allclose(found, values, atol=0.0051)
    assert one_run_bound(fewest, m, m, delta=DELTA) > 0
    assert one_run_bound(fewest - 1, m, m, delta=DELTA) == 0


def test_without_delta_the_bound_is_clopper_pearson_s_low_end_as_an_epsilon():
    for right, guessed in ((20, 20), (45, 50), (333, 400)):
        low = stats.beta.ppf(0.05, right, guessed - right + 1)
        expected = math.log(low / (1 - low))
        assert one_run_bound(right, guessed, 500, delta=0) == pytest.approx(expected, abs=1e-5)


def test_bound_has_both_ends():
    assert one_run_bound(0, 100, 100, delta=DELTA) == 0
    assert one_run_bound(50, 100, 100, delta=DELTA) == 0
    assert one_run_bound(0, 0, 100, delta=DELTA) == 0
    assert one_run_bound(100, 100, 100, delta=1.0) == 0  # anything may have failed
    assert one_run_bound(10_000, 10_000, 10_000, delta=0) == pytest.approx(8.11, abs=0.01)


@pytest.mark.parametrize(("right", "guessed"), [(-1, 5), (6, 5), (5, 11)])
def test_impossible_counts_are_refused(right, guessed):
    with pytest.raises(ValueError, match="expected right <= guessed <= canaries"):
        one_run_bound(right, guessed, 10, delta=DELTA)


@st.composite
def counts(draw):
    canaries = draw(st.integers(1, 400))
    guessed = draw(st.integers(1, canaries))
    return draw(st.integers(0, guessed)), guessed, canaries


@given(counts(), st.floats(1e-9, 1e-2))
def test_p_value_rises_with_epsilon_so_that_the_bound_is_one_number(found, delta):
    p = [p_value(*found, epsilon=e, delta=delta) for e in np.linspace(0, 8, 30)]
    assert (np.diff(p) >= -1e-9).all()


@given(counts(), st.floats(1e-9, 1e-3))
def test_bound_grows_with_right_guesses_and_falls_with_confidence_delta_and_canaries(found, delta):
    right, guessed, canaries = found
    bound = one_run_bound(*found, delta=delta)
    tolerance = 1e-5
    if right < guessed:
        assert one_run_bound(right + 1, guessed, canaries, delta=delta) >= bound - tolerance
    assert one_run_bound(*found, delta=delta, confidence=0.99) <= bound + tolerance
    assert one_run_bound(*found, delta=2 * delta) <= bound + tolerance
    assert one_run_bound(right, guessed, canaries + 50, delta=delta) <= bound + tolerance


# Coverage, on mechanisms whose epsilon is known ---------------------------------------------------


def failures(bounds, epsilon: float) -> int:
    return int((np.array(bounds) > epsilon).sum())


def at_most_nominal(failed: int, runs: int) -> bool:
    """False where so many failures have a probability under 0.1 % at a rate of 5 %."""
    return stats.binom.sf(failed - 1, runs, 0.05) > 1e-3


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_randomised_response_is_overrated_in_at_most_one_run_of_twenty(epsilon):
    # The sharpest case: each guess is right with just the probability that epsilon allows.
    rng, runs, m = np.random.default_rng(3), 1000, 100
    right = rng.binomial(m, 1 / (1 + math.exp(-epsilon)), runs)
    table = [one_run_bound(v, m, m, delta=0) for v in range(m + 1)]
    failed = failures([table[v] for v in right], epsilon)
    assert at_most_nominal(failed, runs)
    assert failed >= 10  # the bound is tight here, and would be caught at a nominal rate doubled


def test_all_given_away_with_probability_delta_is_covered_too():
    # Randomised response that reveals a canary's coin with probability delta is (epsilon, delta).
    rng, runs, m, epsilon, delta = np.random.default_rng(4), 1000, 200, 1.0, 2e-4
    chance = delta + (1 - delta) / (1 + math.exp(-epsilon))
    right = rng.binomial(m, chance, runs)
    table = [one_run_bound(v, m, m, delta=delta) for v in range(m + 1)]
    assert at_most_nominal(failures([table[v] for v in right], epsilon), runs)


def gaussian_epsilon(separation: float, delta: float) -> float:
    """The epsilon of N(0, 1) against N(separation, 1) (Balle and Wang, arXiv 1805.06530)."""

    def excess(e: float) -> float:
        half = separation / 2
        return stats.norm.cdf(half - e / separation) - math.exp(e) * stats.norm.cdf(
            -half - e / separation
        )

    low, high = 0.0, 60.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > delta else (low, middle)
    return high


@pytest.mark.parametrize(("separation", "least"), [(0.5, 0.0), (1.0, 0.3), (2.0, 1.2)])
def test_gaussian_mechanism_is_never_overrated_and_is_seen(separation, least):
    rng, m, k = np.random.default_rng(5), 200, 40
    table = {v: one_run_bound(v, 2 * k, m, delta=DELTA) for v in range(2 * k + 1)}
    bounds = []
    for _ in range(400):
        included = rng.random(m) < 0.5
        order = np.argsort(rng.standard_normal(m) + separation * included)
        right = (~included[order[:k]]).sum() + included[order[-k:]].sum()
        bounds.append(table[int(right)])
    epsilon = gaussian_epsilon(separation, DELTA)
    assert at_most_nominal(failures(bounds, epsilon), len(bounds))
    assert np.mean(bounds) >= least
