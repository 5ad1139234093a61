"""Protocols: strict, all faults at once with their lines, profiles, digests, the reference page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsynth import protocol
from medsynth.errors import ProtocolError
from medsynth.protocol import Protocol, digest_as_written, parse, to_yaml
from medsynth.reference import knobs, protocol_page

ROOT = Path(__file__).parents[1]
SMALLEST = """\
name: small
domain: fundus
gate:
  rules:
    - {finding: memorization.copies, at_most: 0.01}
"""


def faults(text, **options):
    with pytest.raises(ProtocolError) as caught:
        parse(text, source="study.yaml", **options)
    return caught.value.faults


def test_smallest_protocol_has_all_defaults():
    study = parse(SMALLEST)
    assert (study.image.size_px, study.split.holdout, study.sample.steps) == (256, 0.4, 50)
    assert study.gate.rules[0].at_most == 0.01


def test_gate_has_no_defaults():
    assert faults("name: a\ndomain: fundus\n") == (
        "gate: is required: a person writes the rules, before the data is seen",
    )


@pytest.mark.parametrize(("line", "fault"), [
    ("sed: 1", "line 6: sed: no such knob (got 1)"),
    ("image: {size: 64}", "line 6: image.size: no such knob (got 64)"),
    ("seed: '1'", "line 6: seed: Input should be a valid integer (got '1')"),
    ("seed: 1.5", "line 6: seed: Input should be a valid integer"),
    ("autoencoder: {deep_supervision: no}", "line 6: autoencoder.deep_supervision: Input"),
    ("image: {size_px: 100}", "line 6: image.size_px: Input should be a multiple of 8 (got 100)"),
    ("image: {bits: 12}", "line 6: image.bits: Input should be 8 or 16 (got 12)"),
    ("image: null", "line 6: image: Input should be an object"),
    ("split: {holdout: 1.5}", "line 6: split.holdout: Input should be less than or equal to 1"),
    ("split: {holdout: .nan}", "line 6: split.holdout: Input should be less than or equal to 1"),
    ("split: {holdout: 0.9}", "line 6: split: validation + holdout must leave at least 5 %"),
    ("lens: {weights: a.pt2}", "line 6: lens: weights and sha256 come together"),
    ("autoencoder: {principal_start: true, widths: [64]}", "line 6: autoencoder: principal_start"),
    ("autoencoder: {widths: [60]}", "line 6: autoencoder: every one of widths must be a multiple"),
    ("diffusion: {attention: [true]}", "line 6: diffusion: attention needs one entry a level: 3"),
    ("autoencoder: {adversarial: {weight: 1}}", "line 6: autoencoder.adversarial.after_images"),
])  # fmt: skip
def test_one_fault_says_its_line_and_what_was_expected(line, fault):
    found = faults(SMALLEST + line + "\n")
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_all_faults_come_at_once_each_with_its_line():
    text = "name: A b\ndomain: mri\nseed: -1\nimage:\n  bits: 9\n  colour: yes\n"
    found = faults(text)
    assert [fault.split(":")[0] for fault in found if fault.startswith("line")] == [
        "line 1", "line 2", "line 3", "line 5", "line 6"
    ]  # fmt: skip
    assert any(fault.startswith("gate: is required") for fault in found)
    assert len(found) == 6


def test_message_names_the_file_and_counts():
    with pytest.raises(ProtocolError, match=r"study\.yaml: 2 faults\n  line 6: a: no such knob"):
        parse(SMALLEST + "a: 1\nb: 2\n", source="study.yaml")


def test_sizes_must_fit_the_networks():
    (fault,) = faults(SMALLEST + "image: {size_px: 40}\n")
    assert "image.size_px must be a multiple of 32" in fault


@pytest.mark.parametrize(("rule", "message"), [
    ("{finding: memorization.a}", "exactly one of at_most, at_least and not_rejected_at"),
    ("{finding: memorization.a, at_most: 1, at_least: 0}", "exactly one of"),
    ("{finding: fidelity.a, at_most: 1}", "at least one rule must be on a memorization finding"),
    ("{finding: memorization.a, not_rejected_at: 1.0}", "less than 1"),
    ("{at_most: 1}", "finding: is required"),
])  # fmt: skip
def test_rule_needs_a_name_and_one_bar_and_one_guards_privacy(rule, message):
    found = faults(f"name: a\ndomain: fundus\ngate:\n  rules:\n    - {rule}\n")
    assert any(message in fault for fault in found)


@pytest.mark.parametrize(("text", "message"), [
    ("name: [", "not YAML"),
    ("name: a\nname: b\n", "line 2: not YAML: found duplicate key"),
    ("- a\n", "expected a mapping of sections at the top"),
    ("", "expected a mapping of sections at the top"),
])  # fmt: skip
def test_what_is_no_yaml_mapping_is_refused(text, message):
    (fault,) = faults(text)
    assert message in fault


def test_yaml_tags_run_nothing():
    (fault,) = faults(SMALLEST + "seed: !!python/object/apply:os.getpid []\n")
    assert fault.startswith("line 6: seed")


def test_exponents_are_numbers_and_no_is_a_word():
    study = parse(SMALLEST + "autoencoder: {kl_weight: 1e-5}\ncard: {title: no}\n")
    assert study.autoencoder.kl_weight == 1e-5
    assert study.card.title == "no"


def test_absent_file_is_a_fault(tmp_path):
    with pytest.raises(ProtocolError, match=r"nowhere\.yaml: 1 fault\n  no such file"):
        protocol.load(tmp_path / "nowhere.yaml")


# Profiles and changes -----------------------------------------------------------------------------

PROFILES = (
    SMALLEST.replace("fundus", "chest_xray")
    + """\
image: {size_px: 64, bits: 16}
profiles:
  full:
    image: {size_px: 128}
  broken:
    image:
      size_px: 7
"""
)


def test_profile_changes_what_it_names_and_nothing_else():
    assert parse(PROFILES).image.size_px == 64
    full = parse(PROFILES, profile="full")
    assert (full.image.size_px, full.image.bits) == (128, 16)


def test_change_wins_over_profile():
    study = parse(PROFILES, profile="full", changes={"image.size_px": 32, "seed": 3})
    assert (study.image.size_px, study.seed) == (32, 3)


def test_one_knob_of_a_training_changes_and_the_others_stay():
    default = parse(SMALLEST).diffusion.training
    changed = parse(SMALLEST + "diffusion: {training: {batch: 8}}\n").diffusion.training
    assert changed == default.model_copy(update={"batch": 8})
    assert parse(SMALLEST, changes={"diffusion.training.batch": 8}).diffusion.training == changed


def test_fault_in_a_profile_has_the_profiles_line():
    (fault,) = faults(PROFILES, profile="broken")
    assert fault.startswith("line 12: image.size_px")


def test_unknown_profile_is_refused_with_those_there_are():
    assert faults(PROFILES, profile="huge") == (
        "profiles: no profile 'huge'; the file has: full, broken",
    )


@pytest.mark.parametrize(("profiles", "message"), [
    ("profiles: 3", "profiles: expected a mapping of names to changes"),
    ("profiles: {full: 3}", "profiles.full: expected a mapping of sections"),
    ("", "profiles: no profile 'full'; the file has: none"),
])  # fmt: skip
def test_malformed_profiles_are_faults(profiles, message):
    assert faults(SMALLEST + profiles, profile="full") == (message,)


def test_unknown_change_is_refused():
    assert faults(SMALLEST, changes={"image.colour": 1}) == ("image.colour: no such knob (got 1)",)


# Values and digests -------------------------------------------------------------------------------


def test_a_protocol_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        parse(SMALLEST).image.size_px = 64


def test_digest_ignores_comments_order_and_spelled_out_defaults():
    shuffled = "# a study\nseed: 0\ndomain: fundus\nimage: {size_px: 256}\n" + SMALLEST.replace(
        "domain: fundus\n", ""
    )
    assert parse(shuffled).digest == parse(SMALLEST).digest


@pytest.mark.parametrize(("knobs", "fault"), [
    ({"eta": 0.5, "sampler": "unipc"}, "eta 0.5 is DDIM's: sampler unipc adds no noise"),
    ({"eta": 1.0, "sampler": "dpm"}, "eta 1 is DDIM's: sampler dpm adds no noise"),
    ({"guidance": 2.0, "guidance_interval": [3.0, 0.5]}, "must rise, got 3 to 0.5"),
    ({"guidance_interval": [0.5, 3.0]}, "which guidance 1 does nowhere"),
])  # fmt: skip
def test_knobs_of_sampling_that_do_not_go_together_are_refused(knobs, fault):
    with pytest.raises(ProtocolError, match=fault):
        parse(SMALLEST, changes={f"sample.{name}": value for name, value in knobs.items()})


@pytest.mark.parametrize("knobs", [
    {"eta": 0.5, "sampler": "ddim"}, {"eta": 0.5}, {"sampler": "dpm", "spacing": "even"},
    {"guidance": 2.0, "guidance_interval": [0.5, 3.0], "sampler": "unipc"},
])  # fmt: skip
def test_knobs_of_sampling_that_go_together_are_read(knobs):
    study = parse(SMALLEST, changes={f"sample.{name}": value for name, value in knobs.items()})
    assert knobs.items() <= study.section("sample").items()


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"image.size_px": 128}, {"card.title": "x"}, {"sample.labels": {"d": {"a": 1}}},
])  # fmt: skip
def test_digest_changes_with_every_knob(change):
    assert parse(SMALLEST, changes=change).digest != parse(SMALLEST).digest


@given(
    st.integers(0, 10**6),
    st.sampled_from([32, 64, 256]),
    st.floats(0, 10),
    st.text("ab ñ:#'", max_size=8),
)
def test_yaml_that_is_written_is_read_back(seed, size_px, guidance, title):
    changes = {
        "seed": seed,
        "image.size_px": size_px,
        "sample.guidance": guidance,
        "card.title": title,
    }
    study = parse(SMALLEST, changes=changes)
    again = parse(to_yaml(study))
    assert again == study
    assert again.digest == study.digest


def test_digest_of_a_file_as_written_stands_whatever_a_later_version_adds(tmp_path):
    path, study = tmp_path / "protocol.yaml", parse(SMALLEST)
    path.write_text(to_yaml(study))
    assert digest_as_written(path) == study.digest
    path.write_text(path.read_text() + "a_new_knob: null\n")
    assert digest_as_written(path) == study.digest
    path.write_text(path.read_text().replace("a_new_knob: null", "a_new_knob: 1"))
    assert digest_as_written(path) != study.digest


def test_section_is_plain_json_under_its_name_in_the_file():
    study = parse(SMALLEST)
    assert study.section("validate")["permutations"] == 1999
    assert study.section("seed") == 0
    assert "validate_" not in study.to_dict()


@pytest.mark.parametrize("path", sorted((ROOT / "protocols").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_protocols_and_all_their_profiles_are_valid(path):
    from ruamel.yaml import YAML

    profiles = YAML(typ="safe").load(path.read_text()).get("profiles") or {}
    for profile in (None, *profiles):
        assert protocol.load(path, profile=profile).gate.rules


# The reference page -------------------------------------------------------------------------------


def flat(values, prefix=""):
    for key, value in values.items():
        yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]


def test_reference_names_every_knob_once_and_says_what_it_means():
    named = [knob.name for knob in knobs()]
    assert len(named) == len(set(named))
    assert set(flat(parse(SMALLEST).to_dict())) <= set(named)
    assert not [
        knob.name
        for knob in knobs()
        if not knob.meaning
        and knob.name.split(".")[0] in Protocol.model_fields
        and "." in knob.name
    ]


def test_reference_shows_the_defaults_that_hold():
    import json

    study = parse(SMALLEST).to_dict()
    for knob in knobs():
        optional = ("adversarial.", "private.", "canaries.", "choose.", "told.", "averages.", "[]",
                    "student.", "base.", "perceptual.", "masks.", "control.", "concept.",
                    "augment.", "utility.")  # fmt: skip
        if knob.default and not any(part in knob.name for part in optional):
            value = study
            for part in knob.name.split("."):
                value = value[part]
            assert json.loads(knob.default) == value


def test_reference_page_is_the_one_that_the_types_make():
    page = (ROOT / "docs" / "protocol.md").read_text()
    assert page == protocol_page(), "docs/protocol.md is old: make docs"


@pytest.mark.parametrize("section", ["control", "concept"])
def test_an_optional_section_may_change_one_knob_of_its_training(section):
    text = f"{SMALLEST}{section}: {{training: {{images: 64}}}}\n"
    usual = parse(f"{SMALLEST}{section}: {{}}\n").to_dict()[section]["training"]
    assert parse(text).to_dict()[section]["training"] == {**usual, "images": 64}
