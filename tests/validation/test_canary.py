from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_truth import SIZE_PX, blind, cohort, make_case
from scipy import stats
from tiny import study

from medsynth.budget import Coverage
from medsynth.data import canaries, phantoms
from medsynth.data.canaries import STRENGTHS, Canaries
from medsynth.finding import Finding
from medsynth.training.diffusion import fit_diffusion
from medsynth.validation import canary
from medsynth.validation.canary import Tally, guess, tally
from medsynth.validation.losses import Model, open_model
from medsynth.vocabulary import Vocabulary


@cache
def made(count: int = 100, domain: str = "fundus") -> Canaries:
    return canaries.make(count, domain=domain, size_px=SIZE_PX, bits=8, seed=2)


def learned_by_heart(latents: np.ndarray) -> Model:
    """A model that takes every noised latent for one of those that it knows."""
    abar = np.linspace(0.99, 0.01, 100)

    def predict(x_t, time, labels):
        assert not any(labels)  # canaries are asked for under the null condition
        signal, noise = np.sqrt([abar[time], 1 - abar[time]])
        distances = ((x_t[:, None] - signal * latents[None]) ** 2).sum((2, 3, 4))
        return ((x_t - signal * latents[distances.argmin(1)]) / noise).astype(np.float32)

    return Model(reduced, predict, abar)


def reduced(images: np.ndarray) -> np.ndarray:
    """Encode (N, C, 32, 32) as (N, 4 C, 4, 4): the means of 4 x 4 squares, four to a place."""
    squares = images.reshape(len(images), -1, 4, 2, 4, 4, 2, 4).mean((4, 7))  # (N, C, 4, 2, 4, 2)
    return squares.transpose(0, 1, 3, 5, 2, 4).reshape(len(images), -1, 4, 4).astype(np.float32)


def findings_of(tmp_path: Path, **changes) -> dict[str, Finding]:
    sides = (cohort(range(4)), cohort(range(10, 14)), cohort(range(20, 24), origin="synthetic"))
    case = make_case(tmp_path, *sides, **{"canaries": made(), **changes})
    return {finding.name: finding for finding in canary.measure(case)}


def test_model_that_knows_its_canaries_by_heart_shows_as_much_as_so_many_can(tmp_path):
    known = reduced(made().cohort.floats(np.flatnonzero(made().included)))
    found = findings_of(tmp_path, model=learned_by_heart(known))
    assert (found["canary.right"].value, found["canary.right"].n) == (1, 40)
    best = Tally(40, 40, 100).bound(delta=1e-5, confidence=1 - 0.05 / 3)
    assert found["canary.epsilon"].value == pytest.approx(best) == pytest.approx(2.22, abs=0.01)
    assert "could not exceed 2.22" in found["canary.epsilon"].method
    each = Tally(20, 20, 50).bound(delta=1e-5)
    assert [found[f"canary.epsilon.{name}"].value for name in STRENGTHS] == [each, each]
    assert found["canary.epsilon"].direction == "lower is better"
    assert found["canary.epsilon"].is_number


def test_model_that_learned_nothing_shows_nothing(tmp_path):
    found = findings_of(tmp_path, model=blind())
    assert found["canary.epsilon"].value == 0
    assert 0.3 < found["canary.right"].value < 0.7
    assert found["canary.right"].reference == 0.5


def test_the_ledger_s_delta_is_taken_and_its_epsilon_stands_beside(tmp_path):
    found = findings_of(tmp_path, model=blind(), budget=Coverage(3.0, 1e-3, 12, (), ""))
    assert found["canary.epsilon"].unit == found["canary.epsilon.weak"].unit == "at delta 0.001"
    assert found["canary.epsilon"].reference == 3.0
    void = findings_of(tmp_path, model=blind(), budget=Coverage(math.inf, 1e-3, 12, (), ""))
    assert void["canary.epsilon"].reference == 0.0


@pytest.mark.parametrize("missing", [{"canaries": None, "model": blind()}, {"model": None}])
def test_nothing_is_said_without_canaries_or_without_a_model(tmp_path, missing):
    assert not findings_of(tmp_path, **missing)


# Guessing -----------------------------------------------------------------------------------------


def test_as_many_are_guessed_in_as_out_in_every_strength_and_the_rest_is_left_open():
    scores, strengths = np.random.default_rng(0).random(100), np.array(STRENGTHS * 50)
    for shifted in (scores, scores + 9 * (strengths == "weak")):
        guesses = guess(shifted, strengths)
        for name in STRENGTHS:
            counts = [(guesses[strengths == name] == g).sum() for g in (1, -1, 0)]
            assert counts == [10, 10, 30]
    assert (guess(scores, strengths) == guess(scores + 9 * (strengths == "weak"), strengths)).all()


def test_a_tally_counts_agreement_and_no_abstentions():
    guesses, coins = np.array([1, 1, -1, -1, 0, 0]), np.array([1, 0, 0, 1, 1, 0], bool)
    assert tally(guesses, coins) == Tally(2, 4, 6)


def test_the_best_of_three_bounds_alarms_in_at_most_one_run_of_twenty_where_nothing_leaks():
    rng, runs, strengths = np.random.default_rng(6), 500, made().strengths
    guesses, wrong = guess(rng.random(100), strengths), 0
    bound = cache(lambda found: found.bound(delta=0, confidence=1 - 0.05 / 3))
    for _ in range(runs):
        coins = rng.random(100) < 0.5
        parts = [strengths == strengths, *(strengths == name for name in STRENGTHS)]
        wrong += max(bound(tally(guesses[part], coins[part])) for part in parts) > 0
    assert stats.binom.sf(wrong - 1, runs, 0.05) > 1e-3


# Real training ------------------------------------------------------------------------------------

NOBODY = SimpleNamespace(to=lambda device: NOBODY, decode=lambda z: z[:, :1], encode=None)


def trained(folder: Path, *, images: int, private: dict | None = None) -> Model:
    """Train a small denoiser on 16 phantoms and the canaries whose coin says so."""
    changes = {
        "diffusion.widths": [32], "diffusion.attention": [False],
        "diffusion.middle_attention": False, "diffusion.ema": 0.0,
        "diffusion.training.images": images, "diffusion.training.batch": 32,
        "diffusion.training.learning_rate": 3e-3, "diffusion.private": private, "sample.labels": {},
    }  # fmt: skip
    settings, asked = study(**changes), made(domain="chest_xray")
    people = np.stack([phantoms.draw("chest_xray", i, 0, 9, SIZE_PX)[0] for i in range(16)])
    own = asked.cohort.floats(np.flatnonzero(asked.included))
    latents = reduced(np.concatenate([people.transpose(0, 3, 1, 2) / 127.5 - 1, own]))[None]
    conditions = torch.zeros((1, latents.shape[1], 1), dtype=torch.int64)
    folder.mkdir(exist_ok=True)
    network = fit_diffusion(
        latents,
        conditions,
        (latents[0, :4], conditions[0, :4]),
        NOBODY,
        settings.diffusion,
        tokens=1,
        seed=0,
        folder=folder,
        device="cpu",
        groups=np.arange(latents.shape[1]),
        patients=np.arange(latents.shape[1]),
        account=folder / "spent.json",
    )
    model = open_model(network, NOBODY, Vocabulary((), ()), settings.diffusion, device="cpu")
    return replace(model, encode=reduced)


def test_audit_catches_an_overtrained_model_and_neither_a_fresh_nor_a_private_one(tmp_path):
    budget = {"epsilon": 1.0, "delta": 1e-3, "noise_levels": 2, "accountant": "rdp"}
    runs = {
        "overtrained": trained(tmp_path / "overtrained", images=3200),
        "fresh": trained(tmp_path / "fresh", images=64),
        "private": trained(tmp_path / "private", images=320, private=budget),
    }
    asked = made(domain="chest_xray")
    found = {name: findings_of(tmp_path, model=run, canaries=asked) for name, run in runs.items()}
    assert found["overtrained"]["canary.epsilon"].value > 1
    assert found["fresh"]["canary.epsilon"].value == 0
    assert found["private"]["canary.epsilon"].value <= 1
