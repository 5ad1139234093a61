"""Batches: sent to where they are needed, and cut into parts that fit there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def send(array: np.ndarray, device: str) -> torch.Tensor:
    """Return an array as a tensor on a device, without waiting until a GPU has it."""
    tensor = torch.from_numpy(array)
    return tensor if device == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def parts(batch: Any, size: int | None) -> list[tuple[Any, float]]:
    """Cut a batch, a tensor or a tuple of tensors, into parts of at most `size` rows; None leaves
    it whole. Returns each with its share of the batch."""
    if size is None:
        return [(batch, 1.0)]
    columns = (batch,) if isinstance(batch, torch.Tensor) else batch
    cut = list(zip(*(column.split(size) for column in columns), strict=True))
    rows = len(columns[0])
    return [(part[0] if columns[0] is batch else part, len(part[0]) / rows) for part in cut]
