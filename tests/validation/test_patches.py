from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medsynth.validation import patches
from medsynth.validation.nearest import NEVER


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    """Unit vectors around a few dozen middles, as windows of images are."""
    drawn = torch.Generator().manual_seed(seed)
    middles = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    own = torch.randint(24, (count,), generator=drawn)
    return F.normalize(middles[own] + 0.5 * torch.randn(count, 8, generator=drawn), dim=1)


@pytest.fixture(scope="module")
def index() -> patches.Index:
    return patches.build(vectors(6000), torch.Generator().manual_seed(2))


def test_windows_are_the_image_cut_out_with_their_mean_taken_off():
    images = torch.randn(2, 10, 10, generator=torch.Generator().manual_seed(0))
    found = patches.windows(images, 4, 3).view(2, 3, 3, 4, 4)
    part = images[1, 3:7, 6:10]
    torch.testing.assert_close(found[1, 1, 2], part - part.mean())


def test_components_are_those_of_a_singular_value_decomposition():
    flat = torch.randn(500, 40, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 41)
    _, _, wanted = np.linalg.svd(flat.double().numpy(), full_matrices=False)
    overlap = np.abs(patches.components(flat).double().numpy().T @ wanted.T)
    np.testing.assert_allclose(overlap[:, :32], np.eye(32), atol=1e-4)


def test_an_empty_window_resembles_nothing():
    basis = torch.eye(6)
    assert patches.describe(torch.zeros(1, 6), basis).abs().max() == 0
    assert patches.describe(torch.full((1, 6), 3.0), basis).norm() == pytest.approx(1)


def test_with_all_lists_looked_into_the_most_alike_vector_is_always_found(index):
    asked = vectors(200, seed=5)
    likeness, numbers = patches.look_up(index, asked, probes=99, kept=3)
    wanted = (asked @ vectors(6000).T).max(1)
    torch.testing.assert_close(likeness.max(1).values, wanted.values)
    found = numbers.gather(1, likeness.argmax(1, keepdim=True))[:, 0]
    assert (found == wanted.indices).all()


def test_with_few_lists_looked_into_it_is_mostly_found(index):
    asked = vectors(200, seed=5)
    likeness, _ = patches.look_up(index, asked, probes=3, kept=1)
    wanted = (asked @ vectors(6000).T).amax(1)
    assert (likeness.amax(1) > wanted - 1e-4).float().mean() > 0.7


def test_what_is_refused_is_never_found(index):
    asked = vectors(50, seed=5)
    rest = torch.arange(6000) % 3 == 0

    def refused(rows, numbers):
        return (numbers % 3 == 0)[None] | (rows == 7)[:, None]

    likeness, numbers = patches.look_up(index, asked, probes=99, kept=2, refused=refused)
    assert not rest[numbers[likeness > NEVER]].any()
    assert (likeness[7] == NEVER).all()
    wanted = (asked @ vectors(6000)[~rest].T).amax(1)
    others = torch.arange(50) != 7
    torch.testing.assert_close(likeness.amax(1)[others], wanted[others])


def test_few_vectors_make_one_list():
    few = patches.build(vectors(5), torch.Generator().manual_seed(0))
    likeness, numbers = patches.look_up(few, vectors(5), probes=4, kept=8)
    assert (numbers[:, 0] == torch.arange(5)).all()
    assert ((likeness > NEVER).sum(1) == 5).all()
