"""The table of ablations: one change at a time, on the same patients, in the same time."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import study

from medsynth import protocol
from medsynth.cohort import Cohort
from medsynth.runtime import digest_files
from medsynth.training import averages

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import ablations
import contest
import timed

LENS = protocol.Lens(
    width=8, features=16, training=protocol.Optimiser(images=64, batch=32, learning_rate=1e-3)
)


@pytest.mark.parametrize("section", ["AUTOENCODERS", "DENOISERS"])
@pytest.mark.parametrize("name", ["chest_xray", "fundus", "histology"])
def test_every_change_is_one_of_the_shipped_recipes(section, name):
    recipe = protocol.load(protocol.shipped(name))
    offered = ablations.others(recipe, list(getattr(ablations, section)))
    own = f"{recipe.autoencoder.latent_channels} latent channels"
    assert {*getattr(ablations, section), ablations.BASE} - {own} == set(offered)
    for change in offered[1:]:
        knobs = getattr(ablations, section)[change]
        part = "autoencoder" if section == "AUTOENCODERS" else "diffusion"
        other = ablations.changed(recipe, part, knobs).to_dict()
        assert other[part] != recipe.to_dict()[part], change
        assert {**other, part: 0} == {**recipe.to_dict(), part: 0}


@pytest.fixture(scope="module")
def asked(raw, tmp_path_factory):
    common = contest.prepare(raw, tmp_path_factory.mktemp("ablations"), study(), lens=LENS)
    return ablations.Asked(common, study(), minutes=0.08, share=0.5, images=12, seed=2)


@pytest.fixture
def here(monkeypatch):
    """All in this process, with scores that cost nothing."""
    scores = dict.fromkeys((*ablations.COLUMNS, *ablations.OF_IMAGES), 0.5)
    monkeypatch.setattr(contest, "in_a_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(contest, "score", lambda *_, **__: (scores, {"frechet": 0.1}))
    monkeypatch.setattr(averages, "LENGTHS_TRIED", (0.06, 0.1))


def test_changes_of_the_denoiser_learn_on_the_recipe_s_autoencoder(asked, here):
    rows = ablations.run(asked, ablations.LENGTHS)
    assert [row.name for row in rows] == ["average of length 0.06", "average of length 0.1"]
    folder = asked.common.folder.parent
    names = ("recipe-2", "lengths-2", "average-of-length-0-06-2", "average-of-length-0-1-2")
    made = [digest_files(folder / name / "autoencoder", skip=("log.jsonl",)) for name in names]
    assert all(one == made[0] for one in made)
    weights = "diffusion_pytorch_model.safetensors"
    trained, short, long = (
        digest_files(folder / name / "diffusion")[weights] for name in names[1:]
    )
    assert trained == long  # the length that was asked for in training
    assert trained != short
    assert len(Cohort.read(folder / names[2] / "synthetic")) == 12
    assert ablations.run(asked, ablations.LENGTHS) == rows  # and not trained again


def test_a_change_that_costs_nothing_sees_as_many_images_as_the_recipe(asked, here, monkeypatch):
    another = replace(asked, seed=4)
    (recipe,) = ablations.run(another, ablations.BASE)
    monkeypatch.setattr(timed, "calibrate", lambda *_: pytest.fail("measured again"))
    (other,) = ablations.run(another, "l1")
    assert other.seen == recipe.seen
    assert recipe.seen["diffusion"] > 0
    assert ablations.run(another, "l1") == [other]


def result(name: str, seed: int, value: float) -> contest.Result:
    seen = {"autoencoder": 8, "diffusion": 64}
    scores = dict.fromkeys((*ablations.COLUMNS, *ablations.OF_IMAGES), value)
    return contest.Result(name, seed, {}, seen, math.nan, 1.0, scores, {"frechet": 0.25})


def test_what_a_change_costs_is_paired_by_seed():
    recipe = [result("recipe", seed, value) for seed, value in ((1, 2.0), (2, 4.0), (3, 9.0))]
    change = [result("l1", seed, value) for seed, value in ((3, 10.0), (1, 3.0), (2, 5.0))]
    assert ablations.paired([*recipe, *change]).splitlines()[2:] == [
        "| l1 | 3 |" + " +1 ± 0 |" * len(ablations.COLUMNS)  # though seeds differ by 7
    ]
    alone = ablations.paired([*recipe, change[0], result("l1", 4, 0.0)]).splitlines()[2]
    assert alone.startswith("| l1 | 1 | +1 |")  # seed 4 has no recipe to stand beside


def test_the_table_has_a_row_a_variant_and_an_interval_over_seeds():
    lines = ablations.table(
        [result("recipe", 1, 2.0), result("recipe", 2, 4.0), result("l1", 1, 7.0)]
    )
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in lines.splitlines()}
    assert rows["recipe"][0] == "3 ± 13"  # 12.7 standard errors, of two seeds
    assert rows["l1"][0] == "7"
    assert rows["real against real"][:2] == ["0.25", "-"]
