from __future__ import annotations

import numpy as np
import pytest
import torch

from medsynth.validation import neighbours
from medsynth.validation.nearest import NEVER
from medsynth.validation.neighbours import Parts, nearest


def features(*shape: int, seed: int = 0, steps: int = 0) -> torch.Tensor:
    """Random features; with `steps`, of so few whole numbers that many products tie exactly."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-steps, steps + 1, shape) if steps else rng.standard_normal(shape)
    return torch.from_numpy(drawn.astype(np.float32))


def brute(products: np.ndarray, patients: np.ndarray, inside: np.ndarray, count: int, people: int):
    """Sort one query's products, equal ones as they come: images, then each patient's best."""
    order = [i for i in np.argsort(-products, kind="stable") if inside[i]]
    leaders = [i for n, i in enumerate(order) if patients[i] not in patients[order[:n]]]
    return [(each + [-1] * most)[:most] for each, most in ((order, count), (leaders, people))]


def whole(patients: torch.Tensor) -> Parts:
    """A gallery that is one part."""
    return Parts(patients, {"everyone": torch.ones(len(patients), dtype=torch.bool)})


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "QUERIES", 7)
    monkeypatch.setattr(neighbours, "GALLERY", 16)


@pytest.mark.parametrize("each", [1, 3, 40], ids="{} images a patient".format)
@pytest.mark.parametrize("steps", [0, 1], ids=["no ties", "many ties"])
def test_blocks_find_what_sorting_everything_finds(small_blocks, each, steps):
    queries, gallery = features(2, 23, 6, steps=steps), features(150, 6, seed=1, steps=steps)
    rng = np.random.default_rng(2)
    patients = rng.permutation(np.arange(150) // each)
    among = {"train": rng.random(150) < 0.6, "everyone": np.ones(150, bool)}
    masks = {name: torch.from_numpy(mask) for name, mask in among.items()}
    parts = Parts(torch.from_numpy(patients), masks)
    found = nearest(queries, gallery, parts, count=5, people=3)
    products = (queries.numpy() @ gallery.numpy().T).max(0)
    for name, inside in among.items():
        for i, row in enumerate(products):
            images, leaders = brute(row, patients, inside, 5, 3)
            assert found[name].images[i].tolist() == images
            assert found[name].leaders[i].tolist() == leaders
            np.testing.assert_allclose(found[name].likeness[i], row[images], rtol=1e-5, atol=1e-6)


def test_the_second_patient_is_found_behind_any_number_of_images_of_the_first(small_blocks):
    gallery = torch.cat([torch.ones(90, 1), torch.full((10, 1), 0.5), torch.full((10, 1), 0.25)])
    patients = torch.tensor([7] * 90 + [3] * 10 + [5] * 10)
    found = nearest(torch.ones(1, 1), gallery, whole(patients), count=2, people=3)["everyone"]
    assert found.leaders.tolist() == [[0, 90, 100]]
    assert found.lead.tolist() == [[1.0, 0.5, 0.25]]


def test_fewer_images_than_asked_for_leave_empty_places():
    found = nearest(
        features(2, 4), features(3, 4, seed=1), whole(torch.arange(3)), count=5, people=4
    )["everyone"]
    assert (found.images[:, 3:] == -1).all()
    assert (found.likeness[:, 3:] == NEVER).all()
    assert (found.leaders[:, 3:] == -1).all()
    assert (found.images[:, :3] >= 0).all()


def test_what_lies_outside_of_all_parts_is_never_found():
    gallery = torch.tensor([[1.0], [0.5], [0.25]])
    parts = Parts(torch.arange(3), {"rest": torch.tensor([False, True, True])})
    found = nearest(torch.ones(1, 1), gallery, parts, count=3)["rest"]
    assert found.images.tolist() == [[1, 2, -1]]


def test_likeness_below_zero_is_ordered_too():
    gallery = torch.tensor([[-0.5], [-0.1], [-0.0], [0.0], [-9.0]])
    found = nearest(torch.ones(1, 1), gallery, whole(torch.arange(5)), count=5)["everyone"]
    assert found.images.tolist() == [[2, 3, 1, 0, 4]]
    assert found.likeness.tolist() == [pytest.approx([0, 0, -0.1, -0.5, -9.0])]


def test_memory_is_that_of_a_block_however_large_the_gallery(monkeypatch):
    widest = []
    reaching = neighbours._reaching

    def watched(likeness, bar):
        widest.append(likeness.numel())
        return reaching(likeness, bar)

    monkeypatch.setattr(neighbours, "_reaching", watched)
    nearest(features(1100, 2), features(9000, 2, seed=1), whole(torch.arange(9000)), count=1)
    assert max(widest) == neighbours.QUERIES * neighbours.GALLERY
    assert sum(widest) == 1100 * 9000
