"""A small network that finds masks again, so that obedience to them can be measured.

It learns from real training images and their masks alone; how well it does is what the floor of
reconstructed real images shows. MONAI's BasicUNet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import BasicUNet

from ..data.loader import Order
from ..domains import Symmetry
from ..protocol import Optimiser
from ..runtime import derive_seed
from .augment import views_of
from .control import turn, unpack
from .loop import Modules, Player, Task, learning_rate, train

FEATURES = (16, 16, 32, 64, 64, 16)
TRAINING = Optimiser(images=6_000, batch=8, learning_rate=3e-3, warmup_images=400)


def _start_from_shares(net: BasicUNet, maps: np.ndarray) -> None:
    """Let the network say how much of the images each class covers, before it learns where."""
    shares = torch.from_numpy(maps.mean((0, 2, 3), dtype=np.float64) / 255).clamp(1e-4, 1 - 1e-4)
    with torch.no_grad():
        net.final_conv.bias.copy_(torch.logit(shares))


def fit_segmenter(
    images: np.ndarray,
    maps: np.ndarray,
    *,
    symmetry: Symmetry,
    seed: int,
    folder: Path,
    device: str,
    most_images: int,
    progress=lambda what, share: None,
) -> Callable[[np.ndarray], np.ndarray]:
    """Learn masks (N, K, H, W) uint8 shares from images (N, C, H, W) in [-1, 1].

    It sees TRAINING's images, or `most_images` where these are fewer. Returns images -> shares
    (N, K, H, W) float32 in [0, 1]. `folder` is for its state.
    """
    images_seen = min(TRAINING.images, most_images)
    warmup = min(TRAINING.warmup_images, images_seen // 10)
    training = TRAINING.model_copy(update={"images": images_seen, "warmup_images": warmup})
    torch.manual_seed(derive_seed(seed, "segmenter", "start"))
    net = BasicUNet(
        spatial_dims=2, in_channels=images.shape[1], out_channels=maps.shape[1], features=FEATURES
    )
    _start_from_shares(net, maps)
    order = Order(len(images), seed=derive_seed(seed, "segmenter"))
    views = views_of(symmetry)

    def batch(start: int, wanted: int, own: slice) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = order.draw(start, wanted)
        ways = [views[i] for i in torch.randint(0, len(views), (wanted,)).tolist()]
        pairs = list(zip(chosen, ways, strict=True))[own]
        shown = torch.from_numpy(np.stack([turn(images[i], *way) for i, way in pairs]))
        return shown.to(device), unpack(np.stack([turn(maps[i], *way) for i, way in pairs])).to(
            device
        )

    def loss(modules: Modules, drawn):
        value = F.binary_cross_entropy_with_logits(modules["segmenter"](drawn[0]), drawn[1])
        return value, {"loss": value.detach()}

    player = Player(net, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task("segmenter", {"segmenter": player}, batch, training.images, training.batch, seed)
    trained = train(task, folder, progress)["segmenter"].to(device)

    def find(shown: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = [
                trained(part.to(device)).sigmoid() for part in torch.from_numpy(shown).split(64)
            ]
        return torch.cat(parts).float().cpu().numpy()

    return find
