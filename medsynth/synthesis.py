"""From noise to a synthetic cohort. An image is its seed and its condition, nothing else."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from . import protocol
from .cohort import Cohort, Record, to_pixels
from .models.autoencoder import Autoencoder
from .models.concept import Taught
from .models.control import Controlled
from .models.denoiser import encode_conditions, guided, guided_times
from .models.diffusion import Schedule, noise_like
from .models.prompted import AnyDenoiser
from .models.solvers import Pairs, solve
from .runtime import derive_seed, ranks, write_bytes
from .vocabulary import Vocabulary

Labels = Mapping[str, str]
Progress = Callable[[str, float], None]


def sample(
    denoiser: AnyDenoiser | Taught | Controlled,
    autoencoder: Autoencoder,
    vocabulary: Vocabulary,
    conditions: Sequence[Labels],
    *,
    settings: protocol.Sample,
    diffusion: protocol.Diffusion,
    seeds: Sequence[int],
    device: str,
    maps: np.ndarray | None = None,
    pairs: Pairs | None = None,
) -> np.ndarray:
    """Draw one image a condition: (N, C, H, W) float32 in [-1, 1].

    `pairs` are the times of another walk than the settings'.

    Image i follows from seeds[i] and conditions[i], and of a Controlled from maps[i], (K, H, W)
    float32 in [0, 1]. The network is always given `settings.batch` images, padded with repeats, so
    that not even rounding depends on how many are asked for.
    """
    base = denoiser if maps is None else denoiser.denoiser
    tokens = encode_conditions(vocabulary, conditions)
    schedule = Schedule.of(diffusion)
    times = guided_times(schedule, settings.guidance_interval)
    made = []
    for start in range(0, len(tokens), settings.batch):
        rows = [min(start + i, len(tokens) - 1) for i in range(settings.batch)]
        generators = [torch.Generator().manual_seed(seeds[row]) for row in rows]
        with torch.inference_mode():
            noise = noise_like(_latent(base, len(rows), device), generators)
            net = base
            if maps is not None:
                net = denoiser.under(torch.from_numpy(maps[rows]).to(device))
            z = solve(
                guided(net, tokens[rows].to(device), settings.guidance, times=times),
                noise,
                schedule,
                settings,
                objective=diffusion.objective,
                generators=generators,
                pairs=pairs,
            )
            made.append(autoencoder.decode(z).float().cpu()[: len(tokens) - start])
    return torch.cat(made).numpy()


def _latent(denoiser: AnyDenoiser | Taught, count: int, device: str) -> torch.Tensor:
    config = denoiser.unet.config
    side = config.sample_size
    return torch.empty(count, config.in_channels, side, side, device=device)


def choose_conditions(
    real: Sequence[Labels],
    settings: protocol.Sample,
    seed: int,
    *,
    weights: Sequence[float] | None = None,
) -> list[dict[str, str]]:
    """Return the labels of `settings.images` synthetic images, in a random order.

    By default the joint counts of the real labels are followed as closely as whole images allow;
    wished shares are followed for each attribute on its own, the others by their real shares.
    A real image counts for its weight, by default for 1.
    """
    weights = [1.0] * len(real) if weights is None else weights
    count, rng = settings.images, np.random.default_rng(derive_seed(seed, "conditions"))
    if settings.labels is None:
        joint = _weigh([tuple(sorted(row.items())) for row in real], weights)
        rows = [dict(key) for key in _apportion(joint, count)]
        return [rows[i] for i in rng.permutation(count)]
    columns = {}
    for attribute in sorted({name for row in real for name in row} | set(settings.labels)):
        wished = settings.labels.get(attribute)
        shares = wished or _weigh([row.get(attribute) for row in real], weights)
        values = _apportion(shares, count)
        columns[attribute] = [values[i] for i in rng.permutation(count)]
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _weigh(keys: Sequence, weights: Sequence[float]) -> dict:
    """Add up the weights of each key; None is no key."""
    sums: dict = {}
    for key, weight in zip(keys, weights, strict=True):
        if key is not None:
            sums[key] = sums.get(key, 0.0) + weight
    return sums


def _apportion(shares: Mapping, count: int) -> list:
    """Repeat each key in proportion to its share, `count` in all, by largest remainder."""
    total = sum(shares.values())
    keys = sorted(shares, key=str)
    exact = [count * shares[key] / total for key in keys]
    whole = [int(value) for value in exact]
    by_rest = sorted(range(len(keys)), key=lambda i: whole[i] - exact[i])
    for i in by_rest[: count - sum(whole)]:
        whole[i] += 1
    return list(
        itertools.chain.from_iterable([key] * n for key, n in zip(keys, whole, strict=True))
    )


def sample_cohort(
    draw: Callable[[np.ndarray, Sequence[Labels], Sequence[int]], np.ndarray],
    conditions: Sequence[Labels],
    *,
    bits: int,
    batch: int,
    seed: int,
    folder: Path,
    progress: Progress = lambda what, share: None,
) -> None:
    """Draw all images block by block into `folder`/blocks; blocks that are there are kept.

    `draw` gets the images' numbers, conditions and seeds. Of several processes each makes its
    own blocks.
    """
    blocks = folder / "blocks"
    blocks.mkdir(exist_ok=True)
    starts = range(0, len(conditions), batch)
    rank, world = ranks()
    for number in range(rank, len(starts), world):
        path = blocks / f"{number:06d}.npy"
        if not path.exists():
            rows = np.arange(starts[number], min(starts[number] + batch, len(conditions)))
            wanted = [conditions[i] for i in rows]
            images = draw(rows, wanted, [image_seed(seed, int(i)) for i in rows])
            _write_block(path, to_pixels(images, bits=bits))
        progress("sample", (number + 1) / len(starts))


def image_seed(seed: int, number: int) -> int:
    """Return the seed of synthetic image `number` of a study."""
    return derive_seed(seed, "image", number)


def join_blocks(conditions: Sequence[Labels], *, domain: str, seed: int, folder: Path) -> Cohort:
    """Join all blocks into the synthetic cohort."""
    records = [
        Record(id=f"syn-{i + 1:06d}", origin="synthetic", labels=labels, seed=image_seed(seed, i))
        for i, labels in enumerate(conditions)
    ]
    return Cohort(domain, tuple(records), join_pixels(folder))


def join_pixels(folder: Path) -> np.ndarray:
    """Return what `sample_cohort` drew into `folder`, (N, H, W, C)."""
    return np.concatenate([np.load(path) for path in sorted((folder / "blocks").iterdir())])


def _write_block(path: Path, pixels: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, pixels, allow_pickle=False)
    write_bytes(path, file.getvalue())


def hand_out_copies(
    autoencoder: Autoencoder, images: np.ndarray, *, seeds: Sequence[int], device: str
) -> np.ndarray:
    """Return training images through the autoencoder with a little latent noise.

    This is what a generator that has learned its training images by heart does; it exists to
    show that the gate sees it.
    """
    with torch.inference_mode():
        z = autoencoder.encode(torch.from_numpy(images).to(device))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return autoencoder.decode(z + 0.05 * noise_like(z, generators)).float().cpu().numpy()
