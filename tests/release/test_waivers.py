"""A waived rule is judged, told before all else and counted; not all of privacy can be waived."""

from dataclasses import replace

import pytest
from made_up import PROTOCOL, SPLIT, judged, make_cohort, make_findings

from medsynth import protocol
from medsynth.errors import ProtocolError
from medsynth.finding import read_verdict
from medsynth.release import gate
from medsynth.release.cards import CardData, card
from medsynth.release.export import write_release
from medsynth.release.report import PrivateReport, private_report
from medsynth.release.verify import verify
from medsynth.release.waivers import is_privacy, waivers
from medsynth.runtime import write_json

BY = "Dr. A. Example, data protection officer"
WHY = "The copies that were found are of phantoms alone, and were looked at one by one"
WAIVER = f'waived: {{by: "{BY}", reason: "{WHY}"}}'


def waived_protocol(*rules: str) -> protocol.Protocol:
    text = PROTOCOL
    for rule in rules:
        assert f"{rule}}}" in text
        text = text.replace(f"{rule}}}", f"{rule}, {WAIVER}}}")
    return protocol.parse(text)


def findings_with(name: str, value: float) -> dict:
    found = make_findings()
    return found | {name: replace(found[name], value=value, low=value, high=value)}


@pytest.fixture
def waived() -> dict:
    """A study whose copy rate and sharpness of detail do not hold, both waived."""
    settings = waived_protocol("at_most: 0.03", "finding: reconstruction.ssim, at_least: 0.8")
    findings = findings_with("memorization.copy_rate", 0.2)
    findings |= {"reconstruction.ssim": findings_with("reconstruction.ssim", 0.5)[
        "reconstruction.ssim"]}  # fmt: skip
    return judged(settings, make_cohort(), findings)


def test_what_does_not_hold_and_is_waived_closes_no_gate_and_is_counted(waived):
    verdict = waived["verdict"]
    assert (verdict.outcome, verdict.waived) == ("passed", 2)
    outcomes = {item.finding: item.outcome for item in verdict.judgements}
    assert outcomes["memorization.copy_rate"] == "waived"
    assert outcomes["memorization.p_value"] == "passed"


def test_what_holds_is_not_waived():
    settings = waived_protocol("at_most: 0.03")
    verdict = judged(settings, make_cohort(), make_findings())["verdict"]
    assert (verdict.outcome, verdict.waived, waivers(verdict)) == ("passed", 0, [])


def test_what_was_not_measured_can_be_waived_and_is_told():
    settings = waived_protocol("finding: fidelity.precision, at_least: 0.4")
    findings = make_findings()
    del findings["fidelity.precision"]
    verdict = judged(settings, make_cohort(), findings)["verdict"]
    assert "was not measured" in waivers(verdict)[0].lower()


def test_other_rules_still_refuse(waived):
    findings = waived["findings"] | findings_with("memorization.exact_copies", 3)
    assert judged(waived["protocol"], make_cohort(), findings)["verdict"].outcome == "refused"


def test_a_rejection_is_remembered_although_its_rule_is_waived():
    rules = waived_protocol("not_rejected_at: 0.05").gate.rules
    findings = findings_with("memorization.p_value", 0.0001)
    assert gate.rejects(findings, rules, attempt=1)


def test_privacy_comes_first_and_says_so_with_reason_and_name(waived):
    first, second = waivers(waived["verdict"])
    assert first.startswith("A privacy rule does not hold and was waived: Memorization, copy rate")
    assert BY in first
    assert WHY in first
    assert "20 %" in first
    assert second.startswith("A rule on quality does not hold and was waived")


@pytest.mark.parametrize("name", ["memorization.p_value", "membership.model.auc", "brand.new"])
def test_what_is_not_known_to_be_quality_is_privacy(name):
    assert is_privacy(name)
    assert not is_privacy("fidelity.recall")


def test_card_and_both_reports_begin_with_it(waived, tmp_path):
    write_release(tmp_path, **waived)
    text = (tmp_path / "README.md").read_text()
    title = text.index("\n# ")
    assert text[title:].split("\n\n")[1].startswith("> **A privacy rule does not hold and was")
    assert "passed, 2 rules waived" in text
    data = {key: waived[key] for key in ("protocol", "verdict", "findings", "split")}
    pages = [(tmp_path / "report.html").read_text(), private_report(PrivateReport(**data))]
    for page in pages:
        body = page[page.index("<body>") :]
        assert body.index("A privacy rule does not hold") < body.index("<header>")
        assert body.count('class="waiver"') == 1
    assert verify(tmp_path).ok


def test_a_card_without_waivers_has_no_word_of_them():
    study = judged(protocol.parse(PROTOCOL), make_cohort(), make_findings())
    data = {key: study[key] for key in ("protocol", "verdict", "findings")}
    text = card(CardData(images=24, labels={}, split=SPLIT, **data))
    assert "waive" not in text


def test_a_verdict_that_hides_a_waiver_is_a_fault(waived, tmp_path):
    write_release(tmp_path, **waived)
    verdict = read_verdict(tmp_path / "verdict.json")
    write_json(tmp_path / "verdict.json", replace(verdict, waived=0).to_dict())
    assert "counts 0 waived" in "".join(verify(tmp_path).faults)


def test_the_last_memorization_rule_can_not_be_waived():
    text = PROTOCOL.split("gate:")[0] + (
        f"gate:\n  rules:\n    - {{finding: memorization.p_value, not_rejected_at: 0.05, {WAIVER}}}"
    )
    with pytest.raises(ProtocolError, match="memorization finding, and not waived"):
        protocol.parse(text)


@pytest.mark.parametrize("waiver", ['{by: "me", reason: "because it is so"}', '{by: "Dr. A."}'])
def test_a_waiver_needs_a_name_and_a_reason(waiver):
    text = PROTOCOL.replace("at_most: 0.03}", f"at_most: 0.03, waived: {waiver}}}")
    with pytest.raises(ProtocolError, match="waived"):
        protocol.parse(text)


def test_an_old_protocol_has_the_digest_it_had():
    assert "waived" not in str(protocol.set_knobs(protocol.parse(PROTOCOL).to_dict()))
