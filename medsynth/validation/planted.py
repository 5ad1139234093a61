"""Known copies: what an honest attack must find before its silence means anything.

Each change takes one image, (C, H, W) float32 in [-1, 1], and a generator, and returns the image
as a copying generator or a careless export might give it. Strengths are for the whole image, so
they mean the same at every size: 1 px here is 1/64 of the side.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from ..domains import Symmetry

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def exact(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image as it is."""
    return image.copy()


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left and right."""
    return image[:, :, ::-1].copy()


def quarter_turn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by 90 or 270 degrees."""
    return np.rot90(image, int(rng.choice([1, 3])), axes=(1, 2)).copy()


def rotation(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by 5 degrees, either way, the border reflected."""
    return _turn(image, 5.0 * rng.choice([-1, 1]))


def crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out a square of 0.9 of the side, anywhere, and enlarge it to the whole."""
    return _crop(image, 0.9, rng)


def shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Move by up to 4 px (of 64) along both axes, the border reflected."""
    by = rng.uniform(-4, 4, 2) * image.shape[1] / 64
    return _channels(lambda x: ndimage.shift(x, by, order=1, mode="reflect"), image)


def intensity(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change gamma (0.7 to 1.4), contrast (0.8 to 1.2) and brightness (up to 0.1 of white)."""
    unit = ((image + 1) / 2) ** rng.uniform(0.7, 1.4)
    unit = (unit - 0.5) * rng.uniform(0.8, 1.2) + 0.5 + rng.uniform(-0.1, 0.1)
    return _clip(unit * 2 - 1)


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise with a standard deviation of 0.06 of white."""
    return _clip(image + 0.12 * rng.standard_normal(image.shape))


def jpeg(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write and read it as JPEG of quality 20 to 50."""
    return _jpeg(image, int(rng.integers(20, 51)))


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian of 1 px (of 64)."""
    return _channels(lambda x: ndimage.gaussian_filter(x, x.shape[0] / 64), image)


def elastic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bend it by a smooth random field of 1 px (of 64) root mean square along each axis."""
    side = image.shape[1]
    field = [ndimage.gaussian_filter(rng.standard_normal((side, side)), side / 12) for _ in "yx"]
    bent = [f / f.std() * side / 64 for f in field]
    grid = np.mgrid[:side, :side] + np.stack(bent)
    return _channels(lambda x: ndimage.map_coordinates(x, grid, order=1, mode="reflect"), image)


def negative(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exchange black and white, as MONOCHROME1 does; planted only where a domain has negatives."""
    return -image


def combined(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror, crop, turn by 3 degrees, change intensity, blur a little, write as JPEG: together."""
    image = _turn(_crop(flip(image, rng), 0.92, rng), 3.0 * rng.choice([-1, 1]))
    image = _channels(lambda x: ndimage.gaussian_filter(x, 0.5 * x.shape[0] / 64), image)
    return _jpeg(intensity(image, rng), 50)


CHANGES: Mapping[str, Change] = {
    "exact": exact,
    "flip": flip,
    "quarter_turn": quarter_turn,
    "rotation": rotation,
    "crop": crop,
    "shift": shift,
    "intensity": intensity,
    "noise": noise,
    "jpeg": jpeg,
    "blur": blur,
    "elastic": elastic,
    "combined": combined,
}
NEEDS: Mapping[str, tuple[Symmetry, ...]] = {
    "flip": ("flip", "flips and rotations"),
    "quarter_turn": ("rotations", "flips and rotations"),
    "combined": ("flip", "flips and rotations"),
}


def changes(symmetry: Symmetry) -> dict[str, Change]:
    """Return the changes under which a copy is looked for in a domain with these symmetries."""
    return {
        name: change
        for name, change in CHANGES.items()
        if name not in NEEDS or symmetry in NEEDS[name]
    }


def plant(images: np.ndarray, change: Change, seed: int) -> np.ndarray:
    """Return (N, C, H, W) copies, each changed with random numbers of its own."""
    children = np.random.SeedSequence(seed).spawn(len(images))
    copies = [
        change(image, np.random.default_rng(child))
        for image, child in zip(images, children, strict=True)
    ]
    return np.stack(copies).astype(np.float32)


def _channels(change: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    return _clip(np.stack([change(channel) for channel in image]))


def _clip(image: np.ndarray) -> np.ndarray:
    return np.clip(image, -1, 1).astype(np.float32)


def _turn(image: np.ndarray, degrees: float) -> np.ndarray:
    turn = {"reshape": False, "order": 1, "mode": "reflect"}
    return _channels(lambda x: ndimage.rotate(x, degrees, **turn), image)


def _crop(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    side = image.shape[1]
    top, left = rng.uniform(0, (1 - share) * (side - 1), 2)
    rows, columns = (start + share * np.arange(side) for start in (top, left))
    grid = np.meshgrid(rows, columns, indexing="ij")
    return _channels(lambda x: ndimage.map_coordinates(x, grid, order=1, mode="nearest"), image)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    eight_bit = np.rint((image + 1) * 127.5).astype(np.uint8)
    picture = Image.fromarray(eight_bit[0] if len(eight_bit) == 1 else eight_bit.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    back = np.asarray(Image.open(buffer), np.float32) / 127.5 - 1
    return back[None] if back.ndim == 2 else back.transpose(2, 0, 1).copy()
