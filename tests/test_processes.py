"""Several processes do what one does: the same data and images, the same losses but for rounding;
one that is killed stops all, and the same command goes on, with another number of them too."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import torchrun

import medsynth
from medsynth import cli, protocol, synthesis
from medsynth.cohort import Cohort, Record
from medsynth.data.loader import Frames, Order
from medsynth.errors import StageError
from medsynth.models.autoencoder import Autoencoder
from medsynth.models.denoiser import Denoiser
from medsynth.protocol import Optimiser
from medsynth.runtime import ranks, read_jsonl, wait_for_everyone
from medsynth.training import autoencoder, diffusion, filling, lens, loop
from medsynth.vocabulary import Vocabulary

SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
import test_processes
test_processes.work_and_die(test_processes.Path(sys.argv[2]))
"""
DIES_AFTER = 240  # of 400 images
TINY = protocol.Diffusion(
    widths=(16, 32), attention=(False, True), layers=1, groups=8, ema=0.9,
    training=Optimiser(images=28, batch=7, learning_rate=1e-3),
)  # fmt: skip


def frames(count: int = 12) -> Frames:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 1), np.uint8)
    records = tuple(Record(f"r{i}", "real", patient=f"p{i // 2}") for i in range(count))
    return Frames(Cohort("chest_xray", records, pixels), np.arange(count))


def work(folder: Path) -> dict:
    """Train every kind of network, draw, and write down what was seen and what came out."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    seen, parts = [], {name: folder / name for name in ("lens", "autoencoder", "diffusion")}
    for path in parts.values():
        path.mkdir(exist_ok=True)
    wait_for_everyone()
    training = Optimiser(images=20, batch=5, learning_rate=1e-3)
    lens.fit_lens(
        frames(), protocol.Lens(width=8, features=8, training=training),
        seed=1, folder=parts["lens"], device="cpu",
    )  # fmt: skip
    settings = protocol.Autoencoder(widths=(16, 16), latent_channels=2, training=training)
    coder = autoencoder.fit_autoencoder(
        frames(), frames(4), settings,
        symmetry="flips and rotations", seed=1, folder=parts["autoencoder"], device="cpu",
    )  # fmt: skip
    z = diffusion.encode_views(fixed_coder(), frames(), "flip", folder / "z.npy", "cpu")
    words = torch.arange(2 * len(frames())).reshape(2, -1, 1) % 3
    usual, diffusion.SHOWN_STEPS = Order.draw, 1

    def draw(order: Order, start: int, count: int):
        seen.append(usual(order, start, count))
        return seen[-1]

    Order.draw = draw
    diffusion.fit_diffusion(
        z, words, (z[0, :4], words[0, :4]), coder, TINY,
        tokens=3, seed=1, folder=parts["diffusion"], device="cpu",
    )  # fmt: skip
    Order.draw = usual
    images = drawn(folder / "images")
    return {
        "seen": [rows.tolist() for rows in seen],
        "latents": z.tobytes(),
        "images": images,
        "logs": {name: read_jsonl(path / "log.jsonl") for name, path in parts.items()},
    }


def fixed_coder() -> Autoencoder:
    torch.manual_seed(0)
    settings = protocol.Autoencoder(widths=(16, 16), latent_channels=2)
    return Autoencoder.build(settings, channels=1).eval()


def drawn(folder: Path) -> bytes:
    """Draw five blocks of images from untrained networks."""
    folder.mkdir(exist_ok=True)
    wait_for_everyone()
    torch.manual_seed(0)
    net = Denoiser.build(TINY, latent_channels=2, latent_px=8, tokens=1).eval()
    labels = [{}] * 9

    def draw(numbers, conditions, seeds):
        return synthesis.sample(
            net, fixed_coder(), Vocabulary.from_labels([]), conditions, seeds=seeds, device="cpu",
            settings=protocol.Sample(steps=2, batch=2), diffusion=TINY,
        )  # fmt: skip

    synthesis.sample_cohort(draw, labels, bits=8, batch=2, seed=4, folder=folder)
    wait_for_everyone()
    joined = synthesis.join_blocks(labels, domain="chest_xray", seed=4, folder=folder)
    return joined.pixels.tobytes()


def line(folder: Path, progress=lambda what, share: None):
    """Train a line in `folder`, with a batch that two processes do not share evenly."""
    from training.test_loop import line_task

    folder.mkdir(exist_ok=True)
    # Without dropout, which a network draws itself.
    task = line_task(batch_size=9, images=405)
    task.players["net"].module[1].p = 0.0
    return loop.train(task, folder, progress)["net"]


def work_and_die(folder: Path) -> None:
    """Work, in one of two processes; then train, whereby the second one is killed."""
    (folder / f"rank{ranks()[0]}").write_bytes(pickle.dumps(work(folder / "two")))

    def dies(what: str, share: float) -> None:
        if ranks()[0] == 1 and share * 405 >= DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)

    from medsynth import pipeline

    pipeline.open_run = lambda path: path
    pipeline.fit = lambda path, progress: line(path / "line", dies)
    sys.argv = ["medsynth", "fit", str(folder)]
    cli.main()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes left: their folder, and how they ended."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "two.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), str(Path(__file__).parent), str(folder), timeout=600)
    assert (folder / "rank0").exists(), done.stderr[-3000:]
    return folder, done


@pytest.fixture(scope="module")
def both(two, tmp_path_factory):
    """What one process finds, and the two."""
    threads = torch.get_num_threads()
    alone = work(tmp_path_factory.mktemp("one"))
    torch.set_num_threads(threads)
    return alone, *(pickle.loads((two[0] / f"rank{rank}").read_bytes()) for rank in (0, 1))


def test_two_processes_see_the_data_in_the_order_of_one(both):
    alone, first, second = both
    assert len(alone["seen"]) == 4
    assert alone["seen"] == first["seen"] == second["seen"]


def test_two_processes_draw_the_images_and_encode_the_latents_of_one(both):
    for what in ("images", "latents"):
        assert both[0][what] == both[1][what] == both[2][what]


@pytest.mark.parametrize("name", ["lens", "autoencoder", "diffusion"])
def test_two_processes_have_the_losses_of_one_but_for_rounding(both, name):
    alone, first = (found["logs"][name] for found in both[:2])
    assert len(alone) == len(first) == 4
    for one, other in zip(alone, first, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert other[key] == pytest.approx(one[key], rel=2e-3, abs=1e-5), key
    assert alone[0] != alone[-1]


def test_a_killed_process_stops_the_other_with_an_error_that_says_so(two):
    done = two[1]
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    said = "another process of this run ended", "the same command goes on from here"
    assert any(sentence in done.stderr for sentence in said), done.stderr[-2000:]
    ours = Path(medsynth.__file__).parent
    assert f'File "{ours}' not in done.stderr  # a traceback, if any, is torchrun's own


def test_the_same_command_goes_on_with_one_process_to_the_same_weights(two, tmp_path):
    (state,) = (two[0] / "line" / "state").iterdir()
    assert 0 < int(state.name) <= DIES_AFTER + 9
    whole, again = line(tmp_path / "whole"), line(two[0] / "line")
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_more_processes_than_images_in_a_batch_are_refused():
    from training.test_loop import line_task

    class Eleven:
        num_processes, process_index = 11, 3

    from medsynth.training.state import _own_rows

    with pytest.raises(StageError, match=r"line\.training\.batch is 10, for 11 processes"):
        _own_rows(line_task(), Eleven())
    assert _own_rows(replace(line_task(), whole=True), Eleven()) == (slice(0, 10), 1.0)


@pytest.mark.parametrize("world", [1, 3, 7])
def test_processes_share_a_batch_without_a_gap_and_weigh_it_rightly(world):
    from training.test_loop import line_task

    from medsynth.training.state import _own_rows

    class Some:
        num_processes = world

    rows, weights = [], []
    for rank in range(world):
        Some.process_index = rank
        own, weight = _own_rows(line_task(), Some())
        rows += range(10)[own]
        weights.append((weight, own.stop - own.start))
    assert rows == list(range(10))
    assert all(weight * 10 / world == pytest.approx(size) for weight, size in weights)


def test_arrays_are_filled_by_all_and_once(tmp_path, monkeypatch):
    """Two processes in turn, the first of which waits for the other when it waits."""
    asked = {0: [], 1: []}

    def compute(rank: int):
        def columns(some: slice) -> np.ndarray:
            asked[rank].append(some)
            return np.arange(some.start, some.stop)[None, :, None] + np.array([[[0.0]], [[100.0]]])

        return columns

    def as_rank(rank: int):
        monkeypatch.setattr(filling, "ranks", lambda: (rank, 2))
        monkeypatch.setattr(filling, "writes", lambda: rank == 0)
        return filling.fill(tmp_path / "z.npy", 10, compute(rank), block=3)

    waited = []

    def second() -> None:
        waited.append(len(waited))
        if len(waited) == 1:  # the file is there: now the other one fills in its part
            as_rank(1)
            monkeypatch.setattr(filling, "ranks", lambda: (0, 2))
            monkeypatch.setattr(filling, "writes", lambda: True)

    monkeypatch.setattr(filling, "wait_for_everyone", second)
    found = as_rank(0)
    np.testing.assert_array_equal(found[:, :, 0], [np.arange(10), 100 + np.arange(10)])
    assert [len(asked[rank]) for rank in (0, 1)] == [2, 2]
    again = as_rank(1)
    np.testing.assert_array_equal(again, found)
    assert [len(asked[rank]) for rank in (0, 1)] == [2, 2]


def test_only_a_lost_process_is_told_as_one(monkeypatch):
    gone = RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:3")
    assert not cli.lost_another(gone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.lost_another(gone)
    assert not cli.lost_another(RuntimeError("expected scalar type Float but found Double"))
