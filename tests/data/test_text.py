"""Burned-in text: found however it stands, refused or blacked out, and markers left alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from medsynth.data import phantoms, text
from medsynth.data.badimage import BadImage
from medsynth.errors import DataError
from medsynth.protocol import Deidentify

pytest.importorskip("rapidocr_onnxruntime")

QUARANTINE = Deidentify(text_screen="quarantine")
MASK = Deidentify(text_screen="mask")


def phantom(domain: str = "chest_xray", size_px: int = 224) -> np.ndarray:
    """A phantom without text, (C, size, size) in [0, 1]."""
    pixels, _ = phantoms.draw(domain, 3, 0, seed=4, size_px=size_px)
    return np.moveaxis(pixels, -1, 0).astype(np.float32) / 255


def write(
    image: np.ndarray, words: str, *, at: tuple[int, int] = (20, 30), px: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image with white words on it, and where they are."""
    mask = Image.new("L", (image.shape[2], image.shape[1]))
    ImageDraw.Draw(mask).text(at, words, fill=255, font=ImageFont.load_default(px))
    ink = np.asarray(mask, dtype=np.float32)[None] / 255
    return image * (1 - ink) + ink, ink[0] > 0.2


# What is found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["DOE^JOHN", "MRN 0012345", "02.03.1957"])
def test_a_name_a_number_and_a_date_are_found_where_they_stand(words):
    image, ink = write(phantom(), words)
    ((top, left, bottom, right),) = text.find(image, 3)
    rows, columns = np.nonzero(ink)
    assert (top <= rows).all()
    assert (rows < bottom).all()
    assert (left <= columns).all()
    assert (columns < right).all()
    assert (bottom - top) * (right - left) < 0.25 * ink.size


TURNS = {
    "mirrored": lambda image: image[:, :, ::-1],
    "upside down": lambda image: image[:, ::-1, ::-1],
    "sideways": lambda image: np.rot90(image, axes=(1, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_text_is_found_however_the_image_was_turned(turn):
    image, _ = write(phantom(), "MUELLER ANNA")
    assert text.find(TURNS[turn](image).copy(), 3)


@pytest.mark.parametrize("at", [(0, -3), (113, 207), (0, 207)])
def test_text_that_touches_the_edge_is_found(at):
    image, _ = write(phantom(), "MRN 0012345", at=at)
    assert text.find(image, 3)


def test_a_box_as_high_as_a_chest_is_no_line_of_text(monkeypatch):
    lying = np.array([[10, 10], [200, 10], [200, 30], [10, 30]], dtype=float)
    high = np.array([[10, 10], [200, 10], [200, 150], [10, 150]], dtype=float)
    monkeypatch.setattr(text, "_read", lambda _: [(high, "1500"), (lying, "DOE^JOHN")])
    ((top, _, bottom, _),) = text.find(phantom(), 3)
    assert bottom - top < 60


def test_small_text_in_a_large_image_is_found():
    image, ink = write(phantom(size_px=320).repeat(4, 1).repeat(4, 2), "SMITH JANE", px=14)
    rows, columns = np.nonzero(ink)
    ((top, left, bottom, right),) = text.find(image, 3)
    assert (top <= rows.min(), left <= columns.min()) == (True, True)
    assert (bottom > rows.max(), right > columns.max()) == (True, True)


def test_faint_text_in_a_dark_image_is_found():
    image, _ = write(phantom() * 0.5, "DOE^JOHN")
    assert text.find(image * 0.1 + 0.3, 3)


@pytest.mark.parametrize("domain", ["chest_xray", "fundus", "histology"])
def test_an_image_without_text_has_none(domain):
    assert text.find(phantom(domain), 1) == []


def test_markers_are_no_text_until_the_protocol_says_so():
    image, _ = write(phantom(), "R", px=24)
    assert text.find(image, 3) == []
    assert len(text.find(image, 1)) == 1


def test_an_ideogram_counts_as_two_letters():
    assert text.length("AP") == 2
    assert text.length("12-3.") == 3
    assert text.length("王伟") == 4


# What is done with it ---------------------------------------------------------------------------


def test_off_looks_at_nothing(monkeypatch):
    monkeypatch.setattr(text, "find", lambda *_: pytest.fail("the image was searched"))
    image, _ = write(phantom(), "DOE^JOHN")
    after, seen = text.screen(image, Deidentify())
    assert after is image
    assert seen == text.Screened(boxes=0, masked=0)


def test_quarantine_refuses_and_quotes_nothing():
    image, _ = write(phantom(), "DOE^JOHN")
    with pytest.raises(BadImage, match="text in the image: 1 region of text") as caught:
        text.screen(image, QUARANTINE)
    assert "DOE" not in str(caught.value)


def test_an_image_without_text_passes_unchanged():
    image = phantom()
    for settings in (QUARANTINE, MASK):
        after, seen = text.screen(image, settings)
        assert after is image
        assert seen.boxes == 0


def test_masked_text_is_black_and_the_rest_is_untouched():
    image, ink = write(phantom(), "MUELLER ANNA")
    image, more = write(image, "1957-03-02", at=(90, 180), px=14)
    before = image.copy()
    after, seen = text.screen(image, MASK)
    assert seen.boxes == seen.masked >= 2
    assert not after[:, ink | more].any()
    changed = (after != before).any(axis=0)
    assert not after[:, changed].any()
    assert changed.mean() < 0.35
    assert np.array_equal(image, before)
    assert text.find(after, 3) == []


def test_text_that_masking_cant_remove_is_refused(monkeypatch):
    calls = []
    monkeypatch.setattr(text, "find", lambda *_: calls.append(1) or [(0, 0, 2, 2)])
    with pytest.raises(BadImage, match="left after masking"):
        text.screen(phantom(), MASK)
    assert len(calls) < 10


# How it works -----------------------------------------------------------------------------------


def test_the_extra_is_asked_for_before_the_first_file(monkeypatch):
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'medsynth\[ocr\]'"):
        text.check_installed(MASK)
    text.check_installed(Deidentify())


def test_the_reader_says_nothing_and_takes_one_core(caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        text.find(write(phantom(), "DOE^JOHN")[0], 3)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    reader = text._reader()
    for part in (reader.text_det.infer, reader.text_cls.infer, reader.text_rec.session):
        options = part.session.get_session_options()
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
