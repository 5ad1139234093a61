"""Text that is burned into an image: found, and refused or blacked out.

The reader is rapidocr (extra [ocr]), whose networks come inside its wheel: nothing is downloaded.
It finds lines of text, then reads each one as it stands, upside down and mirrored; sideways lines
are turned first. What it finds is a fact; that it finds nothing is no proof.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..errors import DataError
from ..protocol import Deidentify
from .badimage import BadImage

LONGEST_PX = 1600  # a larger image is reduced: letters of 1/200 of its long side can still be read
SHORTEST_PX = 736  # a smaller one is enlarged
SURE = 0.5  # a reading below this is no text
FRAME = 0.04  # of the long side, around the image: letters that touch its edge are found so
THICKEST = 0.15  # of the short side: what is higher than this is no line but ribs
MARGIN = 0.5  # boxes grow by this share of their height: what fades out at a line's end goes too
ROUNDS = 4  # a masked image is looked at again, for a long line may hide a faint one
IDEOGRAMS = 0x2E80  # from here on a character is a word's worth: a name may have two of them


@dataclass(frozen=True)
class Screened:
    """What the screen saw: `boxes` regions of text, of which `masked` are black now."""

    boxes: int = 0
    masked: int = 0


def screen(image: np.ndarray, settings: Deidentify) -> tuple[np.ndarray, Screened]:
    """Look for text in a (C, H, W) image in [0, 1] and do with it what the protocol says.

    Raises BadImage where the protocol refuses images with text, or where text can't be masked.
    """
    if settings.text_screen == "off":
        return image, Screened()
    boxes = find(image, settings.shortest_text)
    if not boxes:
        return image, Screened()
    if settings.text_screen == "quarantine":
        raise BadImage("text in the image", _regions(boxes))
    return _masked(image, boxes, settings.shortest_text)


def check_installed(settings: Deidentify) -> None:
    """Raise DataError where the protocol asks for a text screen that this machine lacks."""
    if settings.text_screen != "off" and find_spec("rapidocr_onnxruntime") is None:
        raise DataError("deidentify.text_screen needs a reader: pip install 'medsynth[ocr]'")


def find(image: np.ndarray, shortest: int) -> list[tuple[int, int, int, int]]:
    """Return (top, left, bottom, right) of each line with a word of `shortest` letters and digits.

    `image` is (C, H, W) in [0, 1], of any values in between; the box may be larger than the line.
    """
    picture, scale, frame = _picture(image)
    found = [
        (corners - frame) / scale
        for corners, words in _read(picture)
        if any(length(word) >= shortest for word in words.split())
    ]
    thickest = THICKEST * min(image.shape[1:])
    return [_grown(box, image.shape[1:]) for box in found if _thickness(box) <= thickest]


def _masked(
    image: np.ndarray, boxes: list[tuple[int, int, int, int]], shortest: int
) -> tuple[np.ndarray, Screened]:
    """Black out boxes until no more are found."""
    image, masked = image.copy(), 0
    for _ in range(ROUNDS):
        for top, left, bottom, right in boxes:
            image[:, top:bottom, left:right] = 0
        masked += len(boxes)
        boxes = find(image, shortest)
        if not boxes:
            return image, Screened(masked, masked)
    raise BadImage("text in the image", f"{_regions(boxes)} left after masking")


def _regions(boxes: list) -> str:
    return f"{len(boxes)} region{'s' * (len(boxes) != 1)} of text"


def _picture(image: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Return the framed (H, W, 3) bytes that are searched, in all their contrast, their scale and
    the frame's width."""
    from PIL import Image

    low, high = float(image.min()), float(image.max())
    spread = (image - low) * (255 / max(high - low, 1e-6))
    pixels = np.moveaxis(np.broadcast_to(spread, (3, *image.shape[1:])), 0, -1).astype(np.uint8)
    scale = min(1.0, LONGEST_PX / max(image.shape[1:]))
    if scale < 1:
        size = (round(image.shape[2] * scale), round(image.shape[1] * scale))
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    frame = round(FRAME * max(pixels.shape[:2]))
    ground = int(np.median(np.concatenate([pixels[[0, -1]].ravel(), pixels[:, [0, -1]].ravel()])))
    around = ((frame, frame), (frame, frame), (0, 0))
    return np.pad(pixels, around, constant_values=ground), scale, frame


def _read(picture: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Return the corners (4, 2) of each line that can be read, as (x, y), and its best reading."""
    reader = _reader()
    found, _ = reader.auto_text_det(picture)
    if found is None:
        return []
    lines = reader.get_crop_img_list(picture, found)
    lines += [np.ascontiguousarray(line[:, ::-1]) for line in lines]
    turned, _, _ = reader.text_cls(lines)
    readings, _ = reader.text_rec(turned)
    sure = [text if score >= SURE else "" for text, score, *_ in readings]
    return [(np.asarray(box), f"{sure[n]} {sure[n + len(found)]}") for n, box in enumerate(found)]


@cache
def _reader() -> Any:
    """Load the networks, once a process, to work on one core: files are read side by side."""
    import cv2
    from rapidocr_onnxruntime import RapidOCR

    cv2.setNumThreads(1)
    for name in ("RapidOCR", "OrtInferSession"):  # they speak of providers, and of nothing else
        logging.getLogger(name).disabled = True
    return RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1, det_limit_side_len=SHORTEST_PX)


def length(word: str) -> int:
    """Count letters and digits; an ideogram is worth two, for a name may have only two of them."""
    return sum(1 + (ord(letter) >= IDEOGRAMS) for letter in word if letter.isalnum())


def _thickness(corners: np.ndarray) -> float:
    """Return the shorter side of a box that may stand aslant, (4, 2) corners in turn."""
    return float(np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).min())


def _grown(corners: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    margin = MARGIN * min(bottom - top, right - left) + 1
    return (
        max(0, int(top - margin)),
        max(0, int(left - margin)),
        min(shape[0], int(np.ceil(bottom + margin))),
        min(shape[1], int(np.ceil(right + margin))),
    )
