"""A small network that learns a label, so that images can be judged by what they teach.

MONAI's ResNet with one block a level and group normalisation: nothing in it depends on what else
is in a batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import ResNet
from monai.networks.nets.resnet import ResNetBlock

from ..data.lessons import Classify, Lesson, draw_evenly
from ..domains import Symmetry
from ..protocol import Optimiser
from ..runtime import derive_seed
from .augment import draw_turns, flip_and_turn
from .loop import Modules, Player, Task, learning_rate, train
from .rand_augment import rand_augment

WIDTHS = (16, 32, 64, 128)
BATCH, RATE, DECAY, WARM_UP = 32, 2e-3, 1e-2, 0.1
ASKED = 256  # images at a time
SAVES = 2


def build_classifier(channels: int, values: int) -> ResNet:
    """Return the network, (N, channels, H, W) -> (N, values) logits; about 0.3 M parameters."""
    return ResNet(
        ResNetBlock,
        [1, 1, 1, 1],
        list(WIDTHS),
        spatial_dims=2,
        n_input_channels=channels,
        conv1_t_size=5,
        conv1_t_stride=2,
        num_classes=values,
        norm=("group", {"num_groups": 8}),
    )


def fit_classifier(
    lesson: Lesson,
    folder: Path,
    *,
    symmetry: Symmetry,
    device: str,
    progress=lambda what, share: None,
) -> Classify:
    """Learn a lesson; returns what tells the classes' probabilities. `folder` is for its state."""
    torch.manual_seed(derive_seed(lesson.seed, "classifier", "start"))
    net = build_classifier(lesson.channels, lesson.values)
    training = Optimiser(
        images=lesson.images,
        batch=BATCH,
        learning_rate=RATE,
        warmup_images=round(WARM_UP * lesson.images),
        weight_decay=DECAY,
    )
    order = derive_seed(lesson.seed, "classifier")

    def batch(start: int, count: int, own: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = draw_evenly(
            lesson.classes, lesson.values,
            start=start, count=count, seed=order, groups=lesson.groups,
        )  # fmt: skip
        images = lesson.show(chosen, np.arange(start, start + count))
        if lesson.classical:
            rng = np.random.default_rng(derive_seed(order, "augment", start))
            images = rand_augment(images, rng)
        shown = torch.from_numpy(images).to(device)
        if lesson.classical and not lesson.another:
            shown = flip_and_turn(shown, draw_turns(count, symmetry, device))
        return shown[own], torch.from_numpy(lesson.classes[chosen])[own].to(device)

    def loss(modules: Modules, drawn) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value = F.cross_entropy(modules["classifier"](drawn[0]).float(), drawn[1])
        return value, {"loss": value.detach()}

    player = Player(net, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task(
        "classifier", {"classifier": player}, batch, lesson.images, BATCH, lesson.seed, saves=SAVES
    )
    trained = train(task, folder, progress)["classifier"].to(device)

    def classify(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = torch.from_numpy(np.ascontiguousarray(images)).split(ASKED)
            said = [trained(part.to(device)).float().softmax(1).cpu() for part in parts]
        return torch.cat(said).numpy()

    return classify
