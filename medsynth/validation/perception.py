"""LPIPS, where its weights are local: nothing is downloaded for it.

Source: Zhang et al., arXiv 1801.03924, by torchmetrics. Its network is torchvision's AlexNet.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch

WEIGHTS = "alexnet-owt-7be5be79.pth"
DESCRIBED = ("distance", "lower is better", "LPIPS with AlexNet (photographs, not medical images)")


def missing() -> str:
    """Return why LPIPS can't be measured here, "" where it can."""
    if importlib.util.find_spec("torchvision") is None:
        return "LPIPS: torchvision, whose AlexNet it looks through, is not installed."
    if not (Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS).is_file():
        return f"LPIPS: its weights {WEIGHTS} are not in torch's folder of checkpoints."
    return ""


def lpips(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return (N,) distances of images (N, C, H, W) in [-1, 1]; 0 = the same."""
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity

    values = []
    for pair in zip(before, after, strict=True):
        a, b = (_rgb(image) for image in pair)
        distance = learned_perceptual_image_patch_similarity(a, b, net_type="alex")
        values.append(float(distance))
    return np.array(values)


def _rgb(image: np.ndarray) -> torch.Tensor:
    """Return (1, 3, H, W) of an image (C, H, W), a grey one three times over."""
    return torch.from_numpy(np.asarray(image, np.float32)).expand(3, *image.shape[1:])[None]
