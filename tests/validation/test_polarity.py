from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, make_case
from PIL import Image

from medsynth.cohort import to_pixels
from medsynth.domains import domain, names
from medsynth.validation import attack, planted, polarity

CHEST = domain("chest_xray")
TRAIN = cohort(range(30), name="chest_xray")
HOLDOUT = cohort(range(100, 130), name="chest_xray")
FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "chest_xray" / "nih64" / "images"


def turned(images: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images half of which are negatives, and which: mirrored and turned ones among them."""
    rng = np.random.default_rng(seed)
    over = rng.integers(2, size=len(images)).astype(bool)
    ways = [np.rot90(image, rng.integers(4), axes=(1, 2)) for image in images]
    return np.where(over[:, None, None, None], -np.stack(ways), np.stack(ways)), over


def test_negatives_are_told_from_images_however_they_are_turned():
    mean = polarity.usual(CHEST, (TRAIN, HOLDOUT))
    images, over = turned(cohort(range(200, 240), name="chest_xray").floats(slice(None)))
    assert (polarity.is_negative(images, mean) == over).all()


def test_images_that_are_no_negatives_stay_as_they_are_to_the_last_bit():
    mean = polarity.usual(CHEST, (TRAIN, HOLDOUT))
    seen = polarity.righted(HOLDOUT, mean)
    assert len(seen) == len(HOLDOUT)
    assert (seen[3:9] == HOLDOUT.floats(slice(3, 9))).all()
    images = HOLDOUT.floats(slice(None))
    assert (polarity.righted(-images, mean)[:] == images).all()


def test_a_few_negatives_among_real_images_are_turned_over_too():
    images = TRAIN.floats(slice(None))
    images[:6] *= -1
    mean = polarity.usual(CHEST, (images, HOLDOUT))
    assert (polarity.is_negative(images, mean) == (np.arange(30) < 6)).all()


@pytest.mark.parametrize("name", names())
def test_only_chests_have_negatives(name):
    images = cohort(range(2), name=name)
    mean = polarity.usual(domain(name), (images,))
    assert (mean is None) == (name != "chest_xray")
    assert (polarity.righted(images, mean) is images) == (name != "chest_xray")


def test_a_negative_copy_is_found_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(planted, "CHANGES", {"exact": planted.exact})
    fresh = cohort(range(200, 212), origin="synthetic", name="chest_xray")
    pixels = np.array(fresh.pixels)
    pixels[:6] = to_pixels(-TRAIN.floats(slice(6)))
    case = make_case(tmp_path, TRAIN, HOLDOUT, replace(fresh, pixels=pixels), settings=SETTINGS)
    found = attack.run_attack(case)
    flags = found.flags(found.synthetic)
    assert flags.copied[:6].all()
    assert set(found.copies) == {"exact", "negative"}
    assert found.flags(found.copies["negative"]).copied.mean() == 1


@pytest.mark.skipif(not FOLDER.exists(), reason="needs the real chest radiographs")
def test_real_chests_are_told_from_their_negatives():
    files = sorted(FOLDER.iterdir())[:400]
    chests = np.stack([np.asarray(Image.open(path).convert("L")) for path in files])
    chests = (chests / np.float32(127.5) - 1)[:, None]
    mean = polarity.usual(CHEST, (chests[:200],))
    images, over = turned(chests[200:])
    assert (polarity.is_negative(images, mean) == over).mean() > 0.99
