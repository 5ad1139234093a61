"""How the lens learns: each image must find its own disguise among all others' (InfoNCE).

Training and held-out patients alike, with no label of which is which: a lens that had seen only
one side would treat that side differently, and its evidence would be worth nothing.
How it may be mirrored, turned or cropped is not learnt: the search shows the lens all of these.
Source: Chen et al., arXiv 2002.05709.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from .. import protocol
from ..data.loader import Frames, Order
from ..models.lens import Lens
from ..runtime import derive_seed, writes
from .augment import disguise
from .batches import send
from .loop import Modules, Player, Task, learning_rate, train

TEMPERATURE = 0.1


def contrast(first: torch.Tensor, second: torch.Tensor, patients: torch.Tensor) -> torch.Tensor:
    """Return the InfoNCE loss of two views' features (N, D) each.

    Other images of the same patient are neither positive nor negative: the lens is not taught
    that two visits differ, nor that they are the same image.
    """
    a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
    scores = a @ b.T / TEMPERATURE
    others = (patients[:, None] == patients[None, :]).fill_diagonal_(False)
    scores = scores.masked_fill(others, -torch.inf)
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def fit_lens(
    frames: Frames,
    settings: protocol.Lens,
    *,
    seed: int,
    folder: Path,
    device: str,
    progress=lambda what, share: None,
) -> Lens:
    """Train a lens on all frames and save it.

    Writes `lens.safetensors` into `folder` and returns the lens.
    """
    torch.manual_seed(derive_seed(seed, "lens", "start"))
    lens = Lens(channels=frames.channels, width=settings.width, features=settings.features)
    patients = frames.patients
    order = Order(len(frames), seed=derive_seed(seed, "lens"), groups=frames.groups)

    def batch(start: int, count: int, own: slice):
        chosen = order.draw(start, count)[own]
        return send(frames[chosen], device), send(patients[chosen], device)

    def loss(modules: Modules, drawn):
        real, who = drawn
        views = disguise(torch.cat([real, real]))
        first, second = modules["lens"](views).float().chunk(2)
        value = contrast(first, second, who)
        return value, {"loss": value.detach()}

    training = settings.training
    player = Player(lens, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task(
        "lens",
        {"lens": player},
        batch,
        training.images,
        training.batch,
        seed,
        optimiser=training,
        whole=True,
    )
    trained = train(task, folder, progress)["lens"]
    if writes():
        trained.save(folder / "lens.safetensors")
    return trained
