from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from known_truth import SETTINGS, SIZE_PX, blind, cohort, make_case, masked
from made_school import SETTINGS as SCHOOL
from made_school import learn_quickly, patterned

from medsynth.budget import Coverage
from medsynth.data import canaries
from medsynth.validation import measures
from medsynth.validation.paired import Paired

PAGE = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    train, holdout = masked(cohort(range(12))), masked(cohort(range(100, 112)))
    case = make_case(
        tmp_path_factory.mktemp("private"),
        train,
        holdout,
        masked(cohort(range(200, 212), origin="synthetic")),
        paired=Paired(train, holdout, dark, (1,), ("vessel",)),
        reconstruct=lambda images: images * 0.9,
        budget=Coverage(3.0, 1e-5, 12, (), "accounted"),
        model=blind(),
        canaries=canaries.make(20, domain="fundus", size_px=SIZE_PX, bits=8, seed=1),
        settings=SETTINGS.model_copy(update={"candidates": 4}),
    )
    found = [finding for measure in measures().values() for finding in measure(case)]
    learned = make_case(
        tmp_path_factory.mktemp("learned"),
        patterned(range(60)),
        patterned(range(100, 160)),
        patterned(range(200, 220), origin="synthetic"),
        settings=SETTINGS.model_copy(update={"utility": SCHOOL}),
        teach=learn_quickly,
    )
    return found + list(measures()["utility"](learned))


def dark(images):
    """Find the darkest pixels of the middle channel."""
    return (images[:, 1] < np.quantile(images[:, 1], 0.1)).astype(np.uint8)


def test_every_finding_stands_on_the_page_with_its_direction(findings):
    rows = dict(re.findall(r"^\| `([^`]+)` \|(.*)\|$", PAGE, re.MULTILINE))
    for finding in map(as_of_images, findings):
        of_change = re.fullmatch(r"(memorization\.(?:recall|smallest_rate)\.)(.+)", finding.name)
        attack = re.fullmatch(r"membership\.(\w+)\.(auc|tpr_1|tpr_01)", finding.name)
        change = of_change[2] if of_change else attack[1] if attack else finding.name
        name = f"{of_change[1]}<change>" if of_change else finding.name
        name = f"membership.<attack>.{attack[2]}" if attack else name
        name = re.sub(r"^(utility\.tstr\.recall)\.\w+$", r"\1.<value>", name)
        name = re.sub(r"^(utility\.tstr\.auc)\.\w+\.\w+$", r"\1.<attribute>.<value>", name)
        assert finding.direction.removesuffix(" is better") in rows[name], finding.name
        assert change == finding.name or f"`{change}`" in PAGE, finding.name


def as_of_images(finding):
    """A finding on masks is explained where the same is said of images."""
    name = finding.name.removeprefix("masks.")
    if name == finding.name:
        area = re.sub(r"^pairs\.area\..+", "pairs.area.<class>", name)
        return replace(finding, name=area)
    family = "" if name.startswith("membership.") else "memorization."
    return replace(finding, name=family + name)


def test_the_page_promises_nothing_that_is_not_measured(findings):
    promised = set(re.findall(r"^\| `([a-z_]+\.[a-z_0-9]+)` \|", PAGE, re.MULTILINE))
    measured = {f.name for f in findings if f.name.count(".") == 1}
    assert promised == {name for name in measured if not name.startswith("masks.")}


def test_every_private_file_stands_on_the_page(tmp_path):
    case = make_case(
        tmp_path,
        cohort(range(12)),
        cohort(range(100, 112)),
        cohort(range(200, 212), origin="synthetic"),
        reconstruct=lambda images: images,
    )
    list(measures()["reconstruction"](case))
    assert all(f"`{path.name}`" in PAGE for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 3
