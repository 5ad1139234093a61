"""At which size of detail does an autoencoder go blind?

A detail of known size and contrast, such as a microaneurysm, is planted into real images: every
image goes through with it and without it. Two questions are asked, for each size:

*How much of its contrast is kept?* The difference of the two reconstructions, projected on the
difference of the two originals: 1 = all, 0 = none. Nothing but the detail differs, so neither
anatomy nor noise plays a part.

*Would it be found?* A matched filter is laid over that difference at the detail's place, and over
what the autoencoder gets wrong anyway: the reconstruction without the detail, less the original,
at all places. The detail is found where it answers more than 95 % of the errors do. This is an
ideal reader who knows the anatomy by heart, so that nothing but the autoencoder stands in the way.

A planted detail is a Gaussian whose full width at half its height is its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage, special

from ..runtime import derive_seed
from .resampling import Resampled
from .structures import field_of_view

SIZES_PX = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
FALSE_ALARMS = 0.05
NOTHING = 1e-4  # an answer that is rounding
WIDTHS_TO_SIGMA = 2 * math.sqrt(2 * math.log(2))

Images = np.ndarray
"""(N, C, H, W) float32 in [-1, 1]."""
Reconstruct = Callable[[Images], Images]


@dataclass(frozen=True)
class Detail:
    """What is planted: a dark one takes away `contrast` of the light in each of its channels at
    its middle, a bright one adds `contrast` of what is missing to white."""

    name: str
    contrast: tuple[float, ...]
    bright: bool = False


DETAILS = {
    "fundus": Detail("microaneurysm", (0.15, 0.4, 0.25)),
    "chest_xray": Detail("nodule", (0.2,), bright=True),
    "histology": Detail("nucleus", (0.6, 0.65, 0.3)),
}


def sizes(size_px: int) -> tuple[int, ...]:
    """Return the sizes in pixels that are planted: at most a quarter of a side."""
    return tuple(size for size in SIZES_PX if 4 * size <= size_px)


@dataclass(frozen=True, eq=False)
class Planted:
    """What came of planting: `kept` and `found` are (N, sizes), NaN where there was no place."""

    kept: np.ndarray
    found: np.ndarray


def plant_all(
    images: Images,
    reconstruct: Reconstruct,
    detail: Detail,
    *,
    numbers: Sequence[int],
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Planted:
    """Plant one detail of every size into each image, and look for it after reconstruction.

    `numbers` are the images' own: where an image's details lie depends on its number and the seed
    alone, and so is the same for every autoencoder.
    """
    widths = sizes(images.shape[-1])
    kept, found = (np.full((len(images), len(widths)), np.nan) for _ in range(2))
    for i, (image, number) in enumerate(zip(images, numbers, strict=True)):
        places = [
            place(image, size, seed=derive_seed(seed, "place", number, size)) for size in widths
        ]
        inside = field(image)
        shown = [k for k, at in enumerate(places) if at is not None]
        with_it = [plant(image, detail, widths[k], places[k]) for k in shown]
        plain, *after = reconstruct(np.stack([image, *with_it]))
        for k, before, again in zip(shown, with_it, after, strict=True):
            kept[i, k] = contrast_kept(image, before, plain, again)
            found[i, k] = is_found(
                plain - image, again - plain, detail, widths[k], places[k], inside
            )
        progress((i + 1) / len(images))
    return Planted(kept, found)


def place(image: np.ndarray, size: float, *, seed: int) -> tuple[float, float] | None:
    """Return a random place (y, x) in pixels where a detail fits into the field of view, between
    the pixels' centres; None where there is no such place."""
    rng = np.random.default_rng(seed)
    edge = math.ceil(size) + 1
    fits = field(image)
    fits[:edge], fits[-edge:], fits[:, :edge], fits[:, -edge:] = False, False, False, False
    places = np.flatnonzero(fits)
    if not len(places):
        return None
    y, x = divmod(int(rng.choice(places)), image.shape[-1])
    return y + rng.uniform(-0.5, 0.5), x + rng.uniform(-0.5, 0.5)


def field(image: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the field of view of one image (C, H, W)."""
    return field_of_view(image[None])[0]


def profile(side: int, size: float, at: tuple[float, float]) -> np.ndarray:
    """Return (side, side) a Gaussian of full width `size` at half its height, 1 at its middle,
    averaged over each pixel as a camera does."""
    sigma = size / WIDTHS_TO_SIGMA
    lines = []
    for middle in at:
        ends = (np.arange(side + 1) - 0.5 - middle) / (sigma * math.sqrt(2))
        lines.append(np.diff(special.erf(ends)) * sigma * math.sqrt(math.pi / 2))
    return np.outer(*lines)


def plant(image: np.ndarray, detail: Detail, size: float, at: tuple[float, float]) -> np.ndarray:
    """Return the image (C, H, W) in [-1, 1] with one detail; it stays within [-1, 1]."""
    shape = profile(image.shape[-1], size, at)
    share = np.array(colour(detail, len(image))).reshape(-1, 1, 1) * shape
    light = (image + 1) / 2
    light = light + share * (1 - light) if detail.bright else light * (1 - share)
    return (2 * light - 1).astype(np.float32)


def colour(detail: Detail, channels: int) -> tuple[float, ...]:
    """Return the detail's contrast in as many channels: of grey images, their mean."""
    if len(detail.contrast) == channels:
        return detail.contrast
    return (sum(detail.contrast) / len(detail.contrast),) * channels


def contrast_kept(
    image: np.ndarray, planted: np.ndarray, plain: np.ndarray, again: np.ndarray
) -> float:
    """Return the share of a detail that is in the difference of the reconstructions (C, H, W)."""
    added = (planted - image).astype(np.float64)
    return float(((again - plain) * added).sum() / (added**2).sum())


def is_found(
    error: np.ndarray,
    difference: np.ndarray,
    detail: Detail,
    size: float,
    at: tuple[float, float],
    inside: np.ndarray,
) -> bool:
    """True where a matched filter answers more to the difference that a detail makes, at its
    place, than to 95 % of the errors that the reconstruction has without it, (C, H, W) each."""
    usual = np.quantile(answer(error, detail, size)[inside], 1 - FALSE_ALARMS)
    y, x = (min(max(round(middle), 0), error.shape[-1] - 1) for middle in at)
    return bool(answer(difference, detail, size)[y, x] > max(usual, NOTHING))


def answer(image: np.ndarray, detail: Detail, size: float) -> np.ndarray:
    """Return (H, W): how much each place looks like the detail, less its surroundings."""
    weights = np.array(colour(detail, len(image))) * (1 if detail.bright else -1)
    seen = np.tensordot(weights, image.astype(np.float64), 1)
    sigma = max(size / WIDTHS_TO_SIGMA, 0.5)
    near, far = (ndimage.gaussian_filter(seen, s, mode="nearest") for s in (sigma, 2 * sigma))
    return near - far


def blind_below(widths: Sequence[float], curve: Sequence[Resampled]) -> Resampled:
    """Return the size in pixels below which less than half is kept, or found, with its draws.

    0 = even the smallest that was planted is seen, infinite = not even the largest. Between two
    sizes the curve is straight over the logarithm of the size.
    """
    known = [(w, one) for w, one in zip(widths, curve, strict=True) if one.images]
    if not known:
        return Resampled(math.nan, np.array([]), 0, 0)
    sizes_px, curve = [w for w, _ in known], [one for _, one in known]
    drawn = np.array([one.drawn for one in curve]).T
    return Resampled(
        crossing(sizes_px, [one.value for one in curve]),
        np.array([crossing(sizes_px, row) for row in drawn]),
        min(one.images for one in curve),
        min(one.patients for one in curve),
    )


def crossing(widths: Sequence[float], shares: Sequence[float], *, half: float = 0.5) -> float:
    """Return the largest size at which a curve rises through a half; 0 where it is never below,
    infinite where it is at the end."""
    if shares[-1] < half:
        return math.inf
    below = [k for k, share in enumerate(shares) if share < half]
    if not below:
        return 0.0
    k = below[-1]
    part = (half - shares[k]) / (shares[k + 1] - shares[k])
    return float(math.exp(math.log(widths[k]) + part * math.log(widths[k + 1] / widths[k])))
