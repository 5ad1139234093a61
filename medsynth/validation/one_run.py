"""How much epsilon one training run gives away of the canaries that were tossed into it.

Each of m canaries was trained on or not by a fair coin of its own. Whoever sees the outcome
guesses the coin of some of them and abstains from the rest. If training is (epsilon, delta)-
differentially private for adding or removing a canary, the guesses that are right are, but for a
little delta, no more than r coins that each show heads with e^epsilon / (1 + e^epsilon): the proof
goes guess by guess, so one run is enough. More right guesses than that refute the epsilon; none
can confirm it, and the bound can't exceed what all guesses right would give.

Source: Steinke, Nasr and Jagielski, arXiv 2305.08846, theorem 5.2 and appendix D.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

PRECISION = 1e-6


def one_run_bound(
    right: int, guessed: int, canaries: int, *, delta: float, confidence: float = 0.95
) -> float:
    """Return the largest epsilon that so many right guesses refute, or 0 where they refute none.

    Of `canaries` `guessed` were guessed and `right` of these rightly; which ones to guess, and how
    many, must not depend on the coins. Below the true epsilon with probability `confidence`, and
    finite. Raises ValueError unless 0 <= right <= guessed <= canaries and delta lies in [0, 1].
    """
    if not (0 <= right <= guessed <= canaries and 0 <= delta <= 1):
        raise ValueError(
            f"expected right <= guessed <= canaries and delta in [0, 1], got {right}, {guessed}, "
            f"{canaries}, {delta}"
        )

    def refuted(epsilon: float) -> bool:
        p = p_value(right, guessed, canaries, epsilon=epsilon, delta=delta)
        return p < 1 - confidence

    low, high = 0.0, 1.0
    if not refuted(low):
        return 0.0
    while refuted(high):
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def p_value(right: int, guessed: int, canaries: int, *, epsilon: float, delta: float) -> float:
    """Return how probable so many right guesses are at most, if (epsilon, delta) holds.

    The binomial tail, and what delta may add: 2 m delta times the largest over i of
    P[right > X >= right - i] / i, X binomial.
    """
    chance = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(right - 1, guessed, chance))
    if delta == 0 or right == 0:
        return tail
    below = np.cumsum(stats.binom.pmf(np.arange(right)[::-1], guessed, chance))
    most = float((below / np.arange(1, right + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * most)
