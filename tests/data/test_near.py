"""The index finds what comparing all pairs finds, with work that grows about as the set."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medsynth.data import near
from medsynth.data.likeness import SIDE
from medsynth.data.near import (
    CROWD,
    RECALL,
    VIEWS,
    Plan,
    bands_needed,
    candidates,
    choose_plan,
    join,
    near_pairs,
    strongest_links,
)

THRESHOLD = 0.9
TURNS = [lambda x, k=k, f=f: np.rot90(x[:, ::-1] if f else x, k) for k in range(4) for f in (0, 1)]


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def strangers(count: int, seed: int = 0, common: float = 0.3) -> np.ndarray:
    """Smooth random pictures that correlate at `common` on average, as chests do at 0.2."""
    rng = np.random.default_rng(seed)
    fields = gaussian_filter(rng.standard_normal((count + 1, SIDE, SIDE)), (0, 0.7, 0.7))
    rows = unit(fields.reshape(count + 1, -1))
    return unit(math.sqrt(common) * rows[:1] + math.sqrt(1 - common) * rows[1:])


def at_correlation(rows: np.ndarray, correlation: float, seed: int = 1) -> np.ndarray:
    """Return rows that correlate so with these, turned at random, every other one a negative."""
    rng = np.random.default_rng(seed)
    noise = unit(rng.standard_normal(rows.shape))
    noise = noise - rows * (noise * rows).sum(axis=1, keepdims=True)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    made = correlation * rows + math.sqrt(1 - correlation**2) * noise
    turned = [TURNS[rng.integers(8)](row.reshape(SIDE, SIDE)).ravel() for row in made]
    return np.stack(turned) * np.where(np.arange(len(rows)) % 2, -1, 1)[:, None]


def planted(count: int, copies: int, correlation: float) -> np.ndarray:
    rows = strangers(count)
    return np.concatenate([rows, at_correlation(rows[:copies], correlation)]).astype(np.float16)


def use(monkeypatch, plan: Plan) -> None:
    monkeypatch.setattr(near, "choose_plan", lambda rows, *, correlation: plan)


def found(rows: np.ndarray) -> set[tuple[int, int]]:
    return set(map(tuple, near_pairs(rows, correlation=THRESHOLD)[0].tolist()))


def test_copies_exactly_at_the_threshold_are_found_as_often_as_promised(monkeypatch):
    use(monkeypatch, Plan(14, -(-bands_needed(14, THRESHOLD) // VIEWS)))
    copies = 1500
    rows = planted(copies, copies, THRESHOLD + 0.0015)  # half precision may take 0.001 away
    pairs = found(rows)
    assert pairs <= {(i, copies + i) for i in range(copies)}
    # four standard deviations of a binomial below the promise
    assert len(pairs) >= copies * RECALL - 4 * math.sqrt(copies * RECALL * (1 - RECALL))


@pytest.mark.parametrize("bits", [10, 16])
def test_the_index_finds_what_all_pairs_find(monkeypatch, bits):
    rows = planted(400, 60, 0.97)
    everything = {(i, 400 + i) for i in range(60)}
    use(monkeypatch, Plan(0, 0))
    assert found(rows) == everything
    use(monkeypatch, Plan(bits, -(-bands_needed(bits, THRESHOLD) // VIEWS)))
    assert found(rows) == everything


@pytest.mark.parametrize("plan", [Plan(0, 0), Plan(10, 12)])
def test_what_is_found_correlates_as_it_says(monkeypatch, plan):
    use(monkeypatch, plan)
    rows = planted(300, 40, 0.93)
    pairs, likeness = near_pairs(rows, correlation=THRESHOLD)
    assert len(pairs) == 40
    for (a, b), value in zip(pairs, likeness, strict=True):
        one, other = rows[a].reshape(SIDE, SIDE), rows[b].astype(np.float64)
        values = [turn(one).ravel() @ other for turn in TURNS]
        assert max(values, key=abs) == pytest.approx(value, abs=2e-3)
        assert (value < 0) == bool(a % 2)


def test_small_sets_are_compared_pair_by_pair_and_large_ones_are_not():
    rows = strangers(3000).astype(np.float16)
    assert choose_plan(rows[:100], correlation=THRESHOLD).sets == 0
    assert choose_plan(rows, correlation=THRESHOLD).sets > 0
    # where nearly everything is asked for, no index helps
    assert choose_plan(rows, correlation=0.2).sets == 0


def test_the_more_bits_the_more_bands_and_every_band_helps():
    needed = [bands_needed(bits, THRESHOLD) for bits in (6, 12, 18)]
    assert needed == sorted(needed)
    for bits, bands in zip((6, 12, 18), needed, strict=True):
        hit = (1 - math.acos(THRESHOLD) / math.pi) ** bits
        assert 1 - (1 - hit) ** bands >= RECALL > 1 - (1 - hit) ** (bands - 1)


def compared(monkeypatch, rows: np.ndarray) -> int:
    """How many candidates are looked at."""
    counts = []

    def counting(keys):
        for one, other in candidates(keys):
            counts.append(len(one))
            yield one, other

    monkeypatch.setattr(near, "candidates", counting)
    near_pairs(rows, correlation=THRESHOLD)
    return sum(counts)


def test_candidates_grow_about_as_the_set_does(monkeypatch):
    rows = strangers(8000).astype(np.float16)
    few, many = compared(monkeypatch, rows[:2000]), compared(monkeypatch, rows)
    assert 0 < many < 8 * few  # of four times the rows; all pairs would be 16 times as many
    assert many < 0.02 * len(rows) ** 2 * VIEWS / 2


def test_a_crowd_of_look_alikes_costs_no_more_than_its_share_and_is_joined(monkeypatch):
    rng = np.random.default_rng(0)
    crowd = unit(strangers(1, seed=9) + 0.002 * rng.standard_normal((2500, SIDE**2)))
    rows = np.concatenate([strangers(500), crowd]).astype(np.float16)
    plan = Plan(12, 2)
    use(monkeypatch, plan)
    assert compared(monkeypatch, rows) <= plan.sets * VIEWS * len(rows) * CROWD
    pairs = near_pairs(rows, correlation=THRESHOLD)[0]
    groups = join(len(rows), pairs)
    assert len(set(groups[500:])) == 1
    assert len(set(groups[:500]) | set(groups[500:])) == 501
    assert len(pairs) == 2499


def test_the_same_rows_give_the_same_pairs(monkeypatch):
    use(monkeypatch, Plan(12, 4))
    rows = planted(300, 60, 0.92)
    first, second = (near_pairs(rows, correlation=THRESHOLD) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_strongest_links_are_kept_and_no_ring():
    pairs = np.array([[0, 1], [1, 2], [0, 2], [3, 4], [0, 1]])
    strength = np.array([0.90, 0.99, 0.95, 1.0, 0.97], np.float32)
    kept = strongest_links(5, pairs, strength)
    assert sorted(map(tuple, pairs[kept])) == [(0, 1), (1, 2), (3, 4)]
    assert strength[kept].min() == np.float32(0.97)
