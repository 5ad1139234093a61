import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsynth.finding import Finding, read_findings, write_findings
from medsynth.protocol import Rule
from medsynth.release import gate


def finding(name="memorization.copy_rate", value=0.1, low=None, high=None, **changes):
    fields = {"n": 100, "unit": "", "direction": "neither", "method": "made up"} | changes
    low, high = (value if low is None else low), (value if high is None else high)
    return Finding(name, value, low, high, **fields)


def decide(found, *rules, attempt=1):
    found = [found] if isinstance(found, Finding) else found
    return gate.decide(
        {item.name: item for item in found}, rules, attempt=attempt, claim=(), digests={}
    )


def at_most(bar, name="memorization.copy_rate"):
    return Rule(finding=name, at_most=bar)


def at_least(bar, name="memorization.copy_rate"):
    return Rule(finding=name, at_least=bar)


def not_rejected(level, name="memorization.p_value"):
    return Rule(finding=name, not_rejected_at=level)


@pytest.mark.parametrize(
    ("value", "low", "high", "outcome"),
    [
        (0.01, 0.0, 0.02, "passed"),
        (0.01, 0.0, 0.03, "passed"),  # on the bar is within it
        (0.01, 0.0, 0.031, "inconclusive"),
        (0.04, 0.0, 0.05, "refused"),
        (0.04, 0.01, 0.05, "refused"),
        (0.04, 0.035, 0.05, "refused"),
    ],
)
def test_at_most_is_held_against_the_high_end(value, low, high, outcome):
    assert decide(finding(value=value, low=low, high=high), at_most(0.03)).outcome == outcome


@pytest.mark.parametrize(
    ("value", "low", "high", "outcome"),
    [
        (0.9, 0.81, 0.95, "passed"),
        (0.9, 0.8, 0.95, "passed"),
        (0.9, 0.79, 0.95, "inconclusive"),
        (0.7, 0.6, 0.95, "refused"),
    ],
)
def test_at_least_is_held_against_the_low_end(value, low, high, outcome):
    assert decide(finding(value=value, low=low, high=high), at_least(0.8)).outcome == outcome


@pytest.mark.parametrize(
    ("p", "attempt", "outcome"),
    [
        (0.025, 1, "passed"),
        (0.0249, 1, "refused"),
        (0.0249, 2, "passed"),
        (0.0125, 2, "passed"),
        (0.0124, 2, "refused"),
        (0.05 / 32, 5, "passed"),
    ],
)
def test_attempt_j_gets_the_share_one_in_two_to_the_j_of_the_level(p, attempt, outcome):
    found = finding("memorization.p_value", p)
    assert decide(found, not_rejected(0.05), attempt=attempt).outcome == outcome


def test_the_levels_of_all_attempts_together_stay_below_the_rules_level():
    bars = [
        gate.limits([not_rejected(0.05)], {"memorization.p_value": finding("memorization.p_value")},
                    attempt=attempt)["memorization.p_value"]
        for attempt in range(1, 30)
    ]  # fmt: skip
    assert 0.0499 < sum(bars) < 0.05


def test_a_p_value_with_an_interval_is_judged_at_its_low_end():
    found = finding("memorization.p_value", 0.03, 0.02, 0.04)
    assert decide(found, not_rejected(0.05)).outcome == "inconclusive"


@given(
    value=st.floats(-1e6, 1e6),
    below=st.floats(0, 1e6),
    above=st.floats(0, 1e6),
    bar=st.floats(-1e6, 1e6),
)
def test_nothing_passes_whose_interval_reaches_over_the_bar(value, below, above, bar):
    found = finding(value=value, low=value - below, high=value + above)
    assert decide(found, at_most(bar)).passed == (found.high <= bar)
    assert decide(found, at_least(bar)).passed == (found.low >= bar)


@pytest.mark.parametrize("key", ["value", "low", "high"])
@pytest.mark.parametrize("worthless", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_finite_number_is_refused(key, worthless):
    found = finding(**{"value": 0.01, "low": 0.0, "high": 0.02, key: worthless})
    for rule in (at_most(0.5), at_least(-1.0)):
        verdict = decide(found, rule)
        assert verdict.outcome == "refused"
        assert verdict.judgements[0].judged is None
        assert "not a finite number" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (finding(value=0.1, low=0.2, high=0.3), "does not hold its value"),
        (finding(value=0.1, low=0.0, high=0.05), "does not hold its value"),
        (finding(value=0.0, n=0), "measured on nothing"),
        (finding(value=0.0, direction="higher is better"), "guards nothing"),
    ],
)
def test_a_finding_that_makes_no_sense_is_refused(found, why):
    verdict = decide(found, at_most(0.9))
    assert verdict.outcome == "refused"
    assert why in verdict.reasons[0]


def test_a_p_value_outside_0_to_1_is_refused():
    verdict = decide(finding("memorization.p_value", 0.9, 0.8, 1.2), not_rejected(0.05))
    assert verdict.outcome == "refused"
    assert "no p-value" in verdict.reasons[0]


def test_a_missing_finding_is_refused():
    verdict = decide([], at_most(0.03))
    assert verdict.outcome == "refused"
    assert verdict.reasons == (
        "memorization.copy_rate: was not measured; what is missing can't open the gate.",
    )


def test_a_family_rule_holds_for_every_member_and_for_no_other():
    members = [finding(f"memorization.recall.{name}", 0.9) for name in ("crop", "flip")]
    others = [finding("memorization.recall", 0.1), finding("fidelity.recall", 0.1)]
    rule = at_least(0.8, "memorization.recall.*")
    verdict = decide([*members, *others], rule)
    assert [item.finding for item in verdict.judgements] == [item.name for item in members]
    assert verdict.passed
    weak = finding("memorization.recall.jpeg", 0.5)
    assert decide([*members, weak], rule).outcome == "refused"


def test_a_family_rule_without_a_member_is_refused():
    verdict = decide(finding("memorization.recall", 0.9), at_least(0.8, "memorization.recall.*"))
    assert verdict.outcome == "refused"


def test_a_dot_in_a_name_is_a_dot():
    found = finding("memorizationXcopy_rate", 0.0)
    assert decide(found, at_most(0.1)).outcome == "refused"


def test_refused_outweighs_inconclusive_outweighs_passed():
    good, weak, bad = finding("a", 0.1), finding("b", 0.1, 0.0, 0.9), finding("c", 0.9)
    rules = [at_most(0.5, name) for name in "abc"]
    assert decide([good], rules[0]).outcome == "passed"
    assert decide([good, weak], *rules[:2]).outcome == "inconclusive"
    assert decide([good, weak, bad], *rules).outcome == "refused"


def test_no_rule_is_no_pass():
    with pytest.raises(ValueError, match="at least one rule"):
        gate.decide({}, (), attempt=1, claim=(), digests={})


def test_attempts_count_from_one():
    with pytest.raises(ValueError, match="counted from 1"):
        decide(finding(value=0.0), at_most(0.1), attempt=0)


def test_reasons_give_numbers_with_units_and_say_what_would_help():
    found = finding(value=0.01, low=0.0, high=0.05, unit="share of synthetic images")
    assert decide(found, at_most(0.03)).reasons == (
        "memorization.copy_rate: 1 % would do, but it may be as high as 5 %, above the bar of "
        "3 %: the evidence is too weak to tell; more synthetic images (sample.images) or held-out "
        "patients narrow it.",
    )


def test_a_reason_never_rounds_two_numbers_to_the_same():
    verdict = decide(finding(value=0.030001, unit="share"), at_most(0.03))
    assert "3.0001 %, above the bar of 3 %" in verdict.reasons[0]


# Judging again ----------------------------------------------------------------------------------


def test_a_verdict_stands_when_judged_again_from_its_file(study, tmp_path):
    write_findings(tmp_path / "findings.jsonl", study["findings"].values())
    found = read_findings(tmp_path / "findings.jsonl")
    assert gate.contradictions(study["verdict"], found, study["protocol"].gate.rules) == []
    assert gate.digest_findings(found) == study["verdict"].digests["evidence"]


def test_a_verdict_on_other_findings_does_not_stand(study, with_findings):
    worse = with_findings(copy_rate={"value": 0.5, "high": 0.6})
    faults = gate.contradictions(study["verdict"], worse["findings"], study["protocol"].gate.rules)
    assert "judged again it is refused" in faults[0]


def test_the_digest_of_findings_sees_every_field_and_no_order(study):
    found = study["findings"]
    backwards = dict(reversed(found.items()))
    assert gate.digest_findings(backwards) == gate.digest_findings(found)
    changed = found | {"memorization.p_value": finding("memorization.p_value", 0.412)}
    assert gate.digest_findings(changed) != gate.digest_findings(found)


# What a pass means ------------------------------------------------------------------------------


def test_claims_name_the_limits_and_never_promise_anonymity(study):
    claims = gate.claims(study["split"], domain="fundus")
    assert claims[0] == "A pass means: no leakage was found by these tests, with these limits."
    assert "does not mean that the images are anonymous" in claims[1]
    assert "vessel tree" in " ".join(claims)
    assert "about patients" in " ".join(claims)


@pytest.mark.parametrize("split", [{}, {"patients_known": False}, {"patients_known": "yes"}])
def test_where_patients_are_not_known_the_weaker_claim_is_said(split):
    text = " ".join(gate.claims(split, domain="fundus"))
    assert "No patient is known" in text
    assert "not about people" in text


def test_the_splits_own_words_are_taken():
    split = {"patients_known": False, "claim": "Half of the patients are not known."}
    assert "Half of the patients are not known." in gate.claims(split, domain="chest_xray")


def test_what_the_data_set_does_not_know_is_said_right_after_the_split_s_claim():
    split = {"patients_known": True, "claim": "As far as known.", "caveats": ["One.", "Two."]}
    claims = gate.claims(split, domain="histology")
    assert claims[2:5] == ("As far as known.", "One.", "Two.")


# Attempts ---------------------------------------------------------------------------------------


def test_an_earlier_rejection_of_the_same_generator_stays():
    found = {"p": finding("p", value=0.9, direction="higher is better")}
    rules = (not_rejected(0.05, "p"),)
    arguments = {"attempt": 2, "claim": (), "digests": {}}
    assert gate.decide(found, rules, **arguments).passed
    verdict = gate.decide(found, rules, **arguments, rejected_before=[1])
    assert verdict.outcome == "refused"
    assert "attempt 1: a test rejected this generator" in verdict.reasons[0]


@pytest.mark.parametrize(("p", "attempt", "rejected"), [
    (0.02, 1, True), (0.03, 1, False), (0.02, 2, False), (math.nan, 1, False),
])  # fmt: skip
def test_only_a_test_that_rejects_is_a_rejection(p, attempt, rejected):
    found = {"p": finding("p", value=p, direction="higher is better")}
    rules = (not_rejected(0.05, "p"), at_most(1.0, "q"))
    assert gate.rejects(found, rules, attempt=attempt) is rejected


# What attempts cost -----------------------------------------------------------------------------


def spent(**changes):
    """A finding whose interval widens: 3 % at the first attempt, 4 % at the second, no third."""
    ends = {"at_attempts": ((0.0, 0.03), (0.0, 0.04))}
    return finding(value=0.01, low=0.0, high=0.03, **(ends | changes))


@pytest.mark.parametrize(
    ("attempt", "outcome"), [(1, "passed"), (2, "inconclusive"), (3, "refused")]
)
def test_a_bound_widens_with_the_attempt_until_tries_are_used_up(attempt, outcome):
    verdict = decide(spent(), at_most(0.03), attempt=attempt)
    assert verdict.outcome == outcome


def test_the_reason_says_that_the_attempt_widened_the_bound():
    verdict = decide(spent(), at_most(0.03), attempt=2)
    assert "may be as high as 0.04 at attempt 2, above the bar of 0.03" in verdict.reasons[0]
    assert decide(spent(), at_most(0.05), attempt=2).judgements[0].judged == 0.04


def test_an_attempt_never_narrows_an_interval():
    narrow = spent(at_attempts=((0.009, 0.011),))
    assert decide(narrow, at_most(0.02)).outcome == "inconclusive"
    assert decide(narrow, at_least(0.005)).outcome == "inconclusive"


def test_an_end_that_is_no_number_is_refused_at_any_attempt():
    broken = spent(at_attempts=((0.0, 0.03), (0.0, math.nan)))
    assert decide(broken, at_most(0.5)).outcome == "refused"


def test_a_cohort_that_was_quarantined_whole_is_refused_whatever_the_rules_say():
    taken = finding("memorization.quarantined", value=1.0)
    verdict = decide([taken, finding(value=0.0)], at_most(0.5))
    assert verdict.outcome == "refused"
    assert "nothing to leave" in verdict.reasons[0]
    assert decide([finding("memorization.quarantined", value=0.99), finding(value=0.0)],
                  at_most(0.5)).passed  # fmt: skip


# Canaries -----------------------------------------------------------------------------------------


def canary(shown: float, claimed: float) -> list[Finding]:
    return [finding(), finding("canary.epsilon", shown), finding("privacy.epsilon", claimed)]


def test_budget_that_the_canaries_refute_is_refused_whatever_the_rules_say():
    verdict = decide(canary(2.5, 1.0), at_most(0.5))
    assert verdict.outcome == "refused"
    [reason] = verdict.reasons
    assert "the ledger says 1, but the canaries show at least 2.5" in reason


@pytest.mark.parametrize(("shown", "claimed"), [(0.9, 1.0), (1.0, 1.0), (2.5, math.inf)])
def test_budget_that_the_canaries_leave_standing_is_no_reason(shown, claimed):
    assert decide(canary(shown, claimed), at_most(0.5)).outcome == "passed"


def test_canaries_without_a_budget_refuse_nothing_by_themselves():
    found = canary(2.5, 1.0)[:2]
    assert decide(found, at_most(0.5)).outcome == "passed"
    assert decide(found, at_most(1.0, "canary.epsilon")).outcome == "refused"


def test_verdict_that_forgot_the_canaries_contradicts_its_findings():
    rules = [at_most(0.5)]
    found = {item.name: item for item in canary(2.5, 1.0)}
    assert gate.contradictions(decide(finding(), *rules), found, rules)
    assert not gate.contradictions(decide(list(found.values()), *rules), found, rules)


def test_release_says_in_one_sentence_how_many_canaries_there_were_and_what_was_found():
    found = [finding("canary.epsilon", 1.25, n=100), finding("canary.right", 0.75, unit="share")]
    [said] = gate.say_canaries({item.name: item for item in found})
    assert "100 canary images were made up" in said
    assert "75 % right" in said
    assert "at least 1.25" in said
    assert "none is released" in said
    assert gate.say_canaries({}) == ()
