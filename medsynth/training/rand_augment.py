"""RandAugment: each image goes through a few of fourteen changes, drawn at random.

Source: Cubuk et al., arXiv 1909.13719, with the changes and ranges of AutoAugment's PIL code. What
a change moves in from outside is black, as what surrounds a field of view is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from ..cohort import to_pixels

Picture = Image.Image
CHANGES = 2  # an image
STRENGTH = 0.3  # of the whole range: 9 of 30


def rand_augment(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    changes: int = CHANGES,
    strength: float = STRENGTH,
) -> np.ndarray:
    """Change images (N, C, H, W) in [-1, 1], each by `changes` of KINDS at a strength from 0 to 1;
    returns float32 in [-1, 1], rounded to 8 bits."""
    names, found = list(KINDS), []
    for pixels in to_pixels(images):
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        for number in rng.integers(len(names), size=changes):
            sign = 1.0 if rng.random() < 0.5 else -1.0
            picture = KINDS[names[number]](picture, strength * sign)
        found.append(np.asarray(picture).reshape(pixels.shape))
    stacked = np.stack(found).astype(np.float32).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(stacked) / np.float32(127.5) - 1


def _moved(picture: Picture, across: tuple[float, float, float], down) -> Picture:
    """Look each pixel (x, y) up at (across . (x, y, 1), down . (x, y, 1)), from the middle."""
    middle = (picture.width - 1) / 2
    (a, b, c), (d, e, f) = across, down
    matrix = (a, b, c + middle * (1 - a - b), d, e, f + middle * (1 - d - e))
    kind = Image.Transform.AFFINE
    return picture.transform(picture.size, kind, matrix, Image.Resampling.BILINEAR)


def _enhanced(kind) -> Callable[[Picture, float], Picture]:
    return lambda picture, strength: kind(picture).enhance(1 + 0.9 * strength)


KINDS: Mapping[str, Callable[[Picture, float], Picture]] = {
    "identity": lambda picture, s: picture,
    "auto_contrast": lambda picture, s: ImageOps.autocontrast(picture),
    "equalize": lambda picture, s: ImageOps.equalize(picture),
    "rotate": lambda picture, s: picture.rotate(30 * s, Image.Resampling.BILINEAR),
    "solarize": lambda picture, s: ImageOps.solarize(picture, 256 - 256 * abs(s)),
    "colour": _enhanced(ImageEnhance.Color),
    "posterize": lambda picture, s: ImageOps.posterize(picture, 8 - round(4 * abs(s))),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": lambda picture, s: _moved(picture, (1, 0.3 * s, 0), (0, 1, 0)),
    "shear_y": lambda picture, s: _moved(picture, (1, 0, 0), (0.3 * s, 1, 0)),
    "shift_x": lambda picture, s: _moved(picture, (1, 0, 0.45 * s * picture.width), (0, 1, 0)),
    "shift_y": lambda picture, s: _moved(picture, (1, 0, 0), (0, 1, 0.45 * s * picture.height)),
}
"""Each takes a strength from -1 to 1, of which 0 changes nothing but with auto_contrast and
equalize, which have none; where a sign has no meaning its size counts."""
