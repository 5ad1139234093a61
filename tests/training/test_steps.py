"""In parts, again or in another layout, a step comes to the same; it waits for nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medsynth import protocol
from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames
from medsynth.errors import StageError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.protocol import Optimiser
from medsynth.runtime import digest_files, read_jsonl
from medsynth.training import averages, checkpoints, diffusion
from medsynth.training.autoencoder import fit_autoencoder
from medsynth.training.batches import parts
from medsynth.training.diffusion import fit_diffusion
from medsynth.training.loop import Player, Task, learning_rate, train
from medsynth.training.stopping import Patience

STEPS, BATCH = 40, 10
OPTIMISER = Optimiser(images=STEPS * BATCH, batch=BATCH, learning_rate=1e-2)


class Killed(Exception):
    """Stands in for SIGKILL."""


def dies_at(step: int):
    def progress(what, share):
        if share * STEPS >= step - 1e-9:
            raise Killed

    return progress


def task(**changes) -> Task:
    """Learn to sharpen random images; all random numbers come with the batch."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 2, 3, padding=1))

    def batch(start: int, count: int, own: slice):
        return torch.randn(count, 2, 8, 8)[own], torch.randn(count, 2, 1, 1)[own]

    def loss(modules, drawn):
        image, shade = drawn
        value = ((modules["net"](image * shade) - image) ** 2).mean()
        return value, {"loss": value.detach()}

    player = Player(net, loss, learning_rate(OPTIMISER))
    whole = Task("sharpening", {"net": player}, batch, STEPS * BATCH, BATCH, 0, ema=("net", 0.9))
    return replace(whole, **changes)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in module.parameters()])


def trained(folder, **changes) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    return weights(train(task(**changes), folder)["net"])


# In parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4])
def test_gradients_added_up_over_parts_are_those_of_the_whole_batch(tmp_path, size):
    whole = trained(tmp_path / "whole")
    cut = trained(tmp_path / "cut", optimiser=OPTIMISER.model_copy(update={"microbatch": size}))
    torch.testing.assert_close(cut, whole, atol=2e-5, rtol=1e-4)
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("whole", "cut")]
    for one, other in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert one["net_gradient"] == pytest.approx(other["net_gradient"], rel=1e-2)


def test_parts_are_all_rows_in_order_and_know_their_share():
    batch = torch.arange(10), torch.arange(10) * 2
    cut = parts(batch, 4)
    assert [share for _, share in cut] == [0.4, 0.4, 0.2]
    for column, whole in enumerate(batch):
        assert torch.equal(torch.cat([part[column] for part, _ in cut]), whole)
    assert torch.equal(torch.cat([part for part, _ in parts(batch[0], 3)]), batch[0])
    assert parts(batch, None) == [(batch, 1.0)]


def frames(count: int = 20) -> Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 1), np.uint8)
    records = tuple(Record(f"r{i}", "real", patient=f"p{i}") for i in range(count))
    return Frames(Cohort("chest_xray", records, pixels), np.arange(count))


def autoencoder(folder, **knobs) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    training = Optimiser(images=16, batch=8, learning_rate=1e-4, **knobs)
    settings = protocol.Autoencoder(
        widths=(16, 16), latent_channels=2, energy_weight=0.01, training=training
    )
    return weights(
        fit_autoencoder(
            frames(), frames(4), settings, symmetry="flip", seed=0, folder=folder, device="cpu"
        )
    )


class Echo:
    """An autoencoder for the preview alone."""

    def to(self, device: str) -> Echo:
        return self

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z[:, :1]


def denoiser(folder, *, changes: dict | None = None, **knobs) -> torch.Tensor:
    folder.mkdir(exist_ok=True)
    training = Optimiser(**{"images": 16, "batch": 8, "learning_rate": 1e-4, **knobs})
    settings = protocol.Diffusion(
        widths=(16, 32), attention=(False, True), layers=1, groups=8, training=training
    ).model_copy(update=changes or {})
    z = np.random.default_rng(0).standard_normal((2, 20, 2, 8, 8)).astype(np.float32)
    words = torch.randint(0, 3, (2, 20, 1), generator=torch.Generator().manual_seed(0))
    return weights(
        fit_diffusion(
            z, words, (z[0, :4], words[0, :4]), Echo(), settings,
            tokens=3, seed=0, folder=folder, device="cpu",
        )
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def runs():
    """How often a block of each network ran in training; previews are quick."""
    counts, builds = Counter(), {Autoencoder: Autoencoder.build, Denoiser: Denoiser.build}

    def counted(kind, block):
        def build(*args, **knobs):
            model = builds[kind](*args, **knobs)
            block(model).register_forward_pre_hook(
                lambda *_: counts.update([kind] * torch.is_grad_enabled())
            )
            return model

        return build

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusion, "SHOWN_STEPS", 1)
        patch.setattr(Autoencoder, "build", counted(Autoencoder, lambda x: x.net.decoder.mid_block))
        patch.setattr(
            Denoiser, "build", counted(Denoiser, lambda x: x.unet.down_blocks[0].resnets[0])
        )
        yield counts


FITS = [(autoencoder, Autoencoder), (denoiser, Denoiser)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, runs):
    """The weights of both networks, trained as they come, a block having run once a step."""
    learned = {}
    for fit, kind in FITS:
        before = runs[kind]
        learned[kind] = fit(tmp_path_factory.mktemp("plain"))
        assert runs[kind] == before + 2
    return learned


@pytest.mark.parametrize(("fit", "kind"), FITS)
def test_both_networks_learn_the_same_in_parts(tmp_path, plain, runs, fit, kind):
    before = runs[kind]
    found = fit(tmp_path, microbatch=3)
    torch.testing.assert_close(found, plain[kind], atol=1e-5, rtol=1e-3)  # a step is 1e-4
    assert runs[kind] == before + 2 * 3


@pytest.mark.parametrize(("fit", "kind"), FITS)
def test_both_networks_learn_the_same_where_they_compute_again(tmp_path, plain, runs, fit, kind):
    before = runs[kind]
    found = fit(tmp_path, checkpointing=True)
    torch.testing.assert_close(found, plain[kind], atol=2e-6, rtol=1e-4)
    assert runs[kind] == before + 2 * 2


# In another layout ------------------------------------------------------------------------------


def test_channels_last_learns_the_same_and_comes_out_as_ever(tmp_path):
    last = OPTIMISER.model_copy(update={"channels_last": True})
    (tmp_path / "last").mkdir()
    net = train(task(optimiser=last), tmp_path / "last")["net"]
    assert all(value.is_contiguous() for value in net.state_dict().values())
    torch.testing.assert_close(weights(net), trained(tmp_path / "first"), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kill_at", [9])
def test_killed_and_started_again_in_parts_and_another_layout_it_ends_the_same(tmp_path, kill_at):
    optimiser = OPTIMISER.model_copy(update={"channels_last": True, "microbatch": 4})
    whole = trained(tmp_path / "whole", optimiser=optimiser)
    (tmp_path / "broken").mkdir()
    with pytest.raises(Killed):
        train(task(optimiser=optimiser), tmp_path / "broken", dies_at(kill_at))
    assert torch.equal(trained(tmp_path / "broken", optimiser=optimiser), whole)


def test_nothing_is_compiled_on_a_cpu(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("compiled")

    monkeypatch.setattr(nn.Module, "compile", refuse)
    monkeypatch.setattr(torch, "compile", refuse)
    compiled = trained(tmp_path / "a", optimiser=OPTIMISER.model_copy(update={"compile": True}))
    assert torch.equal(compiled, trained(tmp_path / "b"))


# Without waiting --------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what makes a program wait for a GPU: a tensor's number that Python asks for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_no_step_waits_but_those_that_are_logged(tmp_path):
    rows: list[tuple[int, int]] = []  # what was asked for, and what was logged, after each step
    log = tmp_path / "log.jsonl"

    def progress(what, share):
        rows.append((waits.count, len(read_jsonl(log)) if log.exists() else 0))

    with Waits() as waits:
        train(task(profiles=2), tmp_path, progress)
    asked, logged = np.diff(np.array([(0, 0), *rows]), axis=0).T
    assert asked[logged > 0].min() > 0  # the count sees what there is
    assert (logged == 0).sum() == STEPS / 2
    assert asked[logged == 0].max() == 0


# Stopping, and averages on the way --------------------------------------------------------------


def test_patience_ends_when_the_lowest_lies_far_enough_back():
    losses = [5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 3.2]
    patience, over, lowest = Patience(3), [], []
    for number, loss in enumerate(losses):
        lowest.append(patience.note(number, loss))
        over.append(patience.is_over)
    assert lowest == [True, True, False, True, False, False, False]
    assert over == [False] * 6 + [True]
    endless = Patience(None)
    endless.note(0, 1.0), endless.note(1, 2.0)
    assert not endless.is_over


def stopping(**changes) -> Task:
    """A task whose validation loss falls until its weights have shrunk to a norm of 1.6."""
    whole = task(**changes)

    def validate(modules):
        return {"validation_loss": abs(float(weights(modules["net"]).norm()) - 1.6)}

    return replace(whole, validate=validate, patience=3)


def test_it_stops_once_the_loss_rises_with_the_weights_at_its_lowest(tmp_path):
    (tmp_path / "whole").mkdir(), (tmp_path / "early").mkdir()
    train(replace(stopping(keep=STEPS), patience=None), tmp_path / "whole")
    losses = [row["validation_loss"] for row in read_jsonl(tmp_path / "whole" / "log.jsonl")]
    lowest = int(np.argmin(losses))
    assert 2 < lowest < len(losses) - 4
    found = train(stopping(), tmp_path / "early")["net"]
    rows = read_jsonl(tmp_path / "early" / "log.jsonl")
    assert len(rows) == lowest + 1 + 3
    net = task().players["net"].module
    checkpoints.restore(net, checkpoints.kept(tmp_path / "whole")[rows[lowest]["images"]], "net")
    assert torch.equal(weights(found), weights(net))


@pytest.mark.parametrize("kill_at", [23])
def test_stopped_early_after_a_kill_it_is_the_same(tmp_path, kill_at):
    (tmp_path / "whole").mkdir(), (tmp_path / "broken").mkdir()
    whole = train(stopping(keep=5), tmp_path / "whole")["net"]
    with pytest.raises(Killed):
        train(stopping(keep=5), tmp_path / "broken", dies_at(kill_at))
    again = train(stopping(keep=5), tmp_path / "broken")["net"]
    assert torch.equal(weights(again), weights(whole))
    kept = [digest_files(tmp_path / name / "checkpoints") for name in ("whole", "broken")]
    assert kept[0] == kept[1]
    again = train(stopping(keep=5), tmp_path / "broken")["net"]  # it had ended
    assert torch.equal(weights(again), weights(whole))


def test_none_of_what_is_kept_is_later_than_the_lowest_loss(tmp_path):
    found = train(stopping(keep=STEPS), tmp_path)["net"]
    rows = read_jsonl(tmp_path / "log.jsonl")
    lowest = min(rows, key=lambda row: row["validation_loss"])["images"]
    assert list(checkpoints.kept(tmp_path)) == list(range(BATCH, lowest + 1, BATCH))
    checkpoints.restore(found, checkpoints.kept(tmp_path)[lowest], "net")
    (tmp_path / "again").mkdir()
    assert torch.equal(weights(found), weights(train(stopping(), tmp_path / "again")["net"]))


@pytest.mark.parametrize("kill_at", [21])
def test_averages_by_powers_are_kept_and_survive_a_kill(tmp_path, kill_at):
    trained(tmp_path / "whole", profiles=4)
    (tmp_path / "broken").mkdir()
    with pytest.raises(Killed):
        train(task(profiles=4), tmp_path / "broken", dies_at(kill_at))
    trained(tmp_path / "broken", profiles=4)
    kept = checkpoints.kept(tmp_path / "whole", under=averages.FOLDER)
    assert list(kept) == [10, 20, 30, 40]
    files = [digest_files(tmp_path / name / averages.FOLDER) for name in ("whole", "broken")]
    assert files[0] == files[1]
    assert len(files[0]) == 8


def test_a_denoiser_takes_the_length_that_its_protocol_says(tmp_path):
    asked = {"averages": protocol.Averages(kept=4, length=0.1)}
    found = denoiser(tmp_path, changes=asked, images=64)
    again, _ = averages.reconstruct(tmp_path, 0.1)
    assert torch.equal(found, weights(Denoiser.load(tmp_path)))
    whole = Denoiser.load(tmp_path)
    whole.load_state_dict(again)
    assert torch.equal(found, weights(whole))


# Short of memory ----------------------------------------------------------------------------------


def short_of_memory(most: int, whole: Task | None = None) -> tuple[Task, list[int]]:
    """A task whose network has room for so many images at a time, and the sizes that it was
    asked for."""
    whole, asked = whole or task(), []
    player = whole.players["net"]

    def loss(modules, drawn):
        asked.append(len(drawn[0]))
        made = player.loss(modules, drawn)
        if len(drawn[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return made

    return replace(whole, players={"net": replace(player, loss=loss)}), asked


def test_short_of_memory_it_goes_on_with_half_as_many_at_a_time_to_the_same_weights(tmp_path):
    (tmp_path / "short").mkdir()
    short, asked = short_of_memory(3)
    found = weights(train(short, tmp_path / "short")["net"])
    torch.testing.assert_close(found, trained(tmp_path / "whole"), atol=2e-5, rtol=1e-4)
    assert asked[:8] == [10, 5, 2, 2, 2, 2, 2, 2]  # what was found out once holds
    assert {row["at_a_time"] for row in read_jsonl(tmp_path / "short" / "log.jsonl")} == {2}
    assert "at_a_time" not in read_jsonl(tmp_path / "whole" / "log.jsonl")[0]


def test_where_not_even_one_image_fits_it_says_what_to_change(tmp_path):
    with pytest.raises(StageError, match=r"with 1 images at a time\. Set sharpening\.training\.m"):
        train(short_of_memory(0)[0], tmp_path)


def test_a_batch_that_belongs_together_is_not_cut(tmp_path):
    with pytest.raises(StageError, match=r"with 10 images at a time\. Lower sharpening\.training"):
        train(replace(short_of_memory(5)[0], whole=True), tmp_path)
