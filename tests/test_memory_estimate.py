"""benchmarks/memory.py: what a step takes, from shapes alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import study
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import memory

WIDE = 2048
MATRIX = 4 * WIDE**2 / memory.GIB


def linear(*, learns: bool, count: int = 1) -> float:
    with FakeTensorMode():
        net = torch.nn.Linear(WIDE, WIDE, bias=False)
        shown = torch.zeros(count, WIDE)
        return memory.most(net, lambda: net(shown).sum(), learns=learns)


def test_a_matrix_that_learns_is_there_with_its_gradient_and_two_moments():
    assert linear(learns=False) == pytest.approx(MATRIX, rel=0.01)
    assert 4 * MATRIX <= linear(learns=True) <= 7 * MATRIX  # and what AdamW takes meanwhile


def test_what_is_shown_counts():
    more = 4 * WIDE * 4096 / memory.GIB  # what comes out; what goes in is the caller's
    assert linear(learns=False, count=4096) - linear(learns=False) == pytest.approx(more, rel=0.01)


def test_every_network_of_a_protocol_has_a_row_and_the_lens_sees_its_whole_batch():
    rows = {what: (millions, count, gib) for what, millions, count, gib in memory.rows(study())}
    assert list(rows) == [
        "lens, a step", "lens, looking", "autoencoder, a step", "denoiser, a step",
        "drawing, a step", "drawing, decoding",
    ]  # fmt: skip
    assert all(millions > 0 and count > 0 and gib > 0 for millions, count, gib in rows.values())
    twice = 2 * study().lens.training.batch
    other = {row[0]: row for row in memory.rows(study(**{"lens.training.batch": twice}))}
    assert other["lens, a step"][2:3] == (twice,)
    assert 1.5 * rows["lens, a step"][2] < other["lens, a step"][3] <= 2 * rows["lens, a step"][2]
