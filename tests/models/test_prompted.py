"""A text-conditioned base answers as diffusers' own pipeline does, and only a concept learns."""

import json
import shutil

import numpy as np
import pytest
import torch
from tiny import study
from tiny_base import PROMPT, asking, write_base

from medsynth import protocol
from medsynth.errors import DataError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.concept import Concept
from medsynth.models.control import Controlled, build_control
from medsynth.models.denoiser import guided
from medsynth.models.diffusion import Schedule, ddim
from medsynth.models.prompted import Prompted, noise_of, open_base, open_denoiser
from medsynth.training import inversion
from medsynth.training.diffusion import denoising_loss
from medsynth.vocabulary import Vocabulary, describe

VOCABULARY = Vocabulary(("finding",), (("finding", "effusion"), ("finding", "normal")))
NORMAL, TOKEN = 2, 3
OPTIMISER = protocol.Optimiser(images=1, batch=8, learning_rate=0.04, decay="constant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def base(folder) -> Prompted:
    return open_base(folder, VOCABULARY, PROMPT, latent_px=8)


@pytest.fixture
def seen():
    torch.manual_seed(1)
    return torch.randn(3, 4, 8, 8), torch.tensor([10, 500, 990])


def conditions(*tokens: int) -> torch.Tensor:
    return torch.tensor(tokens)[:, None]


@pytest.fixture(scope="module")
def pipe(folder, base):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=base.encoder,
        tokenizer=base.tokenizer,
        unet=base.unet,
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def test_it_answers_as_the_pipeline_of_diffusers_does(base, pipe, seen):
    asked = ["a chest x-ray, normal", "a chest x-ray, effusion", ""]
    words, _ = pipe.encode_prompt(asked, "cpu", 1, False)
    with torch.inference_mode():
        wanted = pipe.unet(*seen, encoder_hidden_states=words).sample
        torch.testing.assert_close(base(*seen, conditions(2, 1, 0)), wanted, atol=1e-5, rtol=0)


def test_a_whole_guided_walk_ends_where_the_pipeline_ends(folder, base, pipe, seen):
    steps, settings = 5, study(**asking(folder)).diffusion
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    made = pipe("a chest x-ray, normal", num_inference_steps=steps, guidance_scale=3.0,
                height=32, width=32, latents=noise, output_type="latent").images  # fmt: skip
    times = pipe.scheduler.timesteps.tolist()
    pairs = list(zip(times, [*times[1:], -1], strict=True))
    with torch.inference_mode():
        denoise = guided(base, conditions(NORMAL), 3.0)
        ours = ddim(denoise, noise, Schedule.of(settings), pairs, objective=settings.objective)
    torch.testing.assert_close(ours, made, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("said", "knob"), [("epsilon", "eps"), ("v_prediction", "v")])
def test_its_noise_is_read_from_its_scheduler(said, knob, folder, tmp_path):
    from diffusers import DDIMScheduler

    own = DDIMScheduler.from_pretrained(folder / "scheduler", prediction_type=said)
    own.save_pretrained(tmp_path / "scheduler")
    knobs = noise_of(tmp_path)
    assert knobs["objective"] == knob
    schedule = Schedule("scaled_linear", knobs["timesteps"], betas=tuple(knobs["betas"]))
    np.testing.assert_allclose(schedule.abar, own.alphas_cumprod.numpy(), rtol=1e-4)


def test_noise_of_another_kind_is_refused(tmp_path):
    (tmp_path / "scheduler").mkdir()
    said = {"prediction_type": "sample", "beta_schedule": "linear"}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match="expected prediction_type epsilon or v_prediction"):
        noise_of(tmp_path)


def test_saved_and_opened_it_says_the_same(base, seen, tmp_path):
    base.save(tmp_path)
    VOCABULARY.write(tmp_path / "vocabulary.json")
    with torch.inference_mode():
        again = open_denoiser(tmp_path)(*seen, conditions(1, 2, 0))
        assert torch.equal(again, base(*seen, conditions(1, 2, 0)))


def test_what_is_not_known_is_left_out_of_the_sentence():
    prompt = "a retina, {disease}, {side} eye, {camera}"
    assert describe(prompt, {}) == ""
    known = {"disease": "diabetic_retinopathy", "camera": "new"}
    assert describe(prompt, known) == "a retina, diabetic retinopathy, new"


# Concepts -----------------------------------------------------------------------------------------


def test_one_vector_is_the_word_that_it_starts_from(base, seen):
    concept = Concept.start(base, NORMAL, count=1, seed=5)
    assert concept.token == TOKEN
    with torch.inference_mode():
        made = concept(base, *seen, conditions(TOKEN, 1, 0))
        torch.testing.assert_close(made, base(*seen, conditions(NORMAL, 1, 0)), atol=1e-6, rtol=0)


def test_several_vectors_stand_among_the_words(base, seen):
    concept = Concept.start(base, NORMAL, count=3, seed=5)
    with torch.no_grad():
        concept.vectors[2] += 5
    sentence = base._sentence((TOKEN,), concept)
    before = base._numbers("a chest x-ray,")
    size = base.encoder.config.vocab_size
    own = sentence[1 : len(before) + 4]
    assert own == [*before, size, size + 1, size + 2]
    with torch.inference_mode():
        made, known = (base(*seen, conditions(NORMAL, NORMAL, NORMAL)),
                       concept(base, *seen, conditions(TOKEN, NORMAL, 0)))  # fmt: skip
    apart = (made - known).abs().amax((1, 2, 3))
    assert apart[0] > 1e-3
    assert apart[1] < 1e-6


def test_a_sentence_that_is_too_long_is_refused(folder):
    base = open_base(folder, VOCABULARY, f"{'word ' * 50}{{finding}}", latent_px=8)
    with pytest.raises(DataError, match="the text encoder reads 46: shorten it"):
        base.hear(conditions(1))


def test_learning_lowers_the_loss_and_changes_the_vectors_alone(folder, base, tmp_path):
    settings = study(**asking(folder)).diffusion
    before = {name: value.clone() for name, value in base.state_dict().items()}
    z = np.random.default_rng(3).normal(1, 0.1, (1, 16, 4, 8, 8)).astype(np.float32)
    autoencoder = protocol.Autoencoder(widths=(8,), fold_px=4, latent_channels=4)
    learned, told = inversion.learn(
        base,
        Autoencoder.build(autoencoder, channels=1),
        inversion.Examples(z, torch.full((1, 16, 1), TOKEN)),
        protocol.Concept(vectors=2, training=OPTIMISER.model_copy(update={"images": 320})),
        settings.model_copy(update={"min_snr_gamma": None}),
        start=NORMAL, seed=3, folder=tmp_path, device="cpu",
    )  # fmt: skip
    assert told["after"] < told["before"] - 1e-3
    assert not torch.equal(learned.vectors[0], base.vector(NORMAL))
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


def test_a_control_starts_as_the_base_and_learns_with_it_locked(folder, base, seen):
    torch.manual_seed(0)
    net = build_control(base, channels=1, downscale=4)
    controlled, maps = Controlled(base, net), torch.rand(3, 1, 32, 32)
    made = controlled(*seen, conditions(1, 2, 0), maps)
    torch.testing.assert_close(made, base(*seen, conditions(1, 2, 0)), atol=1e-6, rtol=0)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    settings, losses = study(**asking(folder)).diffusion, []
    optimiser = torch.optim.Adam(controlled.parameters(), 3e-3)
    for _ in range(12):  # the same three images each time
        value = denoising_loss(
            lambda *asked: controlled(*asked, maps), maps[:, :, ::4, ::4].expand(-1, 4, -1, -1),
            conditions(1, 2, 0), seen[1], seen[0], Schedule.of(settings), settings,
        ).mean()  # fmt: skip
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())


# What can't be opened -----------------------------------------------------------------------------


def spoiled(folder, tmp_path, part: str):
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy" / part


def opened(copy):
    return open_base(copy, VOCABULARY, PROMPT, latent_px=8)


def test_pickled_weights_are_not_opened(folder, tmp_path):
    part = spoiled(folder, tmp_path, "unet")
    (part / "diffusion_pytorch_model.safetensors").rename(part / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights are not opened"):
        opened(part.parent)


def test_weights_that_are_not_all_there_are_refused(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    path = spoiled(folder, tmp_path, "text_encoder") / "model.safetensors"
    weights = load_file(path)
    lost = next(name for name in weights if "fc1" in name)
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 1 weights of a CLIPTextModel"):
        opened(path.parents[1])


def test_half_precision_of_a_variant_is_opened_in_single(folder, base, tmp_path, seen):
    part = spoiled(folder, tmp_path, "unet")
    (part / "diffusion_pytorch_model.safetensors").unlink()
    base.unet.half().save_pretrained(part, variant="fp16")
    base.unet.float()
    read = opened(part.parent)
    assert {weight.dtype for weight in read.parameters()} == {torch.float32}
    with torch.inference_mode():
        torch.testing.assert_close(
            read(*seen, conditions(1, 2, 0)), base(*seen, conditions(1, 2, 0)), atol=2e-2, rtol=0
        )


def test_a_network_that_wants_more_than_a_sentence_is_refused(folder, tmp_path):
    write_base(tmp_path / "other", cross_attention_dim=16, in_channels=9)
    with pytest.raises(DataError, match=r"takes 9 channels .*; its unet hears 16 numbers a word"):
        opened(tmp_path / "other")
