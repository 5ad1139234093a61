"""A MONAI bundle's autoencoder: configs/ say what it is, models/ hold its weights.

A bundle's configs may hold Python ("$...") and class paths. Here they are read as data: the
definition's last word must be AutoencoderKL or VQVAE, "@name" is looked up, and "$" is refused.
Source: the MONAI bundle specification.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import DataError

KINDS = ("AutoencoderKL", "VQVAE")
FILES = ("model_autoencoder.pt", "autoencoder.pt", "model.pt")
OLD_NAMES = {"num_channels": "channels"}  # of MONAI's generative models before they came into MONAI
DEPTH = 20


@dataclass(frozen=True)
class Bundle:
    """A bundle's network, and how images go through it. `low` and `high` are the values of black
    and white that it was made for; bundles that say nothing mean 0 and 1."""

    net: nn.Module
    reconstruct: Callable[[torch.Tensor], torch.Tensor]
    channels: int
    multiple_px: int
    low: float
    high: float


def is_bundle(folder: Path) -> bool:
    """True where there are configs and models; what they are, `open_bundle` finds out."""
    return (folder / "configs").is_dir() and (folder / "models").is_dir()


def open_bundle(folder: Path) -> Bundle:
    """Open the 2D autoencoder of a bundle.

    Raises DataError where the configs define none, define it by an expression, or where no
    weights in models/ fit.
    """
    kind, settings = _definition(folder)
    net = _build(folder, kind, settings)
    _load(folder, net)
    low, high = _value_range(folder)
    if kind == "VQVAE":
        steps = settings.get("downsample_parameters", ((2, 4, 1, 1),) * 3)
        strides = [steps[0]] if isinstance(steps[0], int) else [step[0] for step in steps]
        return Bundle(net, lambda x: net(x)[0], net.in_channels, math.prod(strides), low, high)
    levels = settings.get("channels", (0,) * 4)
    size = 2 ** (len(levels) - 1)
    return Bundle(net, net.reconstruct, settings.get("in_channels", 1), size, low, high)


def _definition(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the kind of network and its settings from the first config that defines one."""
    for path, config in _configs(folder):
        for value in config.values():
            target = value.get("_target_") if isinstance(value, Mapping) else None
            kind = str(target).rpartition(".")[2]
            if kind in KINDS:
                given = {key: v for key, v in value.items() if not key.startswith("_")}
                settings = {OLD_NAMES.get(key, key): v for key, v in given.items()}
                return kind, _resolved(settings, config, path.name)
    raise DataError(f"{folder.name}/configs define no {' or '.join(KINDS)}")


def _configs(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    from ruamel.yaml import YAML, YAMLError

    for path in sorted((folder / "configs").iterdir()):
        if path.suffix in (".json", ".yaml", ".yml") and path.name != "metadata.json":
            try:
                config = YAML(typ="safe").load(path.read_text())  # JSON is YAML, too
            except (YAMLError, UnicodeDecodeError):
                raise DataError(f"{folder.name}/configs/{path.name} is no JSON or YAML") from None
            if isinstance(config, Mapping):
                yield path, config


def _resolved(value: Any, config: Mapping[str, Any], name: str, depth: int = 0) -> Any:
    """Put in what "@key" stands for, at any depth. Raises DataError on "$" and on circles."""
    if depth > DEPTH:
        raise DataError(f"{name}: its @references go round in a circle")
    if isinstance(value, Mapping):
        return {key: _resolved(item, config, name, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, config, name, depth + 1) for item in value]
    if isinstance(value, str) and value.startswith("$"):
        raise DataError(f"{name} defines the autoencoder by Python code, which is not run here")
    if isinstance(value, str) and value.startswith("@"):
        found: Any = config
        for part in value[1:].replace("#", "::").split("::"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return _resolved(found, config, name, depth + 1)
    return value


def _build(folder: Path, kind: str, settings: dict[str, Any]) -> nn.Module:
    from monai.networks import nets

    network = {"AutoencoderKL": nets.AutoencoderKL, "VQVAE": nets.VQVAE}[kind]
    known = set(inspect.signature(network.__init__).parameters)
    if (strange := sorted(settings.keys() - known)) or settings.get("spatial_dims") != 2:
        what = f"unknown settings {', '.join(strange)}" if strange else "not 2D"
        raise DataError(f"{folder.name}: its {kind} can't be opened: {what}")
    try:
        return network(**settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{folder.name}: its {kind} can't be built from its configs ({type(error).__name__})"
        ) from None


def _load(folder: Path, net: nn.Module) -> None:
    """Load the first weights in models/ that fit; of older MONAI versions, by their old names."""
    found = [folder / "models" / name for name in FILES if (folder / "models" / name).is_file()]
    for path in found:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception:  # a damaged or forbidden pickle ends in any error at all
            raise DataError(
                f"{folder.name}/models/{path.name} is no file of tensors alone: save the network's "
                f"state_dict()"
            ) from None
        state = state.get("state_dict", state) if isinstance(state, Mapping) else {}
        if _fits(net, state):
            return
    names = " or ".join(FILES)
    raise DataError(f"{folder.name}/models holds no weights that fit: looked for {names}")


def _fits(net: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """True where the weights went into the network, every one of them into its place."""
    try:
        net.load_state_dict(state)
        return True
    except RuntimeError:
        if not hasattr(net, "load_old_state_dict"):
            return False
    left = dict(state)
    for own in net.state_dict().values():
        own.fill_(math.nan)  # MONAI leaves as it was what the old weights don't have
    try:
        net.load_old_state_dict(left)
    except (RuntimeError, KeyError):
        return False
    return not left and not any(own.isnan().any() for own in net.state_dict().values())


def _value_range(folder: Path) -> tuple[float, float]:
    """Return what metadata.json says of the values of an image that comes in; else 0 and 1."""
    path = folder / "configs" / "metadata.json"
    if not path.is_file():
        return 0.0, 1.0
    from ruamel.yaml import YAML

    found: Any = YAML(typ="safe").load(path.read_text())
    for part in ("network_data_format", "inputs", "image", "value_range"):
        found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, list) and len(found) == 2 and float(found[0]) < float(found[1]):
        return float(found[0]), float(found[1])
    return 0.0, 1.0
