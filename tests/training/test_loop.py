import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from medsynth.data.loader import draw
from medsynth.errors import StageError
from medsynth.protocol import Optimiser
from medsynth.runtime import digest_bytes, digest_files, read_jsonl
from medsynth.training import checkpoints
from medsynth.training.loop import Player, Task, learning_rate, train

SETTINGS = Optimiser(images=400, batch=10, learning_rate=1e-2, warmup_images=50)


class Killed(Exception):
    """Stands in for SIGKILL."""


def line_task(seed: int = 0, **changes) -> Task:
    """Learn y = 3 x + 1 from noisy points, with dropout so that random numbers matter."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.2), nn.Linear(8, 1))

    def batch(start: int, count: int, own: slice):
        x = torch.from_numpy(draw(97, start=start, count=count, seed=seed)).float()[:, None] / 97
        y = 3 * x + 1 + 0.1 * torch.randn_like(x)
        return x[own], y[own]

    def loss(modules, drawn):
        value = ((modules["net"](drawn[0]) - drawn[1]) ** 2).mean()
        return value, {"loss": value.detach()}

    player = Player(net, loss, learning_rate(SETTINGS))
    return replace(
        Task(
            "line",
            {"net": player},
            batch,
            400,
            10,
            seed,
            ema=("net", 0.9),
            validate=lambda modules: {"weight": float(modules["net"][0].bias[0])},
        ),
        **changes,
    )


def weights(module: nn.Module) -> str:
    return digest_bytes(b"".join(v.numpy().tobytes() for v in module.state_dict().values()))


def dies_at(step: int):
    def progress(what, share):
        if share * 40 >= step:
            raise Killed

    return progress


@pytest.mark.parametrize("kill_at", [1, 2, 7, 20, 39])
def test_killed_and_started_again_it_ends_with_the_same_weights_byte_for_byte(tmp_path, kill_at):
    straight, broken = tmp_path / "a", tmp_path / "b"
    straight.mkdir(), broken.mkdir()
    whole = train(line_task(), straight)["net"]
    with pytest.raises(Killed):
        train(line_task(), broken, dies_at(kill_at))
    again = train(line_task(), broken)["net"]
    assert weights(again) == weights(whole)

    def log(folder):
        return [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in read_jsonl(folder / "log.jsonl")
        ]

    assert log(broken) == log(straight)


def test_another_seed_ends_elsewhere(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one = train(line_task(seed=0), tmp_path / "a")["net"]
    other = train(line_task(seed=1), tmp_path / "b")["net"]
    assert weights(one) != weights(other)


def test_it_learns(tmp_path):
    x = torch.linspace(0, 1, 50)[:, None]

    def error(net: nn.Module) -> float:
        with torch.no_grad():
            return float(((net.eval()(x) - 3 * x - 1) ** 2).mean())

    task = line_task(images=4000)
    before = error(task.players["net"].module)
    assert error(train(task, tmp_path)["net"]) < 0.05 * before


def test_only_safetensors_and_json_are_kept(tmp_path):
    train(line_task(), tmp_path)
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".safetensors", ".json", ".jsonl"}
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_averaged_weights_are_the_ones_that_come_out(tmp_path):
    """The oracle: the same training, its weights averaged by hand."""
    seen = []
    task = line_task(ema=None)
    player = task.players["net"]

    def loss(modules, drawn):
        seen.append([p.detach().clone() for p in modules["net"].parameters()])
        return player.loss(modules, drawn)

    watched = replace(task, players={"net": replace(player, loss=loss)})
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    last = train(watched, tmp_path / "a")["net"]
    after = [*seen[1:], [p.detach() for p in last.parameters()]]
    mean = after[0]
    for count, new in enumerate(after[1:], start=1):
        weight = min(0.9, (1 + count) / (10 + count))
        mean = [weight * m + (1 - weight) * n for m, n in zip(mean, new, strict=True)]
    averaged = train(line_task(), tmp_path / "b")["net"]
    for expected, found in zip(mean, averaged.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_kept_weights_are_those_that_a_training_that_ends_there_has(tmp_path):
    """The oracle: constant rates, and a training of its own up to each moment."""
    rate = SETTINGS.model_copy(update={"decay": "constant", "warmup_images": 0})

    def task(images: int, keep: int = 0) -> Task:
        player = replace(line_task().players["net"], learning_rate=learning_rate(rate))
        return line_task(images=images, keep=keep, players={"net": player})

    (tmp_path / "whole").mkdir()
    last = train(task(400, keep=4), tmp_path / "whole")["net"]
    kept = checkpoints.kept(tmp_path / "whole")
    assert list(kept) == [100, 200, 300, 400]
    for seen, path in kept.items():
        (tmp_path / str(seen)).mkdir()
        expected = train(task(seen), tmp_path / str(seen))["net"]
        checkpoints.restore(last, path, "net")
        assert weights(last) == weights(expected)


@pytest.mark.parametrize("kill_at", [1, 12, 20, 39])
def test_killed_and_started_again_it_keeps_the_same_weights(tmp_path, kill_at):
    straight, broken = tmp_path / "a", tmp_path / "b"
    straight.mkdir(), broken.mkdir()
    whole = train(line_task(), straight)["net"]
    assert not checkpoints.kept(straight)
    with pytest.raises(Killed):
        train(line_task(keep=3), broken, dies_at(kill_at))
    assert weights(train(line_task(keep=3), broken)["net"]) == weights(whole)
    (tmp_path / "c").mkdir()
    train(line_task(keep=3), tmp_path / "c")
    assert list(checkpoints.kept(broken)) == [140, 270, 400]
    files = [digest_files(folder / "checkpoints") for folder in (broken, tmp_path / "c")]
    assert files[0] == files[1]
    assert len(files[0]) == 3


def test_player_sits_out_until_its_turn(tmp_path):
    task = line_task(ema=None)
    player = task.players["net"]
    before = weights(player.module)
    task = replace(task, players={"net": replace(player, starts_after=390)}, images=390)
    assert weights(train(task, tmp_path)["net"]) == before


def test_rate_rises_then_falls_to_a_hundredth():
    rate = learning_rate(SETTINGS)
    assert rate(0) == pytest.approx(1e-2 * 10 / 50)
    assert rate(50) == pytest.approx(1e-2)
    assert rate(225) == pytest.approx(1e-2 * (0.01 + 0.99 * 0.5))
    assert rate(400) == pytest.approx(1e-4)
    constant = learning_rate(SETTINGS.model_copy(update={"decay": "constant"}))
    assert constant(400) == pytest.approx(1e-2)


def test_training_that_diverges_stops_and_says_what_to_change(tmp_path):
    task = line_task(ema=None)
    player = task.players["net"]

    def loss(modules, drawn):
        value = player.loss(modules, drawn)[0] * float("nan")
        return value, {"loss": value.detach()}

    with pytest.raises(StageError, match=r"loss.* is no number after 20 images\. Lower line"):
        train(replace(task, players={"net": replace(player, loss=loss)}), tmp_path)
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] is None
