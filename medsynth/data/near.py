"""All pairs of rows that are nearly parallel, without looking at all pairs.

Random planes cut space in two. Two rows at an angle a lie on the same side of a plane with
probability 1 - a / pi, so rows that share the sides of b planes are likely to be near; what such
a band misses, another one finds. Bits and bands are chosen by what they cost on a sample of the
rows, with so many bands that a pair exactly at the threshold is found with probability RECALL.
Every candidate is checked by its exact correlation, so that nothing false comes out.
Source: Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002.

An image stands in the index under all eight symmetries of the square, and its negative under the
same key. The planes of a band are turned like the images: one projection serves all eight views,
and a pair has eight chances in each set of planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .likeness import SIDE, symmetries

RECALL = 0.995
CROWD = 64  # in a bucket of more views, each is compared with so many that follow it
SAMPLE = 512
VIEWS = 8
SKETCH = 128  # bits by which candidates are looked at before their rows are
SLACK = 4.0  # standard deviations by which a sketch may differ from what the threshold expects
PAIR_COST = 3000  # of one candidate, in multiplications; measured
BITS = range(6, 31)
BLOCK = 4096


@dataclass(frozen=True)
class Plan:
    """How many planes a band has and how many sets of eight bands there are; sets 0: all pairs."""

    bits: int
    sets: int


def near_pairs(rows: np.ndarray, *, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs (M, 2) int64, first < second, and their correlations (M,) float32.

    `rows` are unit (N, SIDE * SIDE), no zeros. A pair is found where the absolute correlation
    under a symmetry of the square is `correlation` or more. Pairs that are joined already through
    others may be left out: what is returned joins all that belong together. The same rows give
    the same pairs.
    """
    plan = choose_plan(rows, correlation=correlation)
    found = _Found(len(rows))
    if plan.sets == 0:
        for pairs, likeness in _all_pairs(rows, correlation):
            found.add(pairs, likeness)
        return found.strongest()
    sketches = _sketch(rows)
    cut = _most_different(correlation)
    for keys in _bands(rows, plan):
        for one, other in candidates(keys):
            alike = _differing(sketches[one], sketches[other]) <= cut
            new = alike & found.apart(one // VIEWS, other // VIEWS)
            found.add(*_checked(rows, one[new], other[new], correlation))
    return found.strongest()


# The plan ---------------------------------------------------------------------------------------


def choose_plan(rows: np.ndarray, *, correlation: float) -> Plan:
    """Return the cheapest plan for these rows, from how alike a sample of them is.

    Costs are multiplications a row.
    """
    if len(rows) < 2:
        return Plan(0, 0)
    sample = rows[:: -(-len(rows) // SAMPLE)].astype(np.float32)
    same_side = _same_side(_strangers(sample, correlation))
    costs = {Plan(0, 0): VIEWS * len(rows) / 2 * SIDE**2}
    for bits in BITS:
        sets = -(-bands_needed(bits, correlation) // VIEWS)
        likely = VIEWS * len(rows) * float((same_side**bits).mean()) if len(same_side) else 0.0
        each = VIEWS * bits * SIDE**2 + VIEWS * likely / 2 * PAIR_COST
        costs[Plan(bits, sets)] = VIEWS * SKETCH * SIDE**2 + sets * each
    return min(costs, key=costs.__getitem__)


def bands_needed(bits: int, correlation: float) -> int:
    """Return how many bands of so many planes find a pair at `correlation` with RECALL."""
    hit = _same_side(np.float64(correlation)) ** bits
    return int(np.ceil(np.log1p(-RECALL) / np.log1p(-min(hit, 1 - 1e-12))))


def _same_side(correlation: np.ndarray) -> np.ndarray:
    return 1 - np.arccos(np.clip(np.abs(correlation), 0, 1)) / np.pi


def _strangers(sample: np.ndarray, correlation: float) -> np.ndarray:
    """Return the absolute correlations of different sampled rows that are no duplicates."""
    upper = np.triu_indices(len(sample), 1)
    views = symmetries(sample.reshape(-1, SIDE, SIDE))
    values = [np.abs(sample @ _flat(view).T)[upper] for view in views]
    alike = np.concatenate(values)
    return alike[alike < correlation]


# Bands ------------------------------------------------------------------------------------------


def _bands(rows: np.ndarray, plan: Plan) -> Iterator[np.ndarray]:
    """Yield the keys (N, VIEWS) uint32 of every set; a row and its negative have the same."""
    places = (1 << np.arange(plan.bits)).astype(np.uint32)
    for number in range(plan.sets):
        sides = _sides(rows, plan.bits, seed=number)
        keys = np.concatenate([block @ places for block in sides])
        yield np.minimum(keys, places.sum(dtype=np.uint32) - keys)


def _sides(rows: np.ndarray, planes: int, *, seed: int) -> Iterator[np.ndarray]:
    """Yield (n, VIEWS, planes) bool, block by block: on which side of each plane a view lies."""
    normals = np.random.default_rng([seed, planes]).standard_normal((planes, SIDE, SIDE))
    turned = np.concatenate([_flat(view) for view in symmetries(normals.astype(np.float32))])
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float32)
        yield (block @ turned.T > 0).reshape(len(block), VIEWS, planes)


def candidates(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (one, other): numbers of views (row * VIEWS + view) of different rows that share a key.

    At most CROWD pairs a view, however many share its key.
    """
    order = np.argsort(keys.ravel(), kind="stable")
    sorted_keys = keys.ravel()[order]
    for step in range(1, min(CROWD, len(order) - 1) + 1):
        start = np.flatnonzero(sorted_keys[:-step] == sorted_keys[step:])
        if not len(start):
            return
        one, other = order[start], order[start + step]
        different = one // VIEWS != other // VIEWS
        yield one[different], other[different]


# Candidates -------------------------------------------------------------------------------------


def _sketch(rows: np.ndarray) -> np.ndarray:
    """Return (N * VIEWS, SKETCH / 64) uint64: the sides of SKETCH more planes, packed."""
    blocks = [np.packbits(sides, axis=2) for sides in _sides(rows, SKETCH, seed=0)]
    return np.concatenate(blocks).view(np.uint64).reshape(-1, SKETCH // 64)


def _differing(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    bits = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return np.minimum(bits, SKETCH - bits)


def _most_different(correlation: float) -> float:
    share = 1 - _same_side(np.float64(correlation))
    return SKETCH * share + SLACK * np.sqrt(SKETCH * share * (1 - share))


def _checked(
    rows: np.ndarray, one: np.ndarray, other: np.ndarray, correlation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of rows behind these views that do correlate, and how much."""
    pixel = np.arange(SIDE**2).reshape(1, SIDE, SIDE)
    # a turned plane looks at an image as the plane itself does at the image turned back
    turns = np.argsort(np.concatenate([_flat(view) for view in symmetries(pixel)]), axis=1)
    likeness = np.empty(len(one), np.float32)
    for start in range(0, len(one), BLOCK):
        part = slice(start, start + BLOCK)
        first, second = (
            np.take_along_axis(rows[views // VIEWS], turns[views % VIEWS], axis=1)
            for views in (one[part], other[part])
        )
        likeness[part] = np.einsum("nd,nd->n", first, second, dtype=np.float32)
    pairs = np.sort(np.stack([one, other], axis=1) // VIEWS, axis=1)
    near = np.abs(likeness) >= correlation
    return pairs[near], likeness[near]


def _all_pairs(rows: np.ndarray, correlation: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    size = BLOCK // 4
    for start in range(0, len(rows), size):
        block = rows[start : start + size].astype(np.float32)
        # b against a turned is a against b turned back, so only later images are looked at
        for begin in range(start, len(rows), size):
            later = rows[begin : begin + size].astype(np.float32).T
            for view in symmetries(block.reshape(-1, SIDE, SIDE)):
                likeness = _flat(view) @ later
                a, b = np.nonzero(np.abs(likeness) >= correlation)
                fresh = a + start < b + begin
                a, b = a[fresh], b[fresh]
                yield np.stack([a + start, b + begin], axis=1), likeness[a, b]


def _flat(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images).reshape(len(images), -1)


class _Found:
    """Pairs so far, and which rows they join."""

    def __init__(self, count: int):
        self.count = count
        self.group = np.arange(count)
        self.pairs, self.likeness = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)

    def apart(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Say of rows one[i] and other[i] whether nothing joins them yet."""
        return self.group[one] != self.group[other]

    def add(self, pairs: np.ndarray, likeness: np.ndarray) -> None:
        """Join pairs; only the strongest that join what was apart are kept."""
        if not len(pairs):
            return
        self.pairs = np.concatenate([self.pairs, pairs])
        self.likeness = np.concatenate([self.likeness, likeness])
        kept = strongest_links(self.count, self.pairs, np.abs(self.likeness))
        self.pairs, self.likeness = self.pairs[kept], self.likeness[kept]
        self.group = join(self.count, self.pairs)

    def strongest(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs in order and their correlations."""
        order = np.lexsort(self.pairs.T[::-1])
        return self.pairs[order], self.likeness[order]


def join(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return (count,) int: the number of each one's group, where pairs join."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (count, count))
    return connected_components(edges, directed=False)[1]


def strongest_links(count: int, pairs: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return the numbers of the pairs of a maximum spanning forest: no ring, the same groups."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    codes = pairs[:, 0] * count + pairs[:, 1]
    order = np.lexsort((-strength, codes))
    first = order[np.unique(codes[order], return_index=True)[1]]
    a, b = pairs[first].T
    tree = minimum_spanning_tree(coo_array((2.0 - strength[first], (a, b)), (count, count)))
    a, b = tree.tocoo().coords
    return first[np.isin(codes[first], a.astype(np.int64) * count + b)]
