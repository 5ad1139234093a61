"""A label that can be seen is learned, one that can't be is not, and a kill changes nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsynth.data.lessons import Lesson, draw_evenly
from medsynth.training import classifier
from medsynth.training.augment import draw_turns
from medsynth.training.classifier import fit_classifier


def striped(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 0.2, (count, 1, 32, 32)).astype(np.float32)
    classes = np.arange(count) % 2
    images[classes == 1, :, ::8] += 0.6
    return images, classes


IMAGES, CLASSES = striped()


def lesson(**changes) -> Lesson:
    given = Lesson(lambda chosen, draws: IMAGES[chosen], CLASSES, 2, 1, 320, seed=1)
    return replace(given, **changes)


def fit(folder, given: Lesson, **options):
    folder.mkdir(exist_ok=True)
    return fit_classifier(given, folder, symmetry="identity", device="cpu", **options)


def test_classes_take_turns_and_pieces_make_the_same_whole():
    classes = np.array([0] * 17 + [1] * 3 + [3] * 5)
    whole = draw_evenly(classes, 4, start=0, count=60, seed=2)
    pieces = [draw_evenly(classes, 4, start=s, count=12, seed=2) for s in range(0, 60, 12)]
    assert np.array_equal(whole, np.concatenate(pieces))
    assert np.bincount(classes[whole], minlength=4).tolist() == [20, 20, 0, 20]
    rare = np.bincount(whole)[17:20]
    assert sorted(rare) == [6, 7, 7]  # each pass takes every one once


def test_duplicates_count_once():
    classes = np.zeros(10, np.int64)
    groups = np.array([0, 0, 0, 0, 0, 0, 1, 2, 3, 4])
    drawn = draw_evenly(classes, 1, start=0, count=50, seed=2, groups=groups)
    assert np.bincount(groups[drawn]).tolist() == [10] * 5


def test_what_can_be_seen_is_learned_and_no_more(tmp_path):
    rng = np.random.default_rng(1)
    said = fit(tmp_path / "a", lesson())(IMAGES)
    assert said.shape == (40, 2)
    assert np.allclose(said.sum(1), 1, atol=1e-5)
    assert (said.argmax(1) == CLASSES).mean() > 0.95
    fresh = striped(80)[0][40:]
    coins = lesson(classes=rng.permutation(CLASSES))
    found = fit(tmp_path / "b", coins)(fresh).argmax(1)
    assert 0.2 < (found == CLASSES).mean() < 0.8


def test_a_class_without_images_is_never_said(tmp_path):
    said = fit(tmp_path, lesson(values=3, images=640))(IMAGES)
    assert (said.argmax(1) < 2).all()


@pytest.mark.parametrize("classical", [False, True])
def test_killed_and_started_again_it_says_the_same(tmp_path, classical):
    given = lesson(classical=classical)
    whole = fit(tmp_path / "whole", given)(IMAGES)

    def stop(what: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "cut", given, progress=stop)
    assert np.array_equal(fit(tmp_path / "cut", given)(IMAGES), whole)
    if not classical:
        other = fit(tmp_path / "other", replace(given, seed=2))(IMAGES)
        assert not np.array_equal(other, whole)


def test_what_a_flip_makes_another_class_is_not_flipped(tmp_path, monkeypatch):
    seen = []

    def note(count, symmetry, device):
        seen.append((count, symmetry))
        return draw_turns(count, symmetry, device)

    monkeypatch.setattr(classifier, "draw_turns", note)
    for another in (True, False):
        given = lesson(classical=True, another=another, images=32)
        folder = tmp_path / str(another)
        folder.mkdir()
        fit_classifier(given, folder, symmetry="flip", device="cpu")
    assert seen == [(32, "flip")]
