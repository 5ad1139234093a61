"""How the denoiser learns: noise the latents, predict v, eps or a flow, weigh as asked.

Latents are encoded once. Each sample's condition is dropped to null on a coin of its own, so that
guidance has something to compare with. Sources: see models/diffusion.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from .. import protocol
from ..data.loader import Frames, Order
from ..domains import Symmetry
from ..models.autoencoder import Autoencoder
from ..models.denoiser import Denoiser, drop_condition, guided
from ..models.diffusion import Schedule
from ..models.solvers import solve
from ..pictures import write_grid
from ..runtime import derive_seed, writes
from . import averages
from .augment import views_of
from .batches import send
from .filling import fill
from .loop import Modules, Player, Task, learning_rate, train
from .told import Told

SHOWN, SHOWN_STEPS = 16, 20
ENCODED = 64  # images at a time


def denoising_loss(
    denoiser,
    z: torch.Tensor,
    condition: torch.Tensor,
    t: torch.Tensor,
    eps: torch.Tensor,
    schedule: Schedule,
    settings: protocol.Diffusion,
    *,
    amounts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weighted loss (N,) of predicting at latents z (N, c, h, w), times t, noise eps.

    `amounts` (N, AMOUNTS) say how the images were changed, where the denoiser is told.
    """
    target = schedule.target(z, eps, t, settings.objective)
    told = () if amounts is None else (amounts,)
    made = denoiser(schedule.add_noise(z, eps, t), t, condition, *told).float()
    error = (made - target).abs() if settings.loss == "l1" else (made - target) ** 2
    return error.flatten(1).mean(1) * schedule.weight(t, settings.objective, settings.min_snr_gamma)


def times_at(
    shares: torch.Tensor, schedule: Schedule, settings: protocol.Diffusion
) -> torch.Tensor:
    """Return the times, int64, below which lie these shares in [0, 1) of what training draws."""
    if settings.times == "logit_normal":
        shares = torch.sigmoid(torch.special.ndtri(shares))
    return (shares * schedule.timesteps).long().clamp(max=schedule.timesteps - 1)


def encode_views(
    autoencoder: Autoencoder, frames: Frames, symmetry: Symmetry, path: Path, device: str
) -> np.ndarray:
    """Encode every view of all frames once: (V, N, c, h, w) float32, memory mapped at `path`.

    Several processes divide the frames.
    """
    views = views_of(symmetry)

    def encode(columns: slice) -> np.ndarray:
        images = torch.from_numpy(frames[columns]).to(device)
        turned = (images.rot90(quarter, (2, 3)) for quarter, _ in views)
        with torch.inference_mode():
            made = [
                autoencoder.encode(image.flip(3) if mirrored else image).cpu()
                for image, (_, mirrored) in zip(turned, views, strict=True)
            ]
        return torch.stack(made).numpy()

    return fill(path, len(frames), encode, block=ENCODED)


def fit_diffusion(
    latents: np.ndarray,
    conditions: torch.Tensor,
    validation: tuple[np.ndarray, torch.Tensor],
    autoencoder: Autoencoder,
    settings: protocol.Diffusion,
    *,
    tokens: int,
    seed: int,
    folder: Path,
    device: str,
    groups: np.ndarray | None = None,
    patients: np.ndarray | None = None,
    account: Path | None = None,
    told: Told | None = None,
    progress=lambda what, share: None,
) -> Denoiser:
    """Train on latents (V, N, c, h, w) float32, V views of each image, and conditions (V, N, L).

    `groups` (N,) number the images' pictures, as Frames has them: duplicates count once. `told`
    are views that the network is told of. Private training needs the numbers (N,) of the images'
    `patients` and the run's `account`, spent.json. Writes the denoiser's folder into `folder` and
    returns it, with averaged weights.
    """
    torch.manual_seed(derive_seed(seed, "diffusion", "start"))
    _, count, channels, size, _ = latents.shape
    denoiser = Denoiser.build(settings, latent_channels=channels, latent_px=size, tokens=tokens)
    if settings.training.checkpointing:
        denoiser.unet.enable_gradient_checkpointing()
    schedule = Schedule.of(settings)
    order = Order(count, seed=derive_seed(seed, "diffusion"), groups=groups)

    def batch(start: int, wanted: int, own: slice) -> tuple[torch.Tensor, ...]:
        chosen = order.draw(start, wanted)
        views = torch.randint(0, len(latents), (wanted,)).numpy()
        z, condition, amounts = latents[views[own], chosen[own]], conditions[views, chosen], ()
        if told is not None:
            z, condition, amounts = told.mix(z, condition, chosen, own)
            amounts = (send(amounts.numpy(), device),)
        z, condition = send(z, device), send(condition.numpy(), device)
        t = _draw_times(wanted, schedule, settings, device)[own]
        condition = drop_condition(condition, settings.condition_dropout)[own]
        eps = torch.randn(wanted, *z.shape[1:], device=device)[own]
        return z, condition, t, eps, *amounts

    def loss(modules: Modules, drawn: tuple[torch.Tensor, ...]):
        inputs, amounts = drawn[:4], drawn[4] if told is not None else None
        values = denoising_loss(modules["denoiser"], *inputs, schedule, settings, amounts=amounts)
        value = values.mean()
        return value, {"loss": value.detach()}

    held = [torch.from_numpy(validation[0]).to(device), validation[1].to(device)]

    def validate(modules: Modules) -> dict[str, float]:
        """The same loss, at evenly spread times with fixed noise, on patients not trained on."""
        losses = []
        for z, condition in zip(held[0].split(64), held[1].split(64), strict=True):
            t = torch.linspace(0, schedule.timesteps - 1, len(z), device=device).long()
            eps = torch.randn_like(z)
            losses.append(
                denoising_loss(modules["denoiser"], z, condition, t, eps, schedule, settings)
            )
        return {"validation_loss": torch.cat(losses).mean().item()}

    def preview(modules: Modules, path: Path) -> None:
        noise = torch.randn(SHOWN, channels, size, size).to(device)
        shown = conditions[0, torch.arange(SHOWN) % count].to(device)
        z = solve(
            guided(modules["denoiser"], shown, 1.0),
            noise,
            schedule,
            protocol.Sample(steps=SHOWN_STEPS, sampler="unipc"),
            objective=settings.objective,
        )
        write_grid(path, autoencoder.to(device).decode(z).cpu().numpy(), columns=8)

    training = settings.training
    player = Player(denoiser, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task(
        "diffusion",
        {"denoiser": player},
        batch,
        training.images,
        training.batch,
        seed,
        ema=("denoiser", settings.ema) if settings.ema else None,
        validate=validate,
        preview=preview,
        keep=0 if settings.choose is None else settings.choose.checkpoints,
        profiles=0 if settings.averages is None else settings.averages.kept,
        patience=settings.patience,
        optimiser=training,
    )
    if settings.private is not None:
        from .private import make_private

        task = make_private(
            task,
            settings,
            latents=latents,
            conditions=conditions,
            patients=patients,
            folder=folder,
            account=account,
            device=device,
        )
    trained = train(task, folder, progress)["denoiser"]
    if settings.averages is not None:

        def look() -> dict[str, float]:
            torch.manual_seed(derive_seed(seed, "diffusion", "validation"))
            return validate({"denoiser": trained})

        averages.choose(trained.to(device), folder, settings.averages.length, look)
        trained.cpu()
    if writes():
        trained.save(folder)
    return trained


def _draw_times(
    count: int, schedule: Schedule, settings: protocol.Diffusion, device: str
) -> torch.Tensor:
    if settings.times is None:
        return torch.randint(0, schedule.timesteps, (count,), device=device)
    return times_at(torch.rand(count, device=device), schedule, settings)
