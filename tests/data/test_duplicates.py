"""Duplicates: copies are found however they are turned, different people are left alone."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsynth.data import phantoms
from medsynth.data.duplicates import link_duplicates, symmetries
from medsynth.data.options import ReadOptions
from medsynth.data.readers import read_image, to_channels

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "chest_xray" / "nih64"
THRESHOLD = 0.95
SIDE = 64


def people(domain, count):
    return np.stack([phantoms.draw(domain, p, 0, 3, SIDE)[0] for p in range(count)])


def as_jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer)).reshape(image.shape)


def exposed(image):
    return np.rint(255 * (image / 255) ** 0.8).astype(np.uint8)


def turned(image):
    return np.rot90(image)


def noisy(image):
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_different_people_are_not_linked(domain):
    assert set(link_duplicates(people(domain, 60), correlation=THRESHOLD)) == {-1}


@pytest.mark.parametrize("domain", phantoms.NAMES)
def test_exact_copies_are_linked_under_all_eight_symmetries(domain):
    images = people(domain, 6)
    for view in symmetries(images[2:3]):
        links = link_duplicates(np.concatenate([images, view]), correlation=1.0)
        assert links.tolist() == [-1, -1, 0, -1, -1, -1, 0]


@pytest.mark.parametrize("change", [as_jpeg, exposed, noisy, turned, lambda x: turned(noisy(x))])
@pytest.mark.parametrize("domain", ["chest_xray", "histology"])
def test_copies_that_were_changed_a_little_are_linked(domain, change):
    images = people(domain, 20)
    copies = np.stack([change(image) for image in images[:10]])
    links = link_duplicates(np.concatenate([images, copies]), correlation=0.9)
    assert links[20:].tolist() == links[:10].tolist() == list(range(10))
    assert set(links[10:20]) == {-1}


def test_links_are_passed_on_and_numbered_by_first_image():
    a, b = people("chest_xray", 2)
    chain = np.stack([b, a, a[::-1], b[:, ::-1], turned(a)])
    assert link_duplicates(chain, correlation=THRESHOLD).tolist() == [0, 1, 1, 0, 1]


def test_sixteen_bits_are_as_good_as_eight():
    images = people("chest_xray", 4)[[0, 1, 2, 1, 3]]
    links = link_duplicates(images.astype(np.uint16) * 257, correlation=THRESHOLD)
    assert links.tolist() == [-1, 0, -1, 0, -1]


def test_images_without_detail_are_linked_only_where_they_are_equal():
    flat = np.full((3, SIDE, SIDE, 1), 10, np.uint8)
    flat[2] += 1
    assert link_duplicates(flat, correlation=0.5).tolist() == [0, 0, -1]


def test_no_image_and_one_image_have_no_duplicates():
    assert link_duplicates(np.zeros((0, 8, 8, 1), np.uint8), correlation=0.9).shape == (0,)
    assert link_duplicates(np.ones((1, 8, 8, 1), np.uint8), correlation=0.9).tolist() == [-1]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(8)))
def test_who_is_linked_does_not_depend_on_the_order(order):
    images = people("chest_xray", 4)
    images = np.concatenate([images, images[:2, ::-1], images[:2, :, ::-1]])
    whole = link_duplicates(images, correlation=THRESHOLD)
    mixed = np.empty(8, np.int64)
    mixed[list(order)] = link_duplicates(images[list(order)], correlation=THRESHOLD)
    np.testing.assert_array_equal(whole[:, None] == whole, mixed[:, None] == mixed)


def test_three_thousand_images_take_seconds():
    images = np.random.default_rng(0).integers(0, 255, (3000, SIDE, SIDE, 1), np.uint8)
    images[2999] = images[0, ::-1]
    start = time.process_time()
    links = link_duplicates(images, correlation=THRESHOLD)
    assert links[0] == links[2999] == 0
    assert (links[1:-1] == -1).all()
    assert time.process_time() - start < 15


@pytest.mark.skipif(not REAL.exists(), reason="real images are not here")
def test_real_radiographs_of_different_people_are_not_linked():
    paths = sorted((REAL / "images").iterdir())[:400]
    images = [to_channels(read_image(path, ReadOptions(10**6)), 1) for path in paths]
    pixels = np.rint(np.stack(images).transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    assert set(link_duplicates(pixels, correlation=THRESHOLD)) == {-1}
