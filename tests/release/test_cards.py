"""What the cards say: how the images were drawn, who may attack, what the model gives away."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import study

from medsynth.finding import Finding
from medsynth.release.attackers import ATTACKS
from medsynth.release.cards import CardData, model_card, privacy_report, study_rows

WAYS = [
    ({}, "DDIM, 4 steps, guidance 1, eta 0"),
    ({"sampler": "ddim", "eta": 0.5}, "DDIM, 4 steps, guidance 1, eta 0.5"),
    ({"sampler": "unipc", "steps": 1}, "UniPC, 1 step, guidance 1"),
    (
        {"sampler": "unipc", "steps": 4, "student": {"steps": 2}},
        "by a student in 2 steps, which learned what the denoiser draws with UniPC, 4 steps, "
        "guidance 1",
    ),
    ({"sampler": "dpm", "spacing": "even"}, "DPM-Solver++(2M), 4 steps even in time, guidance 1"),
    (
        {"guidance": 2.0, "guidance_interval": [0.5, 3.0]},
        "DDIM, 4 steps, guidance 2 between noise levels 0.5 and 3, eta 0",
    ),
]


@pytest.mark.parametrize(("knobs", "said"), WAYS)
def test_card_says_how_images_were_drawn(knobs, said):
    changed = study(**{f"sample.{name}": value for name, value in knobs.items()})
    assert said in dict(study_rows(changed)).values()


LEARNED = [
    ({}, "predicts v, trained on 256 images (repeats counted)"),
    ({"objective": "eps", "patience": 3}, "predicts noise, trained on up to 256 images"),
    ({"objective": "flow"}, "predicts the velocity of rectified flow, trained on 256 images"),
    ({"told": {"share": 0.4}}, "(repeats counted), 40% of them changed, of which it is told"),
]


@pytest.mark.parametrize(("knobs", "said"), LEARNED)
def test_card_says_how_the_denoiser_learned(knobs, said):
    changed = study(**{f"diffusion.{name}": value for name, value in knobs.items()})
    assert said in dict(study_rows(changed))["Diffusion"]


def cards(study, **changes):
    data = {key: study[key] for key in ("protocol", "verdict", "findings", "split")}
    return CardData(**(data | {"images": 24, "labels": {}} | changes))


def test_the_privacy_report_says_who_attacks_with_which_power_and_what_stays_open(made_up_study):
    text = privacy_report(cards(made_up_study))
    assert "copy rate 0 % (interval 0 % to 1.37 %; 1 % for held-out real patients; n = 300)" in text
    assert "Shown to work: recall, crop 84 % (interval 66 % to 89 %; n = 25)" in text  # the weakest
    open_ = text.split("## What was not measured")[1]
    assert "Matcher: Can a training patient be recognised" in open_
    assert "up to 1.37 % of the images may be copies" in open_
    assert "anonymous in the sense of the law" in open_
    for sentence in made_up_study["verdict"].claim:
        assert sentence in text


def test_an_attack_that_misses_what_was_planted_is_said_to_be_blind(made_up_study):
    findings = dict(made_up_study["findings"])
    findings["memorization.recall.crop"] = replace(
        findings["memorization.recall.crop"], value=0.04, low=0.0, high=0.2
    )
    text = privacy_report(cards(made_up_study, findings=findings))
    assert "*Measured, with gaps.*" in text
    assert "- Shown to work: recall, elastic 88 %" in text  # the weakest of those that are seen
    assert "- Blind: recall, crop 4 % (interval 0 % to 20 %; n = 25)" in text


def test_an_audit_that_sees_no_number_of_copies_is_not_shown_to_work(made_up_study):
    findings = {
        name: found for name, found in made_up_study["findings"].items()
        if not name.startswith("memorization.recall")
    }  # fmt: skip
    seen = Finding("memorization.smallest_rate", 0.02, 0.01, 0.03, 300,
                   "share of synthetic images", "lower is better", "mixes")  # fmt: skip
    text = privacy_report(cards(made_up_study, findings=findings | {seen.name: seen}))
    assert "*Measured.*" in text
    assert "copies fewer than 2 % of them may go unseen" in text
    none = replace(seen, value=1.0, high=1.0)
    text = privacy_report(cards(made_up_study, findings=findings | {seen.name: none}))
    assert "no share of copies that was tried would be seen reliably" in text
    assert "*Measured, and not shown to work.*" in text
    assert "- Shown to work: no\n- Blind: smallest rate 100 %" in text


def test_of_regions_the_sizes_that_are_not_seen_are_named(made_up_study):
    rows = [
        Finding(name, value, low, high, 60, "share", "higher is better", "planted regions")
        for name, value, low, high in (
            ("memorization.region_rate", 0.0, 0.0, 0.04),
            ("memorization.region_recall", 0.3, 0.23, 0.37),
            ("memorization.region_recall.half", 0.67, 0.53, 0.78),
            ("memorization.region_recall.quarter", 0.03, 0.004, 0.12),
        )
    ]
    findings = made_up_study["findings"] | {row.name: row for row in rows}
    text = privacy_report(cards(made_up_study, findings=findings))
    assert "- Shown to work: region recall, half 67 %" in text
    assert "- Blind: region recall, quarter 3 %" in text


def test_an_attack_without_a_number_is_said_to_be_one(made_up_study):
    nan = float("nan")
    row = Finding("identity.match_rate", nan, nan, nan, 0, "share of synthetic images",
                  "lower is better", "too few people with several pictures")  # fmt: skip
    text = privacy_report(
        cards(made_up_study, findings=made_up_study["findings"] | {row.name: row})
    )
    assert "*Tried, without a number.*" in text
    assert "No number: `identity.match_rate`" in text
    assert "same person? (Tried, without a number.)" in text


def test_the_model_card_says_whether_weights_leave_and_what_they_give_away(made_up_study):
    text = model_card(cards(made_up_study))
    assert "Its weights are not part of this release" in text
    assert "nobody asked the weights" in text
    assert "library_name" in text.split("---\n")[1]
    row = Finding("membership.model.p_value", 0.3, 0.2, 0.4, 99, "probability",
                  "higher is better", "permutations")  # fmt: skip
    text = model_card(
        cards(made_up_study, weights=True, findings=made_up_study["findings"] | {row.name: row})
    )
    assert "Its weights are part of this release" in text
    assert "`membership.model.p_value`: model, p-value 0.3 (interval 0.2 to 0.4; n = 99)" in text
    assert "and the weights not" not in text


def test_every_finding_that_answers_an_attack_is_on_the_page_of_measures():
    """A measure that was renamed would leave its attack "not measured" for ever."""
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    for attack in ATTACKS:
        for name in (*attack.found, *attack.power):
            general = re.sub(r"membership\.(?!model)\w+\.", "membership.<attack>.", name)
            assert f"`{general}`" in page, name


def test_card_says_that_a_base_was_trained_by_others():
    pinned = {"weights": "sd", "sha256": "ab" * 32}
    changed = study(
        **{"autoencoder.source": "public"},
        **{f"autoencoder.{name}": value for name, value in pinned.items()},
        **{"diffusion.base": {**pinned, "prompt": "a chest, {finding}"}},
    )
    said = dict(study_rows(changed))["Diffusion"]
    assert said.startswith("predicts v, a text-conditioned network of others (sha256 abababababab)")
    assert 'told "a chest, {finding}"' in said
