"""The ledger of a privacy budget in a release: numbers only, and held against all that is said.

    ledger.json    noise, rate, steps, clip, delta, accountant, epsilon, and how many training
                   patients there were; of no patient anything

Whoever has Opacus has the epsilon reckoned again; without it what is stated must agree.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .. import budget
from ..budget import Ledger
from ..finding import Finding
from ..protocol import Protocol

NAME = "ledger.json"
EPSILON = "privacy.epsilon"


def published(ledger: Ledger) -> Ledger:
    """Return what of a ledger leaves: its trainings are numbered, and no id of a secret is told."""
    numbered = [replace(row, id=str(i)) for i, row in enumerate(ledger.trainings, start=1)]
    return replace(ledger, trainings=tuple(numbered))


def faults(
    ledger: Ledger | None, protocol: Protocol, findings: Mapping[str, Finding]
) -> Iterable[str]:
    """Say where a ledger, the protocol's budget and the findings do not agree."""
    asked = protocol.diffusion.private is not None
    if ledger is None:
        if asked or EPSILON in findings:
            yield "is missing, and a privacy budget is claimed"
        return
    if not asked:
        yield "is there, and the protocol asks for no privacy budget"
        return
    if not ledger.trainings:
        yield "lists no training"
        return
    yield from _not_as_asked(ledger, protocol)
    yield from _not_as_found(ledger, protocol, findings.get(EPSILON))


def reckoned_again(ledger: Ledger) -> Iterable[str]:
    """Say where another epsilon follows from a ledger's lines; silent where Opacus is absent."""
    if importlib.util.find_spec("opacus") is None:
        return
    again = budget.recompute(ledger)
    if not abs(again - ledger.epsilon) <= 1e-3 * again:
        yield f"says epsilon {ledger.epsilon:.6g}, and {again:.6g} follows from what it lists"


def _not_as_asked(ledger: Ledger, protocol: Protocol) -> Iterable[str]:
    training, private = protocol.diffusion.training, protocol.diffusion.private
    own = ledger.trainings[-1]
    kept = {
        "budget": (ledger.budget, private.epsilon),
        "delta": (ledger.delta, private.delta),
        "clip": (ledger.clip, private.clip),
        "noise_levels": (ledger.noise_levels, private.noise_levels),
        "accountant": (ledger.accountant, private.accountant),
        "batch": (ledger.batch, training.batch),
        "steps": (own.steps, math.ceil(training.images / training.batch)),
    }
    other = [name for name, (said, asked) in kept.items() if said != asked]
    if other:
        yield f"is not what the protocol asked for: {', '.join(other)}"
    if not math.isclose(own.sample_rate, ledger.batch / ledger.patients, rel_tol=1e-9):
        yield "its sample_rate is not batch / patients"


def _not_as_found(ledger: Ledger, protocol: Protocol, found: Finding | None) -> Iterable[str]:
    if found is None:
        yield f"is there, and there is no finding {EPSILON}"
        return
    source, generator = protocol.autoencoder.source, protocol.sample.generator
    worth = budget.coverage(ledger, autoencoder=source, generator=generator)
    said, unit = (found.value, found.low, found.high), f"at delta {worth.delta:g}"
    finite = math.isfinite(worth.epsilon)  # an infinite one is written as null
    same = said == (worth.epsilon,) * 3 if finite else not any(map(math.isfinite, said))
    if not same or found.unit != unit or found.n != worth.patients:
        yield (
            f"the finding {EPSILON} is {found.value:.6g} {found.unit} for {found.n} patients, and "
            f"{worth.epsilon:.6g} {unit} for {worth.patients} follows from what it lists"
        )
