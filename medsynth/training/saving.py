"""The state that a training goes on from: safetensors and JSON, nothing is pickled.

FOLDER/state/000000020000/{module_*,optimiser_*,average}.safetensors, progress.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..runtime import append_jsonl, read_json, read_jsonl, write_json

Tensors = Mapping[str, torch.Tensor]


def write(folder: Path, groups: Mapping[str, Tensors], progress: Mapping[str, Any]) -> None:
    """Write a whole state beside the last one, then drop the last one; `progress` has `seen`."""
    target = folder / "state" / f"{progress['seen']:012d}"
    temporary = target.with_name("writing")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for group, tensors in groups.items():
        own = {
            key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()
        }  # safetensors takes no shared memory
        save_file(own, temporary / f"{group}.safetensors")
    write_json(temporary / "progress.json", progress)
    temporary.rename(target)
    for old in target.parent.iterdir():
        if old != target:
            shutil.rmtree(old)


def newest(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """Return the groups of tensors and the progress of the newest whole state, None if none."""
    states = sorted(path for path in (folder / "state").glob("[0-9]*") if path.is_dir())
    if not states:
        return None
    groups = {path.stem: load_file(path) for path in states[-1].glob("*.safetensors")}
    return groups, read_json(states[-1] / "progress.json")


def cut_log(path: Path, seen: int) -> None:
    """Drop what was logged after `seen` images."""
    if path.exists():
        rows = [row for row in read_jsonl(path) if row["images"] <= seen]
        path.unlink()
        for row in rows:
            append_jsonl(path, row)


def moments(optimiser: Any) -> dict[str, torch.Tensor]:
    """Return an optimiser's moments by weight and name: {"3.exp_avg": tensor}."""
    return {
        f"{index}.{key}": torch.as_tensor(value)
        for index, row in optimiser.state_dict()["state"].items()
        for key, value in row.items()
    }


def load_moments(optimiser: Any, tensors: Tensors) -> None:
    """Give an optimiser back the moments of `moments`, laid out in memory as its weights are."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        weight = weights[int(number)]
        if value.shape == weight.shape and value.dim():  # fused AdamW wants the same strides
            value = torch.empty_like(weight, device=value.device).copy_(value)
        state.setdefault(int(number), {})[name] = value
    whole = optimiser.state_dict()
    optimiser.load_state_dict({"state": state, "param_groups": whole["param_groups"]})
