"""A run whose denoiser is told of changes, averages by powers and computes in parts."""

from __future__ import annotations

import pytest
import torch
from tiny import study

from medsynth import domains, pipeline
from medsynth.cohort import Cohort
from medsynth.models.denoiser import Denoiser
from medsynth.pipeline import learn
from medsynth.pipeline.run import silent
from medsynth.training import diffusion

CHANGES = {
    "diffusion.told": {"views": 3, "mirror": True, "share": 0.4},
    "diffusion.averages": {"kept": 4},
    "diffusion.objective": "flow",
    "diffusion.schedule": "flow",
    "diffusion.times": "logit_normal",
    "diffusion.training.images": 64,
    "diffusion.training.microbatch": 5,
    "autoencoder.frequency_weight": 0.5,
    "autoencoder.training.images": 16,
    "sample.images": 10,
}


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    run = pipeline.start(study(**CHANGES), tmp_path_factory.mktemp("run") / "run")
    pipeline.ingest(run, raw)
    pipeline.split(run)
    run.build("autoencoder", lambda folder: learn.fit_autoencoder(run, folder, silent))
    return run


def test_the_denoiser_gets_every_view_with_the_labels_of_what_it_shows(prepared, monkeypatch):
    swapped = {"finding": {"normal": "opacity", "opacity": "normal"}}
    monkeypatch.setitem(domains.domain("chest_xray").__dict__, "mirrored", swapped)
    seen = {}

    def watch(latents, conditions, *rest, told, **more):
        seen.update(latents=latents, conditions=conditions, told=told)
        raise InterruptedError

    monkeypatch.setattr(diffusion, "fit_diffusion", watch)
    with pytest.raises(InterruptedError):
        prepared.build("diffusion", lambda folder: learn.fit_diffusion(prepared, folder, silent))
    told, (views, count, *shape) = seen["told"], seen["latents"].shape
    assert (views, told.share) == (1, 0.4)
    assert told.latents.shape == (3, count, *shape)
    assert torch.equal(told.conditions[0], seen["conditions"][0])
    assert torch.equal(told.conditions[2], seen["conditions"][0])
    changed = told.conditions[1] != seen["conditions"][0]
    assert changed.any()


def test_such_a_run_goes_to_its_samples(prepared):
    prepared.build("diffusion", lambda folder: learn.fit_diffusion(prepared, folder, silent))
    assert Denoiser.load(prepared.folder / "diffusion").told is not None
    assert not (prepared.folder / "diffusion" / "averages").exists()
    pipeline.sample(prepared)
    assert len(Cohort.read(prepared.folder / "synthetic")) == 10
