"""Rules that a person waived in the protocol: judged all the same, and told before all else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..finding import Judgement, Verdict
from .wording import family, full_title

if TYPE_CHECKING:
    from ..protocol import Waiver

QUALITY = ("fidelity", "reconstruction", "kept", "detail", "utility", "classifier", "control",
           "pairs")  # fmt: skip
"""Families of findings that tell of quality alone; every other one is about patients' privacy."""


def waive(item: Judgement, waiver: Waiver) -> Judgement:
    """Return a judgement that does not hold as a waived one, with its reason still in it."""
    if item.outcome == "passed":
        return item
    found = item.reason.partition(": ")[2].rstrip(".")
    why = waiver.reason.rstrip(".")
    reason = f"{item.finding}: {item.outcome} ({found}), and waived by {waiver.by}: {why}."
    return replace(item, outcome="waived", reason=reason)


def is_privacy(name: str) -> bool:
    """True for a finding that tells of patients, and for one that is not known."""
    return family(name) not in QUALITY


def waivers(verdict: Verdict) -> list[str]:
    """Return a sentence a waived rule, those on privacy first; none where nothing was waived."""
    waived = [item for item in verdict.judgements if item.outcome == "waived"]
    waived.sort(key=lambda item: not is_privacy(item.finding))
    return [_sentence(item) for item in waived]


def _sentence(item: Judgement) -> str:
    kind = "A privacy rule" if is_privacy(item.finding) else "A rule on quality"
    return (
        f"{kind} does not hold and was waived: {full_title(item.finding)}, {item.bar}. "
        f"It is {item.reason.partition(': ')[2]}"
    )
