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

FOLDER = "checkpoints"


def keep(folder: Path, seen: int, modules: Mapping[str, nn.Module]) -> None:
    """Keep modules' weights after `seen` images; weights that are there are left as they are.

    The same training comes to the same weights, so that what it left before it was killed holds.
    """
    target = folder / FOLDER / f"{seen:012d}"
    if target.exists():
        return
    writing = target.with_name("writing")
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    for name, module in modules.items():
        tensors = {key: value.cpu().contiguous() for key, value in module.state_dict().items()}
        save_file(tensors, writing / f"{name}.safetensors")
    writing.rename(target)


def kept(folder: Path) -> dict[int, Path]:
    """Return the folders of all kept weights by images seen, the earliest first."""
    paths = sorted((folder / FOLDER).glob("[0-9]*"))
    return {int(path.name): path for path in paths}


def restore(module: nn.Module, checkpoint: Path, name: str) -> None:
    """Give a module the weights that were kept of player `name`."""
    module.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
