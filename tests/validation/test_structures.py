"""Structures before and after: identity keeps all, blur by its closed form, both ends."""

from __future__ import annotations

import numpy as np
import pytest
from known_truth import cohort
from scipy import ndimage

from medsynth.data import phantoms
from medsynth.validation import structures
from medsynth.validation.structures import compare_structures, described, matched

FUNDUS = cohort(range(4)).floats()
LOOKS = ("optic disc", "vessels", "lesions", "nuclei")
TISSUE = np.stack([phantoms.draw("histology", p, 0, 5, 128)[0] for p in range(3)])
TISSUE = TISSUE.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
SLOPES = ("kept.edges", "kept.vessels", "kept.spots", "kept.detail")


def slopes(found: dict) -> dict:
    return {name: values for name, values in found.items() if name.startswith(SLOPES)}


def test_identity_keeps_everything():
    found = compare_structures(FUNDUS, FUNDUS, LOOKS)
    assert {"kept.edges", "kept.vessels", "kept.spots", "kept.nuclei"} < found.keys()
    for name, values in found.items():
        wanted = 0 if name == "kept.nuclei_made_up" else 1
        assert values == pytest.approx(np.full(4, wanted)), name


def test_an_empty_image_keeps_nothing():
    for name, values in slopes(compare_structures(FUNDUS, 0 * FUNDUS + 0.3, LOOKS)).items():
        assert values == pytest.approx(np.zeros(4), abs=1e-6), name


def test_half_the_contrast_is_a_half_in_every_slope_and_a_quarter_of_the_power():
    found = compare_structures(FUNDUS, 0.5 * FUNDUS - 0.2, LOOKS)
    for name, values in slopes(found).items():
        assert values == pytest.approx(np.full(4, 0.5), abs=1e-5), name
    assert found["kept.power.2_4_px"] == pytest.approx(np.full(4, 0.25), abs=1e-5)


def test_half_the_saturation_is_a_half_of_the_colour_and_the_rest_stays():
    mean = FUNDUS.mean(1, keepdims=True)
    found = compare_structures(FUNDUS, mean + (FUNDUS - mean) / 2, LOOKS)
    assert found["kept.colour"] == pytest.approx(np.full(4, 0.5), abs=1e-5)
    assert found["kept.edges"] == pytest.approx(np.ones(4), abs=1e-5)
    grey = FUNDUS[:, :1]
    assert "kept.colour" not in compare_structures(grey, grey, LOOKS)


def test_what_a_blur_takes_from_an_octave_follows_from_its_width():
    noise = np.random.default_rng(0).standard_normal((4, 1, 128, 128)).astype(np.float32) / 4
    sigma = 1.2
    blurred = ndimage.gaussian_filter(noise, (0, 0, sigma, sigma), mode="wrap", truncate=8)
    found = structures.octaves(noise, blurred)
    for low in (4, 8):
        f = np.linspace(1 / (2 * low), 1 / low, 2001)
        gain = np.exp(-2 * (np.pi * sigma * f) ** 2)
        wanted = [(gain**k * f).sum() / f.sum() for k in (1, 2)]  # as many waves as f is long
        band = f"{low}_{2 * low}_px"
        assert found[f"kept.detail.{band}"].mean() == pytest.approx(wanted[0], rel=0.03)
        assert found[f"kept.power.{band}"].mean() == pytest.approx(wanted[1], rel=0.05)


def test_detail_that_is_made_up_raises_the_power_and_not_the_slope():
    rng = np.random.default_rng(0)
    grain = [rng.standard_normal((4, 1, 64, 64)).astype(np.float32) / 4 for _ in range(2)]
    found = structures.octaves(grain[0], grain[1])
    assert found["kept.power.2_4_px"] == pytest.approx(np.ones(4), abs=0.2)
    assert found["kept.detail.2_4_px"] == pytest.approx(np.zeros(4), abs=0.15)


def test_the_octaves_of_a_size_end_at_an_eighth_of_it():
    assert structures.octave_starts(64) == [2, 4, 8]
    assert structures.octave_starts(512) == [2, 4, 8, 16, 32, 64]


def test_more_blur_keeps_less_of_every_structure():
    found = [
        slopes(compare_structures(FUNDUS, ndimage.gaussian_filter(FUNDUS, (0, 0, s, s)), LOOKS))
        for s in (0.5, 1.0, 2.0)
    ]
    for name in found[0]:
        means = [one[name].mean() for one in found]
        assert means[0] > means[1] > means[2], name


def test_the_black_surround_and_its_rim_do_not_count():
    y, x = np.mgrid[:64, :64] - 31.5
    image = np.where(np.hypot(x, y) < 28, np.sin(x) / 4, -1.0).astype(np.float32)[None, None]
    inside = structures.field_of_view(image)
    assert inside[0, 32, 32]
    assert not inside[0][np.hypot(x, y) > 26].any()
    spoilt = np.where(np.hypot(x, y) < 28, image, 0)  # all that is lost lies outside
    assert structures.edges(image, spoilt, inside)[0] > 0.9


def test_an_image_without_any_structure_gives_no_number():
    flat = np.zeros((2, 3, 64, 64), np.float32)
    for name, values in compare_structures(flat, flat, LOOKS).items():
        assert np.isnan(values).all(), name


def test_vessels_are_seen_where_they_are_and_not_where_there_are_none():
    line = np.full((1, 3, 64, 64), 0.4, np.float32)
    line[:, :, :, 30:33] = -0.2
    line += np.random.default_rng(0).normal(0, 0.01, line.shape).astype(np.float32)
    rubbed_out = line.copy()
    rubbed_out[:, :, :, 30:33] = line[:, :, :, 40:43]
    inside = np.ones((1, 64, 64), bool)
    assert structures.vessels(line, rubbed_out, inside)["kept.vessels"][0] < 0.1
    inside[:, :, 20:44] = False  # nothing but noise is left, and that is kept
    kept = structures.vessels(line, rubbed_out, inside)["kept.vessels"][0]
    assert kept == pytest.approx(1, abs=0.1)


def draw_nuclei(places) -> np.ndarray:
    y, x = np.mgrid[:96, :96]
    density = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in places)
    stain = np.array([0.65, 0.70, 0.29]).reshape(3, 1, 1)  # haematoxylin's own colour
    return (2 * 0.9 * np.exp(-1.2 * stain * density) - 1).astype(np.float32)[None]


def test_nuclei_are_counted_lost_and_made_up():
    there = [(20, 20), (20, 60), (60, 20), (70, 70)]
    before = draw_nuclei(there)
    after = draw_nuclei([*there[:3], (45, 45), (80, 40)])
    found = structures.nuclei(before, after, np.ones((1, 96, 96), bool))
    assert found["kept.nuclei"] == pytest.approx([0.75])
    assert found["kept.nuclei_made_up"] == pytest.approx([0.4])
    assert found["kept.nuclei_count"] == pytest.approx([1.25])


def test_a_nucleus_stands_for_one_other_alone():
    first = np.array([[10.0, 10, 5], [13, 10, 5]])
    assert matched(first, np.array([[11.0, 10, 5]])) == 1
    assert matched(first, np.array([[11.0, 10, 5], [12, 10, 5]])) == 2
    assert matched(first, np.array([[30.0, 10, 5]])) == 0


def test_nuclei_of_drawn_tissue_are_lost_in_a_blur():
    inside = np.ones((3, 128, 128), bool)
    same = structures.nuclei(TISSUE, TISSUE, inside)["kept.nuclei"]
    blurred = ndimage.gaussian_filter(TISSUE, (0, 0, 8, 8))
    lost = structures.nuclei(TISSUE, blurred, inside)["kept.nuclei"]
    assert (same == 1).all()
    assert (lost < 0.5).all()


def test_every_name_is_described():
    for name in compare_structures(FUNDUS, FUNDUS, LOOKS):
        unit, direction, method = described(name)
        assert unit
        assert method
        assert direction in ("higher is better", "lower is better", "neither")
    assert "waves of 2 to 4 px" in described("kept.detail.2_4_px")[2]
