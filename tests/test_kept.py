"""What choices of an autoencoder keep, side by side."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import study

from medsynth.cohort import Cohort, Record
from medsynth.data import phantoms
from medsynth.validation import keeping

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import kept


@pytest.fixture(scope="module")
def subject() -> keeping.Subject:
    drawn = [phantoms.draw("chest_xray", person, 0, 5, 32)[0] for person in range(6)]
    records = tuple(Record(f"r{i}", "real", f"P{i}") for i in range(6))
    settings = study().validate_
    return keeping.Subject(Cohort("chest_xray", records, np.stack(drawn)), settings, seed=1)


def cells(table: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {first.strip("`"): rest for first, *rest in lines}


def test_a_variant_stands_beside_the_halved_image_and_the_recipe(subject):
    half = keeping.look(subject, keeping.halved, what="half")
    same = keeping.look(subject, lambda images: images, what="same")
    variants = {
        kept.BASE: kept.over_seeds([kept.Kept(half, 2.0), kept.Kept(half, 4.0)]),
        "perfect": kept.Kept(same, 5.0),
    }
    rows = cells(kept.table(subject, variants, half))
    assert rows["kept.edges"][1].startswith("1 (1 to 1)")
    name = "better.kept.edges` than half size"
    assert rows[name][0].startswith("0 (0 to 0)")  # halved, beside itself
    gain = float(rows[name][1].split(" ")[0])
    assert gain == pytest.approx(1 - float(rows["kept.edges"][2]), abs=2e-3)
    assert rows["better.kept.edges` than the recipe"][1] == rows[name][1]
    assert rows["seconds of training"] == ["3", "5", "-"]


def test_an_image_s_number_is_its_mean_over_seeds():
    first, second = ({"psnr": np.array([30.0, 20.0]) + gain} for gain in (0, 2))
    both = kept.over_seeds([kept.Kept(first, 1.0), kept.Kept(second, 3.0)])
    assert both.scores["psnr"].tolist() == [31.0, 21.0]
    assert both.seconds == 2.0
