"""The ledger of a privacy budget in a release: it is there, tells nothing, and must agree."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings
from test_verify import faults, reseal

from medsynth import protocol
from medsynth.budget import Ledger, Training, coverage, epsilon_of
from medsynth.errors import RefusedError
from medsynth.finding import Finding
from medsynth.release.export import write_release
from medsynth.release.verify import verify
from medsynth.runtime import read_json, write_json

PRIVATE = {
    "autoencoder.source": "phantoms",
    "sample.labels": {},
    "diffusion.training.images": 3200,
    "diffusion.training.batch": 12,
    "diffusion.private": {"epsilon": 8.0, "delta": 1e-3, "accountant": "rdp"},
}
SECRET = "5ec2e7"
TRAININGS = (Training(SECRET + "1", 0.1, 2.0, 100), Training(SECRET + "2", 0.1, 1.5, 267))


def make_ledger(**changes) -> Ledger:
    epsilon = epsilon_of(TRAININGS, delta=1e-3, accountant="rdp")
    ledger = Ledger(TRAININGS, 120, 12, 0.1, 8, 1e-3, 8.0, "rdp", 1e-7, epsilon)
    return replace(ledger, **changes)


def make_study(ledger: Ledger, **changes: str) -> dict:
    settings = protocol.parse(PROTOCOL, changes={**PRIVATE, **changes})
    source, generator = settings.autoencoder.source, settings.sample.generator
    worth = coverage(ledger, autoencoder=source, generator=generator)
    row = Finding("privacy.epsilon", *(worth.epsilon,) * 3, worth.patients, "at delta 0.001",
                  "lower is better", worth.method)  # fmt: skip
    study = judged(settings, make_cohort(), {**make_findings(), row.name: row})
    return {**study, "ledger": ledger}


@pytest.fixture
def private(tmp_path) -> Path:
    """A release under a privacy budget."""
    (tmp_path / "private").mkdir()
    write_release(tmp_path / "private", **make_study(make_ledger()))
    return tmp_path / "private"


def change(folder: Path, **values) -> None:
    """Change the ledger's lines as a forger would, checksums and all."""
    write_json(folder / "ledger.json", {**read_json(folder / "ledger.json"), **values})
    reseal(folder)


def test_release_under_a_budget_holds_the_ledger_and_has_no_fault(private):
    ledger = Ledger.read(private / "ledger.json")
    assert replace(ledger, trainings=TRAININGS) == make_ledger()
    assert [row.id for row in ledger.trainings] == ["1", "2"]
    assert verify(private).faults == ()
    assert "ledger.json" in (private / "ro-crate-metadata.json").read_text()


def test_nothing_that_names_the_secret_leaves(private):
    texts = [path.read_bytes() for path in private.rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in text for text in texts)
    assert set(json.loads((private / "ledger.json").read_text())) == set(make_ledger().__dict__)


def test_release_without_a_budget_holds_none(released):
    assert not (released / "ledger.json").exists()
    assert verify(released).ok


def test_an_embellished_epsilon_is_found_where_it_can_be_reckoned_again(private, monkeypatch):
    lines = (private / "findings.jsonl").read_text()
    epsilon = make_ledger().epsilon
    assert repr(epsilon) in lines
    change(private, epsilon=1.0)
    said = faults(private)
    assert "ledger.json: the finding privacy.epsilon is 5." in said
    assert "ledger.json: says epsilon 1, and 5." in said
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "says epsilon 1" not in faults(private)
    assert "the finding privacy.epsilon is" in faults(private)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"delta": 1e-4}, "not what the protocol asked for: delta"),
        ({"budget": 9.0, "noise_levels": 4}, "asked for: budget, noise_levels"),
        ({"patients": 240}, "its sample_rate is not batch / patients"),
        ({"largest_error": 0.5}, "and inf at delta 0.001 for 120 follows"),
        ({"trainings": []}, "lists no training"),
    ],
)
def test_ledger_that_does_not_agree_is_found(private, values, said):
    change(private, **values)
    assert said in faults(private)


def test_ledger_with_another_noise_is_found(private):
    rows = read_json(private / "ledger.json")["trainings"]
    change(private, trainings=[rows[0], {**rows[1], "noise_multiplier": 1.0}])
    assert "follows from what it lists" in faults(private)


def test_ledger_that_is_gone_or_that_nobody_asked_for_is_found(private, released):
    (private / "ledger.json").rename(released / "ledger.json")
    reseal(private), reseal(released)
    assert "ledger.json: is missing, and a privacy budget is claimed" in faults(private)
    assert "the protocol asks for no privacy budget" in faults(released)


def test_what_does_not_agree_is_not_released(tmp_path):
    study = make_study(make_ledger())
    with pytest.raises(RefusedError, match="this can't be released") as refusal:
        write_release(tmp_path, **{**study, "ledger": None})
    assert refusal.value.reasons == ("ledger.json: is missing, and a privacy budget is claimed",)
    with pytest.raises(RefusedError) as refusal:
        write_release(tmp_path, **{**study, "ledger": make_ledger(clip=1.0)})
    assert refusal.value.reasons == ("ledger.json: is not what the protocol asked for: clip",)
    assert not list(tmp_path.iterdir())


def test_claims_that_do_not_add_up_are_infinite_in_finding_and_ledger_alike(tmp_path):
    """No rule asked for epsilon, so it was released; the finding must still say that none holds."""
    write_release(tmp_path, **make_study(make_ledger(), **{"autoencoder.source": "patients"}))
    assert verify(tmp_path).ok
