"""What a doctor looks at, before and after: edges, octaves of detail, vessels, spots, nuclei.

A filter finds a structure in the original alone; its answer there is then compared with its answer
at the same places of the reconstruction. The share kept is the slope of the second on the first,
sum(before * after) / sum(before^2): 1 = as strong as it was, 0 = gone, 0.5 = half the contrast,
above 1 = exaggerated. An image in which there is nothing to find gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage, optimize

from ..finding import Direction

BLACK = 0.08  # of white: what surrounds a field of view
STRONGEST = 0.1  # share of the pixels that count as edges, or as vessels
SPOTS = 20  # an image
FAINTEST = 1e-3  # density of stain that is any
GREEN = 1

Images = np.ndarray
"""(N, C, H, W) float32 in [-1, 1]."""

Described = tuple[str, Direction, str]
SHARE = "1 = kept"
DESCRIBED: dict[str, Described] = {
    "kept.edges": (
        SHARE,
        "higher is better",
        "slope of the gradient at the original's strongest 10 % (Gaussian derivative, 1 px)",
    ),
    "kept.colour": (
        SHARE,
        "higher is better",
        "slope of each channel's difference from their mean: hue and saturation",
    ),
    "kept.vessels": (
        SHARE,
        "higher is better",
        "slope of the answer of a filter for dark ridges (Sato) at the original's strongest 10 %, "
        "green channel",
    ),
    "kept.spots": (
        SHARE,
        "higher is better",
        f"slope of a difference of Gaussians at the original's {SPOTS} strongest spots, dark or "
        f"bright: what lesions and nodules are to a filter",
    ),
    "kept.nuclei": (
        "share of nuclei",
        "higher is better",
        "blobs of haematoxylin (colour deconvolution) that are found again at the same place",
    ),
    "kept.nuclei_made_up": (
        "share of nuclei",
        "lower is better",
        "blobs of haematoxylin in the reconstruction that the original does not have",
    ),
    "kept.nuclei_count": (
        "1 = as many",
        "neither",
        "blobs of haematoxylin, reconstruction over original",
    ),
}


def compare_structures(before: Images, after: Images, wanted: tuple[str, ...]) -> dict:
    """Compare images one by one: {name: (N,)} of edges, octaves, and what a domain looks at.

    `wanted` are the domain's structures, of which `LOOKED_FOR` has some.
    """
    inside = field_of_view(before)
    found = {"kept.edges": edges(before, after, inside), **octaves(before, after)}
    if before.shape[1] > 1:
        found["kept.colour"] = colour(before, after, inside)
    for look in dict.fromkeys(LOOKED_FOR[name] for name in wanted if name in LOOKED_FOR):
        found |= look(before, after, inside)
    return found


def described(name: str) -> Described:
    """Return (unit, direction, method) of one of the names that `compare_structures` gives."""
    if name in DESCRIBED:
        return DESCRIBED[name]
    kind, _, band = name.removeprefix("kept.").partition(".")
    said = f"waves of {band.replace('_px', ' px').replace('_', ' to ')}, Hann window"
    if kind == "power":
        return "1 = as much", "neither", f"power of the reconstruction over the original's: {said}"
    return SHARE, "higher is better", f"slope of the spectrum on the original's: {said}"


def field_of_view(images: Images) -> np.ndarray:
    """Return (N, H, W) bool: not the black surround nor within a twentieth of a side of it."""
    reach = max(1, images.shape[-1] // 20)
    lit = (images.max(1) + 1) / 2 > BLACK
    masks = (ndimage.binary_fill_holes(one) for one in lit)
    return np.stack([ndimage.binary_erosion(m, iterations=reach, border_value=1) for m in masks])


def slope(before: np.ndarray, after: np.ndarray) -> float:
    """Return sum(before * after) / sum(before^2), NaN where `before` is nothing."""
    power = float((before.astype(np.float64) ** 2).sum())
    return float((before * after).sum(dtype=np.float64)) / power if power > 1e-12 else np.nan


# Edges and octaves --------------------------------------------------------------------------------


def edges(before: Images, after: Images, inside: np.ndarray) -> np.ndarray:
    """Return (N,) how much of the strongest edges' gradient is kept."""
    gradients = [
        np.stack([_derivative(grey(x), axis) for axis in (1, 2)], 1) for x in (before, after)
    ]
    strength = np.hypot(*gradients[0].transpose(1, 0, 2, 3))
    chosen = (_strongest(one, mask) for one, mask in zip(strength, inside, strict=True))
    return np.array(
        [slope(b[:, at], a[:, at]) for b, a, at in zip(*gradients, chosen, strict=True)]
    )


def colour(before: Images, after: Images, inside: np.ndarray) -> np.ndarray:
    """Return (N,) how much of the channels' difference from their mean is kept."""
    parts = [x - x.mean(1, keepdims=True) for x in (before, after)]
    return np.array([slope(b[:, at], a[:, at]) for b, a, at in zip(*parts, inside, strict=True)])


def _derivative(images: np.ndarray, axis: int) -> np.ndarray:
    order = [0, 0, 0]
    order[axis] = 1
    return ndimage.gaussian_filter(images, (0, 1, 1), order=order, mode="nearest")


def _strongest(answer: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the strongest tenth of a filter's answer in the field of view."""
    if not inside.any():
        return inside
    return inside & (answer >= np.quantile(answer[inside], 1 - STRONGEST)) & (answer > 0)


def grey(images: Images) -> np.ndarray:
    """Return (N, H, W) the mean of the channels."""
    return images.mean(1)


def octaves(before: Images, after: Images) -> dict[str, np.ndarray]:
    """Return, for each octave of wavelengths, the slope of the spectrum and the ratio of powers.

    Detail that is made up raises the power and not the slope; a blur lowers both.
    """
    size = before.shape[-1]
    spectra = [_spectrum(images) for images in (before, after)]
    wave = 1 / np.maximum(_frequency(size), 1e-9)
    found = {}
    for low in octave_starts(size):
        at = (wave >= low) & (wave < 2 * low)
        b, a = (spectrum[..., at].reshape(len(spectrum), -1) for spectrum in spectra)
        power = (np.abs(b) ** 2).sum(1)
        power[power <= 1e-12] = np.nan
        found[f"kept.detail.{low}_{2 * low}_px"] = (b.conj() * a).real.sum(1) / power
        found[f"kept.power.{low}_{2 * low}_px"] = (np.abs(a) ** 2).sum(1) / power
    return found


def octave_starts(size_px: int) -> list[int]:
    """Return the shortest wave of each octave in pixels, from 2 to an eighth of a side."""
    return [2**k for k in range(1, 12) if 2**k <= size_px // 8]


def _spectrum(images: Images) -> np.ndarray:
    window = np.hanning(images.shape[-1] + 1)[:-1]
    window = np.outer(window, window)
    mean = (images * window).sum((2, 3), keepdims=True) / window.sum()
    return np.fft.fft2((images - mean) * window)


def _frequency(size: int) -> np.ndarray:
    f = np.fft.fftfreq(size)
    return np.hypot(f[:, None], f[None, :])


# Structures ---------------------------------------------------------------------------------------


def vessels(before: Images, after: Images, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Return how much of the contrast of dark ridges is kept, in the green channel.

    Source of the filter: Sato et al., Med. Image Anal. 2 (1998).
    """
    from skimage.filters import sato

    widths = np.geomspace(1.0, max(2.0, before.shape[-1] / 200), 3)
    channel = min(GREEN, before.shape[1] - 1)
    values = []
    for b, a, mask in zip(before[:, channel], after[:, channel], inside, strict=True):
        answers = [sato(x, sigmas=widths, black_ridges=True, mode="reflect") for x in (b, a)]
        at = _strongest(answers[0], mask)
        values.append(slope(answers[0][at], answers[1][at]))
    return {"kept.vessels": np.array(values)}


def spots(before: Images, after: Images, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Return how much of the contrast of the strongest small spots is kept."""
    sizes = [2.0**k for k in range(8) if 2**k <= max(1, before.shape[-1] // 32)]
    values = []
    for b, a, mask in zip(grey(before), grey(after), inside, strict=True):
        answers = np.stack([[_stand_out(x, sigma) for sigma in sizes] for x in (b, a)])
        strength = np.abs(answers[0])
        peak = (ndimage.maximum_filter(strength, size=3) == strength) & mask & (strength > 0)
        places = np.flatnonzero(peak)
        best = places[np.argsort(-strength.ravel()[places], kind="stable")[:SPOTS]]
        values.append(slope(*(answer.ravel()[best] for answer in answers)))
    return {"kept.spots": np.array(values)}


def _stand_out(image: np.ndarray, sigma: float) -> np.ndarray:
    """Return what stands out at a size: a difference of Gaussians, which no brightness moves."""
    wide = image.astype(np.float64)
    return ndimage.gaussian_filter(wide, sigma) - ndimage.gaussian_filter(wide, 1.6 * sigma)


def nuclei(before: Images, after: Images, inside: np.ndarray) -> dict[str, np.ndarray]:
    """Return how many nuclei are found again, are made up, and how many there are after all."""
    rows = [_count_nuclei(*pair) for pair in zip(before, after, strict=True)]
    names = ("kept.nuclei", "kept.nuclei_made_up", "kept.nuclei_count")
    return dict(zip(names, np.array(rows, float).reshape(-1, 3).T, strict=True))


def _count_nuclei(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    stains = [haematoxylin(image) for image in (before, after)]
    low, high = np.quantile(stains[0], [0.5, 0.95])
    if high - low < FAINTEST:
        return np.nan, np.nan, np.nan
    first, second = (find_blobs(stain, threshold=0.25 * (high - low)) for stain in stains)
    if len(first) == 0:
        return np.nan, np.nan, np.nan
    same = matched(first, second)
    made_up = 1 - same / len(second) if len(second) else 0.0
    return same / len(first), made_up, len(second) / len(first)


def haematoxylin(image: np.ndarray) -> np.ndarray:
    """Return the density (H, W) of haematoxylin in a (3, H, W) image.

    Source of the stains: Ruifrok and Johnston, Anal. Quant. Cytol. Histol. 23 (2001).
    """
    from skimage.color import rgb2hed

    if len(image) != 3:
        return 1 - (image.mean(0) + 1) / 2
    return rgb2hed(np.clip((image.transpose(1, 2, 0) + 1) / 2, 0, 1))[..., 0]


def find_blobs(density: np.ndarray, *, threshold: float) -> np.ndarray:
    """Return (K, 3) blobs: y, x and radius in pixels; radii from 2 px to a twelfth of a side."""
    from skimage.feature import blob_log

    largest = max(2.0, density.shape[-1] / 12 / np.sqrt(2))
    found = blob_log(
        density, min_sigma=np.sqrt(2), max_sigma=largest, num_sigma=5, log_scale=True,
        threshold=max(threshold, 1e-9), overlap=0.5,
    )  # fmt: skip
    return np.column_stack([found[:, :2], np.sqrt(2) * found[:, 2]])


def matched(first: np.ndarray, second: np.ndarray) -> int:
    """Return how many blobs of `first` (K, 3) have one of `second` within their radius, each of
    which stands for one alone."""
    if not len(first) or not len(second):
        return 0
    apart = np.hypot(*(first[:, None, axis] - second[None, :, axis] for axis in (0, 1)))
    near = apart <= first[:, 2:]
    rows, columns = optimize.linear_sum_assignment(np.where(near, apart - 1e6, 0.0))
    return int(near[rows, columns].sum())


LOOKED_FOR: Mapping[str, Callable[[Images, Images, np.ndarray], dict[str, np.ndarray]]] = {
    "vessels": vessels,
    "lesions": spots,
    "opacities": spots,
    "nuclei": nuclei,
}
"""What is measured for a structure that a domain names; there is no measure for the others."""
