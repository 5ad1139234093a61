"""Children with known truth: copies of their parents, of somebody else, and of nobody."""

from pathlib import Path

import numpy as np
import pytest
from known_truth import SETTINGS, cohort, stand_in_lens

from medsynth.cohort import Cohort, Record
from medsynth.domains import domain
from medsynth.validation.children import Family, measure

PAGE = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
PATIENTS = 16


@pytest.fixture(scope="module")
def findings():
    """Strength 0.25: the parent; 0.5: the next patient, who is not the parent; 1: a stranger."""
    train, strangers = cohort(range(PATIENTS)), cohort(range(300, 300 + PATIENTS), origin="derived")
    own, other = np.asarray(train.pixels), np.roll(train.pixels, 1, axis=0)
    records = [Record(f"{record.id}-{k}", "derived") for k in range(3) for record in train.records]
    pixels = np.concatenate([own, other, strangers.pixels])
    family = Family(
        train,
        cohort(range(100, 100 + PATIENTS)),
        Cohort("fundus", tuple(records), pixels),
        np.tile(np.arange(PATIENTS), 3),
        np.repeat([0.25, 0.5, 1.0], PATIENTS),
    )
    found = measure(
        family, SETTINGS, domain("fundus"), stand_in_lens(), lambda images: 0.9 * images,
        most=100, seed=1,
    )  # fmt: skip
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize(
    ("percent", "least", "most"), [(0, 1, 1), (25, 1, 1), (50, 0, 0), (100, 0, 0.2)]
)
def test_match_counts_children_that_show_their_very_parent(findings, percent, least, most):
    found = findings[f"augment.match.{percent}"]
    assert least <= found.value <= most
    assert found.low <= found.value <= found.high
    assert found.n == PATIENTS
    assert found.reference <= SETTINGS.false_alarms + 1 / PATIENTS
    assert (found.low > 0.7) == (least == 1)  # all or none of 16 is no certainty
    assert found.high > 0.15


def test_likeness_is_that_of_the_nearest_whoever_that_is(findings):
    values = [findings[f"augment.likeness.{percent}"].value for percent in (25, 50, 100)]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    assert values[2] < values[0] - 0.05


def test_findings_stand_on_the_page(findings):
    for finding in findings.values():
        kind = finding.name.split(".")[1]
        row = PAGE.split(f"| `augment.{kind}.<percent>` |")[1].splitlines()[0]
        assert finding.direction.removesuffix(" is better") in row
        assert finding.unit in row
