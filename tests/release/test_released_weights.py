"""Released weights: plain diffusers and MONAI open and draw with them, and no one else's path or
rare label is in them."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import PROTOCOL, judged, make_cohort, make_findings
from ruamel.yaml import YAML
from safetensors.torch import load_file

from medsynth import protocol
from medsynth.errors import ProtocolError, RefusedError
from medsynth.finding import Finding
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser, encode_conditions, guided
from medsynth.models.diffusion import CLEAN, Schedule, ddim, noise_like
from medsynth.release.export import write_release
from medsynth.release.verify import verify
from medsynth.release.weights import Weights
from medsynth.runtime import read_json, write_json
from medsynth.vocabulary import Vocabulary

RULE = "\n    - {finding: membership.model.p_value, not_rejected_at: 0.05}\n"
SMALL = """
autoencoder: {fold_px: 4, principal_start: true, widths: [16], latent_channels: 4}
diffusion: {widths: [16, 32], attention: [false, true], layers: 1, groups: 8, OBJECTIVE}
"""
OBJECTIVES = {
    "v": "objective: v",
    "eps": "objective: eps, schedule: scaled_linear",
    "flow": "objective: flow, schedule: flow",
}
LABELS = [{"disease": "retinopathy"}, {"disease": "none"}, {}]
SEEDS, STEPS, GUIDANCE = [11, 12, 13], 10, 1.7


def settings_for(objective: str) -> protocol.Protocol:
    text = PROTOCOL.replace("size_px: 64", "size_px: 32").rstrip() + RULE
    text = text.replace("  licence: CC BY 4.0", "  licence: CC BY 4.0\n  weights: true")
    return protocol.parse(text + SMALL.replace("OBJECTIVE", OBJECTIVES[objective]))


def findings_of_weights(value: float = 0.6) -> dict:
    found = make_findings()
    rows = [
        Finding("membership.model.p_value", value, value, value, 199, "probability",
                "higher is better", "permutation of patients"),
        Finding("membership.loss.auc", 0.51, 0.47, 0.55, 220, "", "lower is better",
                "by the denoiser's loss", 0.5, "guessing"),
    ]  # fmt: skip
    return found | {row.name: row for row in rows}


def networks(folder: Path, settings: protocol.Protocol) -> Weights:
    """Networks with random weights, as a run keeps them; one label is one patient's alone."""
    torch.manual_seed(3)
    autoencoder = Autoencoder.build(settings.autoencoder, channels=3)
    autoencoder.start_from(torch.rand(20, 3, 32, 32) * 2 - 1)
    autoencoder.set_scale(torch.randn(4), torch.rand(4) + 0.5)
    torch.nn.init.normal_(autoencoder.net.decoder.conv_out.weight, std=0.1)
    words = Vocabulary.from_labels({"disease": d} for d in ("none", "rarest-of-all", "retinopathy"))
    denoiser = Denoiser.build(settings.diffusion, latent_channels=4, latent_px=8, tokens=words.size)
    for name in ("autoencoder", "diffusion"):
        (folder / name).mkdir(parents=True)
    autoencoder.save(folder / "autoencoder")
    denoiser.save(folder / "diffusion")
    words.write(folder / "diffusion" / "vocabulary.json")
    config = folder / "diffusion" / "config.json"
    write_json(config, read_json(config) | {"_name_or_path": "/hospital/ward7"})
    return Weights(
        autoencoder=folder / "autoencoder",
        diffusion=folder / "diffusion",
        betas=Schedule.of(settings.diffusion).step_betas.tolist(),
        common={"disease": ["none", "retinopathy"]},
        rarest=5,
    )


DRAWING = """
import json, runpy, sys, numpy as np
sys.modules["medsynth"] = None  # whoever imports it fails
labels, seeds, steps, guidance = json.loads(sys.argv[1])
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
for folder in sys.argv[2:]:
    AutoencoderKL.from_pretrained(folder + "/vae")
    UNet2DConditionModel.from_pretrained(folder + "/unet")
    DDIMScheduler.from_pretrained(folder + "/scheduler")
    own = runpy.run_path(folder + "/draw.py")
    model = own["Model"]()
    z = model.latents(labels, seeds, steps, guidance)
    np.savez(folder + "/../drawn.npz", latents=z, images=model.decode(z))
    sys.argv[1:] = [folder + "/../png", "--count", "1", "--label", "disease=none", "--steps", "2"]
    own["main"]()
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict:
    """Releases with weights of each objective, and what plain diffusers drew from them."""
    made = {}
    for objective in OBJECTIVES:
        place = tmp_path_factory.mktemp(objective)
        settings = settings_for(objective)
        study = judged(settings, make_cohort(images=4, size_px=32), findings_of_weights())
        weights = networks(place / "run", settings)
        (place / "release").mkdir()
        write_release(place / "release", **study, networks=weights)
        assert verify(place / "release").faults == ()
        made[objective] = (settings, weights, place / "release")
    asked = json.dumps([LABELS, SEEDS, STEPS, GUIDANCE])
    folders = [str(folder / "model") for _, _, folder in made.values()]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-c", DRAWING, asked, *folders], check=True, env=clean, cwd=place
    )
    return made


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_plain_diffusers_draws_what_our_own_ddim_draws_at_the_same_times(drawn, objective):
    settings, weights, release = drawn[objective]
    schedule, words = (
        Schedule.of(settings.diffusion),
        Vocabulary.read(weights.diffusion / "vocabulary.json"),
    )
    denoiser = Denoiser.load(weights.diffusion)
    tokens = encode_conditions(words, LABELS)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    size = settings.diffusion.timesteps // STEPS
    times = list(range(settings.diffusion.timesteps - 1, -1, -size))
    with torch.inference_mode():
        z = ddim(
            guided(denoiser, tokens, GUIDANCE),
            noise_like(torch.empty(len(SEEDS), 4, 8, 8), generators),
            schedule,
            list(zip(times, [*times[1:], CLEAN], strict=True)),
            objective=settings.diffusion.objective,
        )
        images = Autoencoder.load(weights.autoencoder).decode(z)
    theirs = np.load(release / "drawn.npz")
    spread = float(z.std())
    np.testing.assert_allclose(theirs["latents"], z, atol=1e-4 * spread, rtol=0)
    np.testing.assert_allclose(theirs["images"], images, atol=1e-3, rtol=0)
    assert np.ptp(theirs["images"]) > 0.1


def test_the_script_writes_pictures_that_say_what_they_are(drawn):
    from PIL import Image

    for _, _, release in drawn.values():
        with Image.open(release / "png" / "synthetic-0.png") as picture:
            assert picture.size == (32, 32)
            assert picture.text["Source"].startswith("Synthetic image")


def test_no_rare_label_and_no_path_of_the_hospital_leaves(drawn):
    for _, weights, release in drawn.values():
        for path in (release / "model").rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            assert b"rarest-of-all" not in data
            assert b"ward7" not in data
        whole = load_file(weights.diffusion / "tokens.safetensors")["weight"]
        left = load_file(release / "model" / "extra.safetensors")["tokens"]
        assert torch.equal(left, whole[[0, 1, 3]])  # null, none, retinopathy
        assert b"ward7" in (weights.diffusion / "config.json").read_bytes()


def test_it_is_a_bundle_that_monai_opens_and_draws_with(drawn):
    from monai.bundle import ConfigParser

    _, _, release = drawn["v"]
    folder = release / "model"
    config = ConfigParser()
    config.read_config(folder / "configs" / "inference.json")
    config.read_meta(folder / "configs" / "metadata.json")
    config["bundle_root"], config["steps"] = str(folder), STEPS
    config["labels"], config["count"] = LABELS[:1], 1
    config["device"] = "cpu"
    network = config.get_parsed_content("network_def")
    assert type(network).__name__ == "UNet2DConditionModel"
    assert type(config.get_parsed_content("autoencoder_def")).__name__ == "AutoencoderKL"
    images = config.get_parsed_content("images")
    meta = config["_meta_"]
    picture = meta["network_data_format"]["outputs"]["image"]
    assert list(images.shape) == [1, picture["num_channels"], *picture["spatial_shape"]]
    wanted = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version",
              "task", "description", "authors", "copyright", "network_data_format"}  # fmt: skip
    assert wanted <= meta.keys()


def test_the_card_has_front_matter_what_was_found_and_what_was_not(drawn):
    text = (drawn["v"][2] / "model" / "README.md").read_text()
    front = YAML(typ="safe").load(text.split("---")[1])
    assert front["library_name"] == "diffusers"
    assert front["license"] == "cc-by-4.0"
    for said in ("learned from patients' images", "membership.loss.auc", "Not for clinical",
                 "at least 5 training patients have", "draw.py", "which learned from the training",
                 "no leakage was found by these tests"):  # fmt: skip
        assert said in text


# When weights do not leave ----------------------------------------------------------------------


WAIVED = ', waived: {by: "Dr. A. Example", reason: "there was no time for it"}}'


@pytest.mark.parametrize("rule", ["", RULE.replace("0.05}", f"0.05{WAIVED}")])
def test_a_protocol_that_releases_weights_needs_a_rule_on_them(rule):
    text = PROTOCOL.replace("  licence: CC BY 4.0", "  weights: true").rstrip() + rule
    with pytest.raises(ProtocolError, match=r"card\.weights needs a rule on membership"):
        protocol.parse(text)


def test_it_needs_the_attacks_to_be_made():
    text = PROTOCOL.replace("  licence: CC BY 4.0", "  weights: true").rstrip() + RULE
    with pytest.raises(ProtocolError, match="white_box_images above 0"):
        protocol.parse(text, changes={"validate.white_box_images": 0})


def test_weights_stay_where_the_attack_succeeds_or_the_protocol_keeps_them(tmp_path):
    settings = settings_for("v")
    weights = networks(tmp_path / "run", settings)
    cohort = make_cohort(images=4, size_px=32)
    folder = tmp_path / "release"
    folder.mkdir()
    bad = judged(settings, cohort, findings_of_weights(0.001))
    with pytest.raises(RefusedError, match="the gate did not pass"):
        write_release(folder, **bad, networks=weights)
    good = judged(settings, cohort, findings_of_weights())
    with pytest.raises(RefusedError, match=r"card\.weights and what is to be released"):
        write_release(folder, **good)
    kept = protocol.parse(PROTOCOL)
    study = judged(kept, make_cohort(images=4), findings_of_weights())
    with pytest.raises(RefusedError, match=r"card\.weights and what is to be released"):
        write_release(folder, **study, networks=weights)
    passed = replace(good["verdict"], judgements=good["verdict"].judgements[:-1])
    with pytest.raises(RefusedError, match="weights need membership"):
        write_release(folder, **good | {"verdict": passed}, networks=weights)
    assert not list(folder.iterdir())


def test_verify_finds_weights_that_a_protocol_keeps_and_pickles(drawn, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(drawn["v"][2], folder)
    (folder / "model" / "weights.pt").write_bytes(b"x")
    assert "model/weights.pt: may run code" in "".join(verify(folder).faults)
    shutil.rmtree(folder / "model")
    assert "model/: the protocol releases the weights" in "".join(verify(folder).faults)
