from pathlib import Path

import numpy as np
import pytest

from medsynth.data.controls import extract, heat_map
from medsynth.validation.obedience import (
    RECONSTRUCTED,
    SHUFFLED,
    boundary,
    compare,
    ignored,
    measure,
)

SIDE = 64
PAGE = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()


def box(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((1, SIDE, SIDE), np.float32)
    mask[0, top : top + side, left : left + side] = 1
    return mask


def test_what_is_found_as_asked_for_is_perfect_and_nothing_is_worst():
    assert compare("canny", box(9, 9), box(9, 9)) == {
        "dice": 1.0, "boundary_f1": 1.0, "edge_distance": 0.0,
    }  # fmt: skip
    nothing = compare("canny", box(9, 9), np.zeros_like(box(9, 9)))
    assert nothing == {
        "dice": 0.0, "boundary_f1": 0.0, "edge_distance": pytest.approx(SIDE * 2**0.5),
    }  # fmt: skip


def test_where_nothing_is_asked_for_nothing_is_measured():
    for kind in ("canny", "keypoints", "soft_edges"):
        scores = compare(kind, np.zeros_like(box(9, 9)), box(9, 9))
        assert np.isnan(list(scores.values())).all()


def test_a_shifted_line_is_as_far_as_it_was_shifted_and_dice_is_the_closed_form():
    line = np.zeros((1, SIDE, SIDE), np.float32)
    line[0, 20] = 1
    for shift in (1, 2, 7):
        scores = compare("canny", line, np.roll(line, shift, 1))
        assert scores["edge_distance"] == shift
        assert scores["boundary_f1"] == (1.0 if shift == 1 else 0.0)
    shared = 15 * 20
    assert compare("mask", box(9, 9), box(14, 9))["dice"] == pytest.approx(shared / 400)


def test_a_mask_is_a_mean_over_the_classes_asked_for():
    absent = np.zeros((1, SIDE, SIDE), np.float32)
    wanted = np.concatenate([box(9, 9), box(40, 40), absent])
    found = np.concatenate([box(9, 9), absent, box(9, 9)])
    assert compare("mask", wanted, found)["dice"] == 0.5


def test_boundary_of_a_box_is_its_rim_and_of_a_line_the_line():
    assert boundary(box(9, 9)[0] > 0).sum() == 4 * 20 - 4
    assert boundary(np.eye(9, dtype=bool)).sum() == 9


def test_point_error_is_the_distance_to_the_nearest_point():
    wanted = heat_map(np.array([[10, 10], [40, 40]]), SIDE)[None]
    found = heat_map(np.array([[10, 13], [40, 36], [60, 60]]), SIDE)[None]
    assert compare("keypoints", wanted, found)["point_error"] == pytest.approx(3.5)


def test_correlation_does_not_see_contrast_but_direction():
    soft = np.random.default_rng(0).random((1, SIDE, SIDE)).astype(np.float32)
    assert compare("soft_edges", soft, 0.5 * soft)["correlation"] == pytest.approx(1, abs=1e-5)
    assert compare("soft_edges", soft, 1 - soft)["correlation"] == pytest.approx(-1, abs=1e-5)


def drawn(*, obedient: bool, kind: str = "canny"):
    """Findings on 40 boxes of 20 patients, followed within a pixel or not at all."""
    rng = np.random.default_rng(0)
    places = rng.integers(2, 40, (40, 2))
    free = rng.integers(2, 40, (3, 40, 2))
    near = places + rng.integers(0, 2, (40, 2))
    if kind == "keypoints":

        def make(at):
            return np.stack([heat_map(one[None], SIDE)[None] for one in at])
    else:

        def make(at):
            return np.stack([box(*one) for one in at])

    found = {"": make(near if obedient else free[0]), SHUFFLED: make(free[1]),
             RECONSTRUCTED: make(places)}  # fmt: skip
    return measure(
        {kind: make(places)},
        {where: {kind: maps} for where, maps in found.items()},
        patients=np.arange(40) // 2, draws=200, seed=1,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["canny", "keypoints"])
def test_an_obeyed_control_is_clear_of_the_floor_and_an_ignored_one_is_not(kind):
    good, bad = drawn(obedient=True, kind=kind), drawn(obedient=False, kind=kind)
    assert ignored(good) == []
    assert [words.split(" is ignored")[0] for words in ignored(bad)] == [kind]
    gains = [next(f for f in rows if f.name.endswith("gain")) for rows in (good, bad)]
    assert gains[0].low > 0
    assert gains[1].low < 0 < gains[1].high


@pytest.mark.parametrize("kind", ["canny", "hough", "keypoints"])
def test_what_a_filter_finds_in_noisy_squares_is_nearer_to_their_own_map(kind):
    rng = np.random.default_rng(3)
    places = rng.integers(4, 36, (16, 2))
    clean = np.stack([box(*one, side=24) for one in places]) - 0.5
    noisy = (clean + rng.normal(0, 0.05, clean.shape)).astype(np.float32)
    wanted, seen = (extract(images, [kind]) for images in (clean.astype(np.float32), noisy))
    rows = measure(
        {kind: wanted}, {"": {kind: seen}, SHUFFLED: {kind: np.roll(seen, 1, 0)}},
        patients=np.arange(16), draws=200, seed=1,
    )  # fmt: skip
    found = {finding.name.rsplit(".")[-1]: finding for finding in rows}
    assert ignored(rows) == []
    assert found["gain"].low > 0
    if kind == "keypoints":
        assert found["point_error"].high < 1.5 < found["point_error_shuffled"].low
    else:
        assert found["boundary_f1"].low > found["boundary_f1_shuffled"].high + 0.2


def test_findings_have_intervals_floors_and_patients():
    findings = {finding.name: finding for finding in drawn(obedient=True)}
    got = findings["control.canny.boundary_f1"]
    assert got.low < got.value < got.high
    assert got.n == 20
    assert got.reference == findings["control.canny.boundary_f1_shuffled"].value
    assert findings["control.canny.dice_reconstructed"].value == 1.0


def test_every_finding_stands_on_the_page():
    for finding in drawn(obedient=True) + drawn(obedient=True, kind="keypoints"):
        _, _, name = finding.name.split(".")
        bare = name.removesuffix(f"_{SHUFFLED}").removesuffix(f"_{RECONSTRUCTED}")
        assert f"`control.<kind>.{bare}`" in PAGE
