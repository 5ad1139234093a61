"""The gate: findings are held against rules, each on the pessimistic end of its interval.

A rule is refused where the number itself breaks its bar, or is missing or no number; it is
inconclusive where only the far end of the interval breaks the bar, or where the number tells of
the evidence and not of the images: an audit that would not see enough has found nothing. Nothing
is averaged: one rule that does not hold keeps the door shut. docs/gate.md tells the same to people.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import domains
from ..finding import Finding, Judgement, Outcome, Verdict
from ..runtime import digest_json, without_nan
from .waivers import waive
from .wording import count, pair, quantity

if TYPE_CHECKING:
    from ..protocol import Rule

STRENGTH = (
    "memorization.smallest_rate",
    "masks.smallest_rate",
)  # of the evidence: says nothing against the images
REMEDIES = (
    (
        "memorization.smallest_rate",
        "more held-out patients (split.holdout), more synthetic images (sample.images) or a lens "
        "that sees such copies (lens.weights) make the audit see fewer; the method says how many "
        "were tried at most (validate.planted)",
    ),
    ("memorization.recall", "more planted copies (validate.planted) narrow it"),
    ("memorization.p_value", "more permutations (validate.permutations) narrow it"),
    ("memorization", "more synthetic images (sample.images) or held-out patients narrow it"),
    ("masks", "more synthetic images (sample.images) or held-out patients with masks narrow it"),
    ("pairs", "more synthetic images (sample.images) narrow it"),
    ("fidelity", "more synthetic images (sample.images) or held-out patients narrow it"),
    ("reconstruction", "more held-out patients narrow it"),
    ("canary", "more canaries (diffusion.canaries.count) narrow it"),
)
QUARANTINED = "memorization.quarantined"
MASKS_QUARANTINED = "masks.quarantined"
CLAIMED, SHOWN = "privacy.epsilon", "canary.epsilon"
PASS_MEANS = "A pass means: no leakage was found by these tests, with these limits."
PASS_IS_NOT = (
    "It does not mean that the images are anonymous in the sense of the law: whether they may be "
    "shared is for the data holder to decide, with this evidence at hand."
)
PATIENTS_UNKNOWN = (
    "No patient is known: each file counts as a patient of its own. Several images of one person "
    "may stand on both sides of every comparison, so the evidence is about images, not about "
    "people, and is weaker."
)


# Judging ----------------------------------------------------------------------------------------


def decide(
    findings: Mapping[str, Finding],
    rules: Sequence[Rule],
    *,
    attempt: int,
    claim: Sequence[str],
    digests: Mapping[str, str],
    rejected_before: Sequence[int] = (),
) -> Verdict:
    """Hold findings against rules and return the verdict.

    `attempt` counts from 1; a test at level a is held against a / 2^attempt, so that all attempts
    together reject at most at a, and an interval that widens with attempts is as wide as it is at
    this one. `rejected_before` are attempts at which a test rejected the same
    generator: that stays, since drawing again until no test rejects is no evidence.
    A rule whose name has a `*` holds for every finding that matches.
    Raises ValueError where there is no rule or `attempt` is less than 1.
    """
    if not rules or attempt < 1:
        raise ValueError("expected at least one rule and an attempt counted from 1")
    judgements = tuple(item for rule in rules for item in _judge(rule, findings, attempt))
    judgements += (*map(_remember, rejected_before), *_nothing_left(findings), *_refuted(findings))
    return Verdict(
        outcome=_overall(item.outcome for item in judgements),
        attempt=attempt,
        claim=tuple(claim),
        judgements=judgements,
        digests=dict(digests),
        waived=sum(item.outcome == "waived" for item in judgements),
    )


def rejects(findings: Mapping[str, Finding], rules: Sequence[Rule], *, attempt: int) -> bool:
    """True if one of the rules' tests rejects, waived or not: the cohort is nearer to its patients
    than chance."""
    tests = [rule for rule in rules if rule.not_rejected_at is not None]
    judged = (item for rule in tests for item in _hold(rule, findings, attempt))
    return any(item.outcome == "refused" and item.judged is not None for item in judged)


def _remember(attempt: int) -> Judgement:
    reason = (
        f"attempt {attempt}: a test rejected this generator, and drawing or measuring again does "
        f"not undo that; what can pass is another one, trained anew under a changed protocol."
    )
    return Judgement("earlier attempts", "no test has rejected", "refused", None, reason)


def _nothing_left(findings: Mapping[str, Finding]) -> Iterable[Judgement]:
    for name in (QUARANTINED, MASKS_QUARANTINED):
        taken = findings.get(name)
        if taken is not None and taken.value >= 1:
            reason = f"{name}: every image was quarantined, so there is nothing to leave."
            yield Judgement(name, "an image must remain", "refused", taken.value, reason)


def _refuted(findings: Mapping[str, Finding]) -> Iterable[Judgement]:
    """Refuse a privacy budget that the canaries show not to have been kept."""
    shown, claimed = findings.get(SHOWN), findings.get(CLAIMED)
    if shown is not None and claimed is not None and shown.value > claimed.value:
        low, high = pair(claimed.value, shown.value)
        reason = (
            f"{CLAIMED}: the ledger says {low}, but the canaries show at least {high}: training "
            f"gives away more than was reckoned, so there is a fault in it and no epsilon holds."
        )
        yield Judgement(CLAIMED, "not refuted by canaries", "refused", shown.value, reason)


def contradictions(
    verdict: Verdict, findings: Mapping[str, Finding], rules: Sequence[Rule]
) -> list[str]:
    """Judge again and return what a verdict says otherwise; empty where it stands.

    Reasons are not compared: a later version may word them better.
    """
    again = decide(findings, rules, attempt=verdict.attempt, claim=verdict.claim, digests={})
    faults = []
    if again.outcome != verdict.outcome:
        faults.append(f"the verdict says {verdict.outcome}, judged again it is {again.outcome}")
    if [_essence(item) for item in again.judgements] != [
        _essence(item) for item in verdict.judgements
    ]:
        faults.append("the verdict's rules, judged again, come out differently")
    if again.waived != verdict.waived:
        faults.append(f"the verdict counts {verdict.waived} waived, judged again {again.waived}")
    return faults


def digest_findings(findings: Mapping[str, Finding]) -> str:
    """Return the digest that a verdict binds as `evidence`: the same before and after a file."""
    rows = [findings[name].to_dict() for name in sorted(findings)]
    for row in rows:
        for key in ("value", "low", "high", "reference"):
            row[key] = None if row[key] is None else float(row[key])
    return digest_json(without_nan(rows))


def limits(
    rules: Sequence[Rule], findings: Mapping[str, Finding], *, attempt: int
) -> dict[str, float]:
    """Return {finding: the number it is held against} for every finding that a rule names."""
    return {
        name: _bar(rule, findings[name].unit, attempt).limit
        for rule in rules
        for name in _matching(rule.finding, findings)
    }


@dataclass(frozen=True)
class _Bar:
    """A rule's bar at this attempt: `limit`, on which side it lies, and its words."""

    limit: float
    upper: bool
    words: str
    attempt: int
    test: bool = False

    def broken_by(self, number: float) -> bool:
        return number > self.limit if self.upper else number < self.limit

    def pessimistic(self, finding: Finding) -> float:
        """Return the end that is worst for the rule, as wide as it is at this attempt."""
        ends = [(finding.low, finding.high), *finding.at_attempts[self.attempt - 1 : self.attempt]]
        return max(high for _, high in ends) if self.upper else min(low for low, _ in ends)


def _bar(rule: Rule, unit: str, attempt: int) -> _Bar:
    if rule.at_most is not None:
        return _Bar(rule.at_most, True, f"at most {quantity(rule.at_most, unit)}", attempt)
    if rule.at_least is not None:
        return _Bar(rule.at_least, False, f"at least {quantity(rule.at_least, unit)}", attempt)
    level = rule.not_rejected_at / 2**attempt
    words = f"p at least {quantity(level)} ({quantity(rule.not_rejected_at)} / 2^{attempt})"
    return _Bar(level, False, words, attempt, test=True)


def _judge(rule: Rule, findings: Mapping[str, Finding], attempt: int) -> Iterable[Judgement]:
    """Judge a rule; what does not hold and is waived in the protocol closes no gate."""
    for item in _hold(rule, findings, attempt):
        yield item if rule.waived is None else waive(item, rule.waived)


def _hold(rule: Rule, findings: Mapping[str, Finding], attempt: int) -> Iterable[Judgement]:
    names = _matching(rule.finding, findings)
    if not names:
        bar = _bar(rule, "", attempt).words
        reason = f"{rule.finding}: was not measured; what is missing can't open the gate."
        yield Judgement(rule.finding, bar, "refused", None, reason)
    for name in names:
        yield _judge_one(findings[name], _bar(rule, findings[name].unit, attempt))


def _matching(pattern: str, findings: Mapping[str, Finding]) -> list[str]:
    regex = re.compile(".*".join(map(re.escape, pattern.split("*"))))
    return sorted(name for name in findings if regex.fullmatch(name))


def _judge_one(finding: Finding, bar: _Bar) -> Judgement:
    fault = _fault(finding, bar)
    if fault:
        reason = f"{finding.name}: {fault}."
        return Judgement(finding.name, bar.words, "refused", None, reason)
    judged = bar.pessimistic(finding)
    outcome = _outcome(finding, bar)
    reason = f"{finding.name}: {_REASONS[outcome](finding, bar, judged)}."
    return Judgement(finding.name, bar.words, outcome, float(judged), reason)


def _fault(finding: Finding, bar: _Bar) -> str:
    """Return why a finding can't be judged at all, "" where it can."""
    if not finding.is_number:
        return "is not a finite number, and so can't open the gate"
    if not finding.low <= finding.value <= finding.high:
        return "its interval does not hold its value, so one of them is wrong"
    if finding.n < 1:
        return "was measured on nothing"
    if finding.at_attempts and bar.attempt > len(finding.at_attempts):
        return f"has no interval for attempt {bar.attempt}: tries are used up"
    if bar.test and not 0 <= finding.low <= finding.high <= 1:
        return "is no p-value: it leaves 0 to 1"
    if finding.direction == ("higher is better" if bar.upper else "lower is better"):
        return f"the rule asks for {bar.words}, but {finding.direction}: such a rule guards nothing"
    return ""


def _outcome(finding: Finding, bar: _Bar) -> Outcome:
    if bar.broken_by(finding.value):
        return "inconclusive" if _is_strength(finding.name) else "refused"
    return "inconclusive" if bar.broken_by(bar.pessimistic(finding)) else "passed"


def _is_strength(name: str) -> bool:
    return any(name == found or name.startswith(f"{found}.") for found in STRENGTH)


def _refused(finding: Finding, bar: _Bar, judged: float) -> str:
    value, limit = pair(finding.value, bar.limit, finding.unit)
    if bar.test:
        return (
            f"p = {value}, below {limit}: the test rejects, so nearness to the training patients "
            f"is more than chance"
        )
    return f"{value}, {'above' if bar.upper else 'below'} the bar of {limit}"


def _inconclusive(finding: Finding, bar: _Bar, judged: float) -> str:
    value, end = pair(finding.value, judged, finding.unit)
    _, limit = pair(judged, bar.limit, finding.unit)
    if bar.broken_by(finding.value):
        return (
            f"{value}, {'above' if bar.upper else 'below'} the bar of {limit}: the evidence is too "
            f"weak to tell; {_remedy(finding.name)}"
        )
    return (
        f"{value} would do, but it may be as {'high' if bar.upper else 'low'} as {end}"
        f"{_at_this_attempt(finding, bar)}, {'above' if bar.upper else 'below'} the bar of "
        f"{limit}: the evidence is too weak to "
        f"tell; {_remedy(finding.name)}"
    )


def _at_this_attempt(finding: Finding, bar: _Bar) -> str:
    return f" at attempt {bar.attempt}" if finding.at_attempts and bar.attempt > 1 else ""


def _passed(finding: Finding, bar: _Bar, judged: float) -> str:
    end, limit = pair(judged, bar.limit, finding.unit)
    if bar.test:
        return f"p = {end}, not below {limit}: the test does not reject"
    exact = finding.low == finding.high
    number = end if exact else f"{'at most' if bar.upper else 'at least'} {end}"
    return f"{number}{_at_this_attempt(finding, bar)}, within the bar of {limit}"


_REASONS = {"refused": _refused, "inconclusive": _inconclusive, "passed": _passed}


def _remedy(name: str) -> str:
    found = (words for prefix, words in REMEDIES if name.startswith(prefix))
    return next(found, "more images or patients narrow it")


def _overall(outcomes: Iterable[Outcome]) -> Outcome:
    seen = set(outcomes)
    return next((worst for worst in ("refused", "inconclusive") if worst in seen), "passed")


def _essence(item: Judgement) -> tuple:
    return (item.finding, item.outcome, item.judged)


# What a pass means ------------------------------------------------------------------------------


def claims(split: Mapping, *, domain: str, privacy: Sequence[str] = ()) -> tuple[str, ...]:
    """Return in sentences what a pass means and what it does not.

    `split` is what split.json holds: its `claim` says what knowing the patients, or not, allows,
    its `caveats` what the data set does not know, its `half` that another run is trained on the
    held-out patients, and its foresight how much the gate could see.
    Where `patients_known` is not true the weaker claim is said even if `split` does not say it.
    `privacy` says what a privacy budget covers, or that it covers nothing.
    """
    known = split.get("patients_known") is True
    of_split = split.get("claim") or ("" if known else PATIENTS_UNKNOWN)
    limits_of_size = split.get("foresight", {}).get("sentence", "")
    identity = domains.domain(domain).identity_risk
    caveats = split.get("caveats", ())
    of_half = split.get("half", "")
    sentences = [PASS_MEANS, PASS_IS_NOT, *privacy, of_split, *caveats, of_half, limits_of_size]
    sentences.append(identity)
    return tuple(sentence for sentence in sentences if sentence)


def say_canaries(findings: Mapping[str, Finding]) -> tuple[str, ...]:
    """Return a sentence on the canaries that were planted and what was found; none without."""
    shown, right = findings.get(SHOWN), findings.get("canary.right")
    if shown is None or right is None:
        return ()
    return (
        f"{count(shown.n, 'canary image')} were made up, and a random half of them was trained on "
        f"beside the patients. Whoever has the weights guesses which with "
        f"{quantity(right.value, right.unit)} right, where chance has 50 %: that shows an epsilon "
        f"of at least {quantity(shown.value)}. Canaries are nobody's images, and none is released.",
    )
