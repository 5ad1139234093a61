"""Tissue against glass, ink against stain, focus against blur."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from made_slides import glass, shrunk, tissue_tiles
from PIL import Image
from scipy.ndimage import gaussian_filter

from medsynth.data.tissue import is_blurred, pen_mask, sharpness, tissue_mask

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "histology" / "monuseg" / "images"
INKS = {
    "blue": (37, 95, 160),
    "light blue": (60, 120, 190),
    "navy": (30, 65, 130),
    "teal": (45, 115, 100),
    "green": (0, 140, 70),
    "olive": (50, 60, 40),
    "red": (220, 40, 50),
    "bright red": (230, 60, 80),
    "black": (20, 20, 25),
    "grey black": (60, 60, 65),
}


def ihc() -> np.ndarray:
    """Brown DAB beside blue haematoxylin, (512, 512, 3)."""
    from skimage.data import immunohistochemistry

    return immunohistochemistry()


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blurred(pixels: np.ndarray, sigma: float) -> np.ndarray:
    return np.round(gaussian_filter(pixels.astype(float), (sigma, sigma, 0))).astype(np.uint8)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """Sixteen phantom tiles in a square, (1024, 1024, 3)."""
    tiles = tissue_tiles(16, 256)
    return np.concatenate([np.concatenate(tiles[n : n + 4], axis=1) for n in (0, 4, 8, 12)])


@pytest.fixture(scope="module")
def overview(tissue) -> tuple[np.ndarray, np.ndarray]:
    """A disc of tissue on glass at an eighth, and where it is."""
    small = shrunk(tissue, 8)
    y, x = np.mgrid[:128, :128] - 63.5
    disc = y**2 + x**2 < 40**2
    pixels = glass(128, 128)
    pixels[disc] = small[disc]
    return pixels, disc


# Tissue -----------------------------------------------------------------------------------------


def rates(found: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    return found[truth].mean(), 1 - found[~truth].mean()


def test_tissue_is_found_and_glass_is_not(overview):
    pixels, disc = overview
    sensitivity, specificity = rates(tissue_mask(pixels, least_px=64), disc)
    assert sensitivity > 0.98
    assert specificity > 0.97  # a rim of one pixel is 2.4 % of the glass


def test_a_slide_that_is_all_tissue_is_not_split(tissue):
    assert tissue_mask(shrunk(tissue, 8), least_px=64).mean() > 0.99


def test_a_slide_that_is_all_glass_has_no_tissue():
    assert not tissue_mask(glass(128, 128)).any()


def test_a_pale_stain_is_found(overview):
    pixels, disc = overview
    pale = np.round(255 - (255 - pixels.astype(float)) * 0.5).astype(np.uint8)
    sensitivity, specificity = rates(tissue_mask(pale, least_px=64), disc)
    assert sensitivity > 0.98
    assert specificity > 0.97


def test_a_yellow_lamp_does_not_stain_the_glass(overview):
    pixels, disc = overview
    yellow = np.round(pixels * [1, 0.98, 0.93]).astype(np.uint8)
    sensitivity, specificity = rates(tissue_mask(yellow, least_px=64), disc)
    assert sensitivity > 0.98
    assert specificity > 0.97


def test_a_shadow_is_no_tissue(overview):
    pixels, disc = overview
    shadowed = pixels.copy()
    shadowed[:20] = np.round(pixels[:20] * 0.6).astype(np.uint8)
    _, specificity = rates(tissue_mask(shadowed, least_px=64), disc)
    assert specificity > 0.97


def test_specks_are_dropped_and_holes_are_filled(overview):
    pixels = overview[0].copy()
    pixels[2:6, 2:6] = (180, 80, 150)
    pixels[62:66, 62:66] = 243
    found = tissue_mask(pixels, least_px=64)
    assert not found[:10, :10].any()
    assert found[60:68, 60:68].all()
    assert tissue_mask(pixels)[2:6, 2:6].all(), "it was there before"


# Pens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS)
def test_the_ink_of_a_pen_is_found_on_glass(ink):
    pixels = glass(32, 32)
    pixels[8:24] = ink
    found = pen_mask(pixels)
    assert found[8:24].all()
    assert not found[:8].any()


@pytest.mark.parametrize("ink", ["blue", "green", "black"])
def test_see_through_ink_over_tissue_is_found(tissue, ink):
    small = shrunk(tissue, 16)
    inked = np.round(small * (np.array(INKS[ink]) / 255)).astype(np.uint8)
    assert pen_mask(inked).mean() > 0.9


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_no_stain_of_the_phantoms_is_taken_for_ink(tissue, factor):
    assert not pen_mask(shrunk(tissue, factor)).any()


@pytest.mark.parametrize("factor", [4, 8, 16])
def test_neither_brown_dab_nor_blue_nuclei_are_taken_for_ink(factor):
    assert not pen_mask(shrunk(ihc(), factor)).any()


@pytest.mark.skipif(not REAL.is_dir(), reason="no real H&E fields on this machine")
def test_no_real_field_is_taken_for_ink():
    shares = [
        pen_mask(np.asarray(Image.open(path).convert("RGB").reduce(16))).mean()
        for path in sorted(REAL.iterdir())
    ]
    assert len(shares) == 30
    assert max(shares) < 0.005


# Focus ------------------------------------------------------------------------------------------


def fields() -> dict[str, np.ndarray]:
    phantoms = {f"phantom {number}": tile for number, tile in enumerate(tissue_tiles(8, 256))}
    stained = ihc()
    quarters = {f"ihc {y} {x}": stained[y:][:256, x:][:, :256] for y in (0, 256) for x in (0, 256)}
    return phantoms | quarters


@pytest.mark.parametrize("quality", [50, 90])
def test_tiles_in_focus_are_kept(quality):
    assert [
        name for name, tile in fields().items() if is_blurred(grey(as_jpeg(tile, quality)))
    ] == []


@pytest.mark.parametrize("sigma", [2.5, 4, 8])
@pytest.mark.parametrize("quality", [75, 90])
def test_tiles_out_of_focus_are_rejected(sigma, quality):
    sharp = [
        name
        for name, tile in fields().items()
        if not is_blurred(grey(as_jpeg(blurred(tile, sigma), quality)))
    ]
    assert sharp == []


@pytest.mark.skipif(not REAL.is_dir(), reason="no real H&E fields on this machine")
def test_real_fields_are_kept_and_rejected_once_they_are_blurred():
    tiles = [
        np.asarray(Image.open(path).convert("RGB").reduce(shrink))[100:356, 100:356]
        for path in sorted(REAL.iterdir())
        for shrink in (1, 2)  # 0.25 and 0.5 um a pixel
    ]
    assert sum(is_blurred(grey(tile)) for tile in tiles) == 0
    late = [is_blurred(grey(as_jpeg(blurred(tile, 2.5), 80))) for tile in tiles]
    assert np.mean(late) == 1


def test_sharpness_falls_with_every_blur_and_not_with_the_stain():
    tile = tissue_tiles(1, 256)[0]
    values = [sharpness(grey(blurred(tile, sigma))) for sigma in (0, 0.7, 1, 1.5, 2, 3)]
    assert values == sorted(values, reverse=True)
    pale = grey(tile) * 0.5 + 120
    assert sharpness(pale) == pytest.approx(values[0], rel=0.1)


def test_sharpness_of_noise_and_of_a_slope_is_as_worked_out_by_hand():
    noise = np.random.default_rng(0).normal(0, 40, (512, 512))
    assert sharpness(noise) == pytest.approx(15, rel=0.05)  # 4 x var / var(mean of 4) - 1
    slope = np.add.outer(np.arange(256.0), np.zeros(256)) * 20
    assert sharpness(slope) == pytest.approx(0, abs=0.02)


def test_a_tile_without_detail_is_out_of_focus():
    assert is_blurred(np.full((64, 64), 120, np.uint8))
    assert is_blurred(grey(glass(64, 64)))
