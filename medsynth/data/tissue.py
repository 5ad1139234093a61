"""What of a slide is tissue, what is pen, and what is out of focus: pure functions on pixels.

Stain is told from glass by optical density, the logarithm in which stains add up (Beer, Lambert;
Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291). Dust, shadows, bubbles and folds of the
coverslip are grey, they darken all channels alike; a stain does not, so that the spread of the
density over the channels is what tissue is found by. CLAM finds it by HSV saturation for the same
reason; grey level alone, as in TIAToolbox's OtsuTissueMasker, takes shadows for tissue.

Pens are told by colours that haematoxylin, eosin and DAB can't mix: ink that absorbs red far more
than green (blue, green and teal pens) or green least of all; red that hardly absorbs red; black
without a tint. The bars lie where none of 30 H&E fields of 8 organs and one DAB slide has more
than a trace of it. A dark blue pen has the colour of haematoxylin and passes as tissue; so may a
wine red one, which has the colour of blood. Trichrome and Alcian blue are taken for pens.

Focus is the share of detail near the finest scale: gradients of the image against gradients of
the image at half its size (a ratio, so that a pale stain is not taken for blur, as it is by the
variance of the Laplacian or HistoQC's mean of it, with its bar for each stain and scanner).
"""

from __future__ import annotations

import numpy as np

FAINTEST, STRONGEST = 0.05, 0.15  # where Otsu's threshold may lie, in optical density
GLASS_TINT, GLASS_BRIGHTNESS = 0.08, 0.75
PALEST_PEN = 0.35  # optical density; paler lines are not told from a pale stain
SHARPEST_BLUR = 0.16  # tiles blurred by 2 px have less; sharp ones down to a soft 40x scan more
BAND = 16
NOISE = 2.0  # grey levels squared: gradients that sensor noise and JPEG leave on empty glass


def tissue_mask(pixels: np.ndarray, *, least_px: int = 1) -> np.ndarray:
    """Return where an overview (H, W, 3) uint8 shows tissue, (H, W) bool.

    Otsu's threshold of the stain decides within bounds: without them a slide that is all glass, or
    all tissue, would be split in the middle of itself. Specks and holes of fewer than `least_px`
    pixels are dropped and filled.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_otsu

    stain = gaussian_filter(_stain(pixels), 1)
    mask = stain > np.clip(threshold_otsu(stain), FAINTEST, STRONGEST)
    return ~_without_specks(~_without_specks(mask, least_px), least_px)


def pen_mask(pixels: np.ndarray) -> np.ndarray:
    """Return where (H, W, 3) uint8 is the ink of a pen, (H, W) bool.

    For averages over some 5 to 20 um, so that neither a nucleus nor a red cell counts alone.
    """
    red, green, blue = np.moveaxis(_density(pixels), -1, 0)
    most = np.maximum(np.maximum(red, green), blue)
    least = np.minimum(np.minimum(red, green), blue)
    cold = (red - green > 0.2 * most) | (np.minimum(red, blue) - green > 0.06 * most)
    warm = (green > 1.0) & (red < 0.2 * green) & (blue > 0.78 * green) & (blue < 1.3 * green)
    black = (least > 1.1) & (most - least < 0.2 * most)
    return (cold & (most > PALEST_PEN)) | warm | black


def sharpness(grey: np.ndarray) -> float:
    """Return how much of the detail in (H, W) grey levels, 0 to 255, lies near one pixel; H and W
    are at least 16.

    0 where nothing is finer than a few pixels, 1 and more where much is; below 0 where there is
    no detail at all. Blurring by a Gaussian of 1 px brings a sharp tile near 0.2, of 2 px below
    0.16.
    """
    bands = _bands(grey)
    rows = bands[:, ::2] + bands[:, 1::2]
    halved = (rows[..., ::2] + rows[..., 1::2]) / 4
    finer = max(_gradients(bands) - NOISE, 0)
    coarser = max(_gradients(halved) - NOISE / 4, 1)
    return 4 * finer / coarser - 1


def is_blurred(grey: np.ndarray) -> bool:
    """Return True for (H, W) grey levels, 0 to 255, out of focus or without any detail."""
    return sharpness(grey) < SHARPEST_BLUR


def _density(pixels: np.ndarray) -> np.ndarray:
    """Optical density a channel: 0 is the white of 8 bits, 1 lets 1 / e of the light through."""
    table = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
    return table[pixels]


def _stain(pixels: np.ndarray) -> np.ndarray:
    """How unlike the channels' densities are, beyond those of this slide's glass."""
    density = _density(pixels) - _density(_glass(pixels))
    return np.ptp(density, axis=-1)


def _glass(pixels: np.ndarray) -> np.ndarray:
    """The colour of empty glass, (3,) uint8: of the brightest 2 %, or white if those are stained.

    Lamps and glass may tint a slide a little; a slide without any glass has its palest tissue
    there, which must not become the zero of its stain.
    """
    green = pixels[..., 1]
    colour = np.median(pixels[green >= np.percentile(green, 98)], axis=0).astype(np.uint8)
    tinted = np.ptp(_density(colour)) > GLASS_TINT or colour.min() < 255 * GLASS_BRIGHTNESS
    return np.full(3, 255, np.uint8) if tinted else colour


def _without_specks(mask: np.ndarray, least_px: int) -> np.ndarray:
    from scipy.ndimage import label

    parts, _ = label(mask)
    large = np.bincount(parts.ravel()) >= least_px
    large[0] = False
    return large[parts]


def _bands(grey: np.ndarray) -> np.ndarray:
    """Every other band of BAND rows, (bands, BAND, W) float32: enough to judge focus by."""
    height, width = len(grey) // BAND * BAND, grey.shape[1] // 2 * 2
    return grey[:height, :width].reshape(-1, BAND, width)[::2].astype(np.float32)


def _gradients(bands: np.ndarray) -> float:
    """Mean squared difference of neighbours, across plus down."""
    across = (bands[..., 1:] - bands[..., :-1]).reshape(-1)
    down = (bands[:, 1:] - bands[:, :-1]).reshape(-1)
    return float(across @ across) / across.size + float(down @ down) / down.size
