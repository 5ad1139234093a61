"""How a control learns: the denoiser's own loss, under the maps of the images.

The denoiser is locked. A larger share of the conditions than in its own training is dropped to
null, so that what is drawn has to be read from the map. Source: arXiv 2302.05543.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import protocol
from ..data.loader import Order
from ..domains import Symmetry
from ..models.autoencoder import Autoencoder
from ..models.control import Controlled, build_control
from ..models.denoiser import drop_condition, guided
from ..models.diffusion import Schedule
from ..models.prompted import AnyDenoiser
from ..models.solvers import solve
from ..pictures import write_grid
from ..runtime import derive_seed, writes
from .augment import views_of
from .diffusion import denoising_loss
from .loop import Modules, Player, Task, learning_rate, train

SHOWN, SHOWN_STEPS = 8, 20
LOOKED_AT = 64  # held-out images a look, at most


@dataclass(frozen=True, eq=False)
class Examples:
    """What a control learns from: latents (V, N, c, h, w) float32 of V views of N images, their
    conditions (V, N, L) and the images' maps (N, K, H, W) uint8, 255 for 1."""

    latents: np.ndarray
    conditions: torch.Tensor
    maps: np.ndarray

    def __len__(self) -> int:
        return len(self.maps)

    def take(
        self, views: np.ndarray, chosen: np.ndarray, symmetry: Symmetry
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, conditions and maps, turned as their views are."""
        turned = [
            turn(self.maps[i], *views_of(symmetry)[v]) for v, i in zip(views, chosen, strict=True)
        ]
        z = torch.from_numpy(self.latents[views, chosen])
        return z, self.conditions[views, chosen], unpack(np.stack(turned))


def turn(maps: np.ndarray, quarter: int, mirrored: bool) -> np.ndarray:
    """Turn maps (..., H, W) as `training.augment.views_of` says of a view."""
    turned = np.rot90(maps, quarter, axes=(-2, -1))
    return turned[..., ::-1] if mirrored else turned


def unpack(maps: np.ndarray) -> torch.Tensor:
    """Return maps as float32 in [0, 1] of uint8."""
    return torch.from_numpy(np.ascontiguousarray(maps)).float() / 255


def fit_control(
    examples: Examples,
    held: Examples,
    denoiser: AnyDenoiser,
    autoencoder: Autoencoder,
    settings: protocol.Control,
    diffusion: protocol.Diffusion,
    *,
    symmetry: Symmetry,
    seed: int,
    folder: Path,
    device: str,
    groups: np.ndarray | None = None,
    progress=lambda what, share: None,
) -> Controlled:
    """Train a control of a denoiser into `folder`, and return the denoiser under it.

    `held` (one view) are patients that are not trained on; their loss is logged beside the loss
    under one another's maps, which comes apart from it once the maps are followed. `groups` are
    as in `fit_diffusion`.
    """
    torch.manual_seed(derive_seed(seed, "control", "start"))
    denoiser, schedule = denoiser.to(device), Schedule.of(diffusion)
    net = build_control(denoiser, channels=examples.maps.shape[1], downscale=autoencoder.downscale)
    if settings.training.checkpointing:
        net.enable_gradient_checkpointing()
    controlled = Controlled(denoiser, net)
    order = Order(len(examples), seed=derive_seed(seed, "control"), groups=groups)

    def batch(start: int, wanted: int, own: slice) -> tuple[torch.Tensor, ...]:
        chosen = order.draw(start, wanted)
        views = torch.randint(0, len(examples.latents), (wanted,)).numpy()
        z, _, maps = examples.take(views[own], chosen[own], symmetry)
        condition = examples.conditions[views, chosen]
        condition = drop_condition(condition, settings.condition_dropout)[own]
        t = torch.randint(0, schedule.timesteps, (wanted,))[own]
        eps = torch.randn(wanted, *z.shape[1:])[own]
        return tuple(part.to(device) for part in (z, condition, t, eps, maps))

    def losses(module, z, condition, t, eps, maps) -> torch.Tensor:
        def under(x, t, condition):
            return module(x, t, condition, maps)

        return denoising_loss(under, z, condition, t, eps, schedule, diffusion)

    def loss(modules: Modules, drawn: tuple[torch.Tensor, ...]):
        value = losses(modules["control"], *drawn).mean()
        return value, {"loss": value.detach()}

    chosen = np.arange(min(LOOKED_AT, len(held)))
    seen = [part.to(device) for part in held.take(0 * chosen, chosen, "identity")]

    def validate(modules: Modules) -> dict[str, float]:
        """The loss under each image's own map, and under the next one's."""
        z, condition, maps = seen
        t = torch.linspace(0, schedule.timesteps - 1, len(z), device=device).long()
        rest = (z, condition, t, torch.randn_like(z))
        own, other = (losses(modules["control"], *rest, m) for m in (maps, maps.roll(1, 0)))
        return {
            "validation_loss": own.mean().item(),
            "validation_loss_shuffled": other.mean().item(),
        }

    def preview(modules: Modules, path: Path) -> None:
        z, condition, maps = (part[:SHOWN] for part in seen)
        noise = torch.randn(z.shape).to(device)
        steps = protocol.Sample(steps=SHOWN_STEPS, sampler="unipc")
        under = guided(modules["control"].under(maps), condition, 1.0)
        made = solve(under, noise, schedule, steps, objective=diffusion.objective)
        images = autoencoder.to(device).decode(made).cpu()
        shown = (2 * maps.amax(1, keepdim=True) - 1).cpu().expand_as(images)
        write_grid(path, torch.cat([shown, images]).numpy(), columns=len(z))

    training = settings.training
    task = Task(
        "control",
        {
            "control": Player(
                controlled, loss, learning_rate(training), training.weight_decay, training.clip
            )
        },
        batch,
        training.images,
        training.batch,
        seed,
        validate=validate if len(held) else None,
        preview=preview if len(held) else None,
        optimiser=training,
    )
    trained = train(task, folder, progress)["control"]
    if writes():
        trained.net.save_pretrained(folder)
    return trained
