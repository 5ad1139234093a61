"""How a student learns: what the denoiser draws from noise, kept at the points where it steps.

    walks      the denoiser goes from noise to image in many steps, guided, for many noises and
               conditions; its points at the student's few times are put on disk
    training   from each point the student's one step shall end on the next

Points of one walk are a function of its noise and condition, so that the squared error has nothing
to average away. All starts are noise: no image of anybody is looked at, and what the student knows
of patients it has from the denoiser.
Source: Luhman & Luhman, arXiv 2101.02388; Salimans & Ho, arXiv 2202.00512 (what a step must say).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import protocol
from ..data.loader import Order
from ..models.autoencoder import Autoencoder
from ..models.denoiser import Denoiser, guided, guided_times
from ..models.diffusion import ddim, noise_like
from ..models.steps import Steps
from ..pictures import write_grid
from ..runtime import derive_seed
from .batches import send
from .filling import fill
from .loop import Modules, Player, Task, learning_rate, train

WALKED = 64  # images at a time
LOOKED_AT = 256  # of the walks, at most, are not learned from but looked at
SHOWN = 8


def walk_all(
    denoiser: Denoiser,
    conditions: torch.Tensor,
    steps: Steps,
    settings: protocol.Sample,
    *,
    shape: tuple[int, int, int],
    path: Path,
    seed: int,
    device: str,
    progress=lambda what, share: None,
) -> np.ndarray:
    """Return the denoiser's walks (steps + 1, N, c, h, w), one for each condition (N, L), mapped
    from `path`; several processes divide them."""
    times = guided_times(steps.schedule, settings.guidance_interval)

    def walked(columns: slice) -> np.ndarray:
        rows = range(columns.start, columns.stop)
        generators = [
            torch.Generator().manual_seed(derive_seed(seed, "student", "noise", i)) for i in rows
        ]
        with torch.inference_mode():
            noise = noise_like(torch.empty(len(rows), *shape, device=device), generators)
            under = conditions[columns].to(device)
            denoise = guided(denoiser, under, settings.guidance, times=times)
            points = steps.walks(denoise, noise, settings).float().cpu().numpy()
        progress("walks", columns.stop / len(conditions))
        return points

    return fill(path, len(conditions), walked, block=WALKED)


def fit_student(
    student: nn.Module,
    walks: np.ndarray,
    conditions: torch.Tensor,
    autoencoder: Autoencoder,
    steps: Steps,
    settings: protocol.Sample,
    *,
    seed: int,
    folder: Path,
    device: str,
    progress=lambda what, share: None,
) -> nn.Module:
    """Train a student (x, t, condition) -> prediction on walks (steps + 1, N, c, h, w) under
    conditions (N, L); it should begin as a copy of the denoiser, told of no augmentation.

    Returns it on the CPU with averaged weights.
    """
    asked = settings.student
    kept = min(LOOKED_AT, len(conditions) // 10)
    count = len(conditions) - kept

    order = Order(count, seed=derive_seed(seed, "student"))

    def batch(start: int, wanted: int, own: slice) -> tuple[torch.Tensor, ...]:
        chosen = order.draw(start, wanted)[own]
        step = torch.randint(0, len(steps.pairs), (wanted,))[own]
        begin, end = walks[step.numpy(), chosen], walks[step.numpy() + 1, chosen]
        condition = conditions[chosen]
        parts = (begin, end, step.numpy(), condition.numpy())
        return tuple(send(part, device) for part in parts)

    def losses(student, begin, end, step, condition) -> torch.Tensor:
        made = student(begin, steps.times(step), condition).float()
        return steps.error(made, begin, end, step).square().flatten(1).mean(1)

    def loss(modules: Modules, drawn: tuple[torch.Tensor, ...]):
        value = losses(modules["student"], *drawn).mean()
        return value, {"loss": value.detach()}

    held = torch.from_numpy(np.array(walks[:, count:])).to(device)
    under = conditions[count:].to(device)

    def drawn_by(module: nn.Module, some: slice) -> torch.Tensor:
        return ddim(
            guided(module, under[some], 1.0),
            held[0, some],
            steps.schedule,
            steps.pairs,
            objective=steps.objective,
        )

    def validate(modules: Modules) -> dict[str, float]:
        """How far its images are from the denoiser's of the same noise: the root mean square, and
        the ratio of deviations."""
        made = torch.cat(
            [
                drawn_by(modules["student"], slice(start, start + WALKED))
                for start in range(0, kept, WALKED)
            ]
        )
        error = (made - held[-1]).square().mean().sqrt()
        ratio = made.std() / held[-1].std()
        return {"validation_off": error.item(), "validation_deviation": ratio.item()}

    def preview(modules: Modules, path: Path) -> None:
        shown = torch.cat([held[-1, :SHOWN], drawn_by(modules["student"], slice(0, SHOWN))])
        write_grid(path, autoencoder.to(device).decode(shown).cpu().numpy(), columns=SHOWN)

    training = asked.training
    player = Player(student, loss, learning_rate(training), training.weight_decay, training.clip)
    task = Task(
        "student",
        {"student": player},
        batch,
        training.images,
        training.batch,
        seed,
        ema=("student", asked.ema) if asked.ema else None,
        validate=validate,
        preview=preview,
        optimiser=training,
    )
    return train(task, folder, progress)["student"]
