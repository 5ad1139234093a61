"""benchmarks/memory.py: what a step takes, from shapes alone."""

from __future__ import annotations

import sys
from contextlib import closing
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


def lens_row(batch: int) -> tuple[str, float, int, float]:
    with closing(memory.rows(study(**{"lens.training.batch": batch}))) as rows:
        return next(rows)


def test_the_lens_sees_two_views_of_its_whole_batch():
    what, millions, count, gib = lens_row(32)
    assert (what, count) == ("lens, a step", 32)
    assert millions > 0
    more = lens_row(64)[3]
    assert 1.5 * gib < more <= 2 * gib  # all but weights, gradients and moments are images
    assert gib > 4 * 2 * 32 * study().image.size_px ** 2 / memory.GIB
