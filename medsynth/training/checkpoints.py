"""Weights from moments of a training, kept beside each other so that one can be chosen.

    FOLDER/checkpoints/000000020000/denoiser.safetensors     after 20,000 images

They go with the workspace's other scratch when the stage is done; until then they take as much
room as the network, so many times as weights are kept.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from ..runtime import writes

FOLDER, BEST = "checkpoints", "best"


def keep(folder: Path, seen: int, modules: Mapping[str, nn.Module], *, under: str = FOLDER) -> None:
    """Keep modules' weights after `seen` images; weights that are there are left as they are.

    The same training comes to the same weights, so that what it left before it was killed holds.
    """
    target = folder / under / f"{seen:012d}"
    if target.exists():
        return
    writing = target.with_name("writing")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    for name, module in modules.items():
        tensors = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, writing / f"{name}.safetensors")
    writing.rename(target)


def kept(folder: Path, *, under: str = FOLDER) -> dict[int, Path]:
    """Return the folders of all kept weights by images seen, the earliest first."""
    paths = sorted((folder / under).glob("[0-9]*"))
    return {int(path.name): path for path in paths}


def keep_best(folder: Path, seen: int, modules: Mapping[str, nn.Module]) -> None:
    """Keep the weights that are the best so far, and no earlier ones."""
    keep(folder, seen, modules, under=BEST)
    for number, path in kept(folder, under=BEST).items():
        if number != seen:
            shutil.rmtree(path)


def end_with_best(folder: Path, modules: Mapping[str, nn.Module], *, every: bool) -> None:
    """Give modules the best weights; with `every`, drop what was kept later, so that the best are
    the last of all that are kept."""
    (seen, path), *_ = kept(folder, under=BEST).items()
    for name, module in modules.items():
        restore(module, path, name)
    if every and writes():
        for number, later in kept(folder).items():
            if number > seen:
                shutil.rmtree(later)
        keep(folder, seen, modules)


def restore(module: nn.Module, checkpoint: Path, name: str) -> None:
    """Give a module the weights that were kept of player `name`."""
    module.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
