"""The rival inside: the published Medfusion recipe is a protocol like any other."""

import pytest
import torch
from tiny import TEXT, write_raw

from medsynth import pipeline, protocol
from medsynth.cohort import Cohort
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser

PATH = protocol.shipped("medfusion")
TINY = {
    "image.size_px": 32,
    "data": {"label_columns": ["finding"], "max_bad_share": 0.2},
    "lens": protocol.parse(TEXT).section("lens"),
    "autoencoder.widths": [8, 8, 8, 8],
    "autoencoder.training.images": 64,
    "diffusion.widths": [8, 8, 16],
    "diffusion.groups": 8,
    "diffusion.training.images": 64,
    "sample": {"images": 24, "steps": 6, "batch": 12},
}


def parameters(network: torch.nn.Module) -> float:
    return sum(weight.numel() for weight in network.parameters()) / 1e6


@pytest.mark.parametrize(("profile", "size_px"), [(None, 64), ("full", 256)])
def test_the_recipe_is_the_published_one(profile, size_px):
    study = protocol.load(PATH, profile=profile)
    first, second, drawn = study.autoencoder, study.diffusion, study.sample
    assert study.image.size_px == size_px
    assert (first.widths, first.latent_channels, first.downscale) == ((64, 128, 256, 512), 8, 8)
    assert (first.latents, first.training.decay, first.training.batch) == ("raw", "constant", 8)
    assert (second.objective, second.loss, second.schedule) == ("eps", "l1", "scaled_linear")
    assert (second.ema, second.min_snr_gamma, second.training.batch) == (0.0, None, 32)
    assert (first.training.learning_rate, second.training.learning_rate) == (1e-4, 1e-4)
    assert (drawn.steps, drawn.eta, drawn.guidance, drawn.spacing) == (150, 1.0, 1.0, "even")


def test_the_networks_are_as_big_as_the_file_says():
    study = protocol.load(PATH)
    with torch.device("meta"):
        autoencoder = Autoencoder.build(study.autoencoder, channels=3)
        denoiser = Denoiser.build(study.diffusion, latent_channels=8, latent_px=32, tokens=3)
    assert parameters(autoencoder.net) == pytest.approx(41.3, abs=0.1)
    assert parameters(denoiser) == pytest.approx(208.1, abs=0.1)
    halvings = [block.downsamplers for block in denoiser.unet.down_blocks]
    assert [halved is not None for halved in halvings] == [True, True, False]  # 32, 16, 8


def test_a_small_variant_goes_from_patients_to_images_on_latents_as_they_come(tmp_path):
    run = pipeline.start(protocol.load(PATH, changes=TINY), tmp_path / "run")
    pipeline.ingest(run, write_raw(tmp_path / "raw"))
    for stage in (pipeline.split, pipeline.fit, pipeline.sample):
        stage(run)
    assert len(Cohort.read(run.folder / "synthetic")) == 24
    assert pipeline.facts(run, "autoencoder/config.json")["latents_std"] is None
    autoencoder = Autoencoder.load(run.folder / "autoencoder")
    assert torch.equal(autoencoder.latents_std.flatten(), torch.ones(8))


def test_raw_latents_are_a_choice_that_no_finished_run_made():
    plain = protocol.parse(TEXT)
    assert plain.autoencoder.latents is None
    run = pipeline.Run(PATH.parent, plain)
    assert "latents" not in run.settings("autoencoder")["autoencoder"]
