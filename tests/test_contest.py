"""Rivals train for the same time on the same patients, and are scored alike."""

import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import study

from medsynth import pipeline, protocol
from medsynth.cohort import Cohort
from medsynth.errors import ProtocolError

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import contest
import timed
from octaves import octaves, standardised

LENS = protocol.Lens(
    width=8, features=16, training=protocol.Optimiser(images=128, batch=32, learning_rate=1e-3)
)
SECONDS = 3.0


@pytest.fixture(scope="module")
def common(raw, tmp_path_factory):
    return contest.prepare(raw, tmp_path_factory.mktemp("contest"), study(), lens=LENS)


@pytest.fixture(scope="module")
def trained(common):
    return contest.train(common, "tiny", study(), minutes=SECONDS / 60, seed=5)


def test_a_rival_trains_for_the_time_it_was_given(trained):
    entry, spent = trained
    used = sum(row["seconds"] for row in spent.values())
    assert SECONDS / 2 < used < 2 * SECONDS  # such short steps are measured badly
    for stage, row in spent.items():
        settings = pipeline.facts(entry, f"{stage}/stage.json")["settings"][stage]
        assert settings["training"]["images"] == row["images"]


def test_a_contest_goes_on_without_training_again(common, trained):
    entry, spent = contest.train(common, "tiny", study(), minutes=SECONDS / 60, seed=5)
    assert (entry, spent) == trained


@pytest.fixture
def made_up_time(monkeypatch):
    """A clock that only training moves: 1 s before the first step, 0.25 s a step."""
    now = [0.0]

    def build(stage, run, folder, tick):
        training = getattr(run.protocol, stage).training
        now[0] += 1.0
        seen = 0
        while seen < training.images:
            now[0], seen = now[0] + 0.25, seen + training.batch
            tick(stage, seen / training.images)

    monkeypatch.setattr(timed, "clock", lambda: lambda: now[0])
    builders = {stage: partial(build, stage) for stage in timed.BUILDERS}
    monkeypatch.setattr(timed, "BUILDERS", builders)


@pytest.mark.parametrize(("credit", "steps"), [(1.0, 396), (2.0, 796)])
def test_the_images_follow_from_the_rate_and_the_credit(made_up_time, common, credit, steps):
    name = f"made-up-{credit:g}"
    given = {"autoencoder": 1.0, "diffusion": credit}
    _, spent = contest.train(common, name, study(), minutes=4, seed=1, share=7 / 12, credit=given)
    assert spent["autoencoder"]["seconds"] == 140.0
    assert spent["autoencoder"]["images"] == 8 * 556  # 139 s at 0.25 s a batch of 8
    assert spent["diffusion"]["planned"] == 100.0
    assert spent["diffusion"]["images"] == 16 * steps
    assert spent["diffusion"]["seconds"] == 100.0 * credit


def test_all_rivals_have_the_patients_and_the_split_but_not_the_seed_in_common(common, trained):
    entry, _ = trained
    ours, theirs = pipeline.parts_of(common), pipeline.parts_of(entry)
    assert ours[0].digest == theirs[0].digest
    assert all(np.array_equal(ours[1][part], theirs[1][part]) for part in ours[1])
    assert (entry.protocol.seed, common.protocol.seed) == (5, 3)


def test_a_rival_with_other_images_is_refused(common):
    other = study(**{"image.size_px": 64})
    with pytest.raises(ProtocolError, match="image section"):
        contest.enter(common, "other", other, 1)


def test_images_are_drawn_and_their_rate_is_kept(trained):
    entry, _ = trained
    rate = contest.sample(entry, 24)
    assert len(Cohort.read(entry.folder / "synthetic")) == 24
    assert rate > 0
    assert contest.sample(entry, 24) == rate


@pytest.mark.parametrize(
    ("there", "images", "rate"),
    [(0, 35, 10 / 4), (2, 35, 10 / 4), (3, 35, 10 / 7), (0, 5, 10 / 107), (4, 35, math.nan)],
)
def test_a_rate_is_that_of_whole_blocks_that_were_drawn_now(
    trained, monkeypatch, tmp_path, there, images, rate
):
    now, entry = [0.0], replace(trained[0], folder=tmp_path)
    blocks = tmp_path / "synthetic.tmp" / "blocks"
    blocks.mkdir(parents=True)
    for number in range(there):
        (blocks / f"{number:06d}.npy").touch()

    def draw(run, progress):
        now[0] += 100.0  # weights are read
        for number in range(-(-images // 10)):
            warm_up = 3.0 * (number == there)
            now[0] += 4.0 + warm_up if number >= there else 0.0
            progress("sample", 0.0)

    monkeypatch.setattr(contest, "clock", lambda: lambda: now[0])
    monkeypatch.setattr(contest.pipeline, "sample", draw)
    assert contest.sample(entry, images) == pytest.approx(rate, nan_ok=True)


def test_real_images_score_better_than_noise_and_about_as_well_as_the_floor(common):
    cohort, parts = pipeline.parts_of(common)
    real = cohort.take(parts["train"])
    made = tuple(replace(record, origin="synthetic") for record in real.records)
    rng = np.random.default_rng(0)
    noise = Cohort(real.domain, made, rng.integers(0, 256, real.pixels.shape, dtype=np.uint8))
    good, floors = contest.score(common, real)
    bad, _ = contest.score(common, noise)
    assert good["frechet"] == pytest.approx(floors["frechet"], rel=0.5)
    assert bad["frechet"] > 3 * good["frechet"]
    assert bad["coverage"] < good["coverage"]
    assert bad["octaves frechet"] > 10 * good["octaves frechet"]
    assert "octaves sharpness" not in good


def test_octaves_see_brightness_and_roughness_where_they_are():
    rng = np.random.default_rng(0)
    grain = rng.normal(0, 0.1, (1, 1, 32, 32)).astype(np.float32)
    plain, rough = np.zeros_like(grain), grain.copy()
    rough[..., 16:] = 0  # rough on the left alone
    seen = {name: octaves(x)[0] for name, x in {"plain": plain, "rough": rough}.items()}
    assert len(seen["plain"]) == 4 * 16  # octaves of 32, 16 and 8 px, and brightness
    finest = (seen["rough"] - seen["plain"])[:16].reshape(4, 4)
    assert finest[:, :2].min() > 2
    assert finest[:, 3].max() == 0
    brighter = octaves(plain + 0.5)[0] - seen["plain"]
    np.testing.assert_allclose(brighter, [0] * 48 + [0.5] * 16, atol=1e-3)


def test_octaves_are_in_units_of_what_real_images_vary_by():
    real = np.random.default_rng(1).normal(0, 0.3, (64, 1, 32, 32)).astype(np.float32)
    seen = standardised(real)(real)
    np.testing.assert_allclose(seen.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(seen.std(0), 1, atol=1e-3)


def test_what_starts_later_keeps_its_share_and_a_warm_up_its_images():
    longer = study(
        **{
            "autoencoder.training": {
                "images": 1000, "batch": 8, "learning_rate": 1e-3, "warmup_images": 50
            },
            "autoencoder.adversarial": {"after_images": 800},
        }
    )  # fmt: skip
    short = timed.see(longer, "autoencoder", 203).autoencoder
    assert (short.training.images, short.training.warmup_images) == (200, 20)
    assert short.adversarial.after_images == 160
    assert timed.see(longer, "autoencoder", 4000).autoencoder.training.warmup_images == 50


def test_time_spent_on_saving_is_nobodys(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(timed, "clock", lambda: lambda: now[0])

    class Slow:
        def save(self):
            now[0] += 100.0

        look = save

    monkeypatch.setattr(timed, "State", Slow)
    watch = timed.Stopwatch()
    with watch.running():
        now[0] += 2.0
        Slow().save()
        Slow().look()
        now[0] += 1.0
    assert watch.seconds == 3.0


def test_intervals_over_seeds_are_students():
    mean, reach = contest.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert reach == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert math.isnan(contest.interval([1.0])[1])


def test_the_table_sets_rivals_side_by_side():
    rows = [
        contest.Result(name, seed, {"diffusion": 60.0}, {"diffusion": 10}, 2.0, 1.0, scores, floors)
        for seed, frechet in ((1, 1.0), (2, 3.0))
        for name, scores, floors in [
            ("a", {"frechet": frechet, "psnr": 30.0}, {"frechet": 0.5, "psnr": 31.0}),
            ("b", {"frechet": 9.0}, {"frechet": 0.5}),
        ]
    ]
    text = contest.table(rows)
    assert "| | a (n = 2) | b (n = 2) | real against real |" in text
    assert "| frechet | 2 ± 13 | 9 ± 0 | 0.5 |" in text
    assert "| psnr | 30 ± 0 | - | 31 |" in text
