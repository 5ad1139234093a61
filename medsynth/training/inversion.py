"""How a concept is learned: its vectors alone, by the loss that the denoiser was trained with.

The player of the loop is the concept; the denoiser is no part of it, so that nothing of it can
change. Noise and times are drawn as in the denoiser's own training; no condition is dropped.
Source: Gal et al., arXiv 2208.01618.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import protocol
from ..data.loader import Order
from ..models.autoencoder import Autoencoder
from ..models.concept import Concept
from ..models.denoiser import guided
from ..models.diffusion import Schedule
from ..models.prompted import AnyDenoiser
from ..models.solvers import solve
from ..pictures import write_grid
from ..runtime import derive_seed, writes
from .batches import send
from .diffusion import denoising_loss, times_at
from .loop import Modules, Player, Task, learning_rate, train

LOOKED_AT = 64  # latents, by which a loss is told
NOISES = 4  # of each
SHOWN, SHOWN_STEPS = 8, 10


@dataclass(frozen=True)
class Examples:
    """Images of a concept: latents (V, N, c, h, w) float32, V views of each, and conditions
    (V, N, L) int64 with the concept's token in its place."""

    latents: np.ndarray
    conditions: torch.Tensor


def token_losses(
    denoiser: AnyDenoiser,
    examples: Examples,
    diffusion: protocol.Diffusion,
    *,
    token: int,
    candidates: Sequence[int],
    device: str,
) -> dict[int, float]:
    """Return the denoising loss of the images under each candidate in the place of `token`.

    All meet the same noise at the same times; the lowest is the nearest known token.
    """
    look = _Look(examples, diffusion, device)
    with torch.inference_mode():
        return {
            known: look(denoiser, look.condition.masked_fill(look.condition == token, known))
            for known in candidates
        }


class _Look:
    """The loss on the first view, at evenly spread times with fixed noise."""

    def __init__(self, examples: Examples, diffusion: protocol.Diffusion, device: str):
        self.diffusion, self.schedule = diffusion, Schedule.of(diffusion)
        z = torch.from_numpy(np.ascontiguousarray(examples.latents[0, :LOOKED_AT]))
        self.z = z.repeat(NOISES, 1, 1, 1).to(device)
        self.condition = examples.conditions[0, :LOOKED_AT].repeat(NOISES, 1).to(device)
        eps = torch.randn(self.z.shape, generator=torch.Generator().manual_seed(0))
        self.eps = eps.to(device)
        self.t = torch.linspace(0, self.schedule.timesteps - 1, len(self.z)).long().to(device)

    def __call__(self, denoise, condition: torch.Tensor) -> float:
        parts = [x.split(LOOKED_AT) for x in (self.z, condition, self.t, self.eps)]
        losses = [
            denoising_loss(denoise, *part, self.schedule, self.diffusion)
            for part in zip(*parts, strict=True)
        ]
        return float(torch.cat(losses).mean())


def learn(
    denoiser: AnyDenoiser,
    autoencoder: Autoencoder,
    examples: Examples,
    settings: protocol.Concept,
    diffusion: protocol.Diffusion,
    *,
    start: int,
    seed: int,
    folder: Path,
    device: str,
    progress=lambda what, share: None,
) -> tuple[Concept, Mapping[str, float]]:
    """Learn vectors for the token that follows the denoiser's own, from the known token `start`.

    Writes `vectors.safetensors` into `folder`; an interrupted call goes on. Returns the concept on
    the CPU, and its loss on the images before and after.
    """
    denoiser = denoiser.to(device).requires_grad_(False).eval()
    concept = Concept.start(
        denoiser, start, count=settings.vectors, seed=derive_seed(seed, "concept", "start")
    )
    schedule, look = Schedule.of(diffusion), _Look(examples, diffusion, device)
    views, count = examples.latents.shape[:2]
    order = Order(count, seed=derive_seed(seed, "concept"))

    def batch(first: int, wanted: int, own: slice) -> tuple[torch.Tensor, ...]:
        chosen = order.draw(first, wanted)[own]
        view = torch.randint(0, views, (wanted,)).numpy()[own]
        z = send(examples.latents[view, chosen], device)
        t = times_at(torch.rand(wanted, device=device), schedule, diffusion)[own]
        eps = torch.randn(wanted, *z.shape[1:], device=device)[own]
        return z, examples.conditions[view, chosen].to(device), t, eps

    def loss(modules: Modules, drawn: tuple[torch.Tensor, ...]):
        denoise = functools.partial(modules["concept"], denoiser)
        value = denoising_loss(denoise, *drawn, schedule, diffusion).mean()
        return value, {"loss": value.detach()}

    def validate(modules: Modules) -> dict[str, float]:
        """The loss on the images themselves: there are too few to keep some back."""
        denoise = functools.partial(modules["concept"], denoiser)
        return {"loss_on_images": look(denoise, look.condition)}

    def preview(modules: Modules, path: Path) -> None:
        shown = examples.conditions[0, torch.arange(SHOWN) % count].to(device)
        z = solve(
            guided(functools.partial(modules["concept"], denoiser), shown, settings.guidance),
            torch.randn(SHOWN, *examples.latents.shape[2:]).to(device),
            schedule,
            protocol.Sample(steps=SHOWN_STEPS, sampler="unipc"),
            objective=diffusion.objective,
        )
        write_grid(path, autoencoder.to(device).decode(z).cpu().numpy(), columns=SHOWN)

    with torch.inference_mode():
        before = validate({"concept": concept})["loss_on_images"]
    training = settings.training
    player = Player(concept, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task(
        "concept",
        {"concept": player},
        batch,
        training.images,
        training.batch,
        seed,
        validate=validate,
        preview=preview,
        optimiser=training,
    )
    learned = train(task, folder, progress)["concept"]
    if writes():
        learned.save(folder)
    with torch.inference_mode():
        after = validate({"concept": learned.to(device)})["loss_on_images"]
    return learned.cpu(), {"before": before, "after": after}
