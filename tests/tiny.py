"""A study so small that a test can run it: seconds, not minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from medsynth import protocol
from medsynth.data import phantoms

TEXT = """
name: tiny
domain: chest_xray
seed: 3
image: {size_px: 32}
data: {label_columns: [finding], max_bad_share: 0.2, duplicate_correlation: 1.0}
split: {validation: 0.1, holdout: 0.4}
lens:
  width: 8
  features: 16
  training: {images: 256, batch: 32, learning_rate: 1e-3}
autoencoder:
  fold_px: 4
  principal_start: true
  widths: [16]
  latent_channels: 4
  training: {images: 128, batch: 8, learning_rate: 1e-3}
diffusion:
  widths: [16, 32]
  attention: [false, true]
  layers: 1
  groups: 8
  ema: 0.9
  training: {images: 256, batch: 16, learning_rate: 1e-3}
sample: {images: 24, steps: 4, batch: 10}
validate: {permutations: 199, bootstrap: 50, candidates: 5, planted: 10}
gate:
  rules:
    - {finding: memorization.p_value, not_rejected_at: 0.05}
"""

PRIVATE = {
    "sample.labels": {"finding": {"normal": 2, "effusion": 1}},
    "autoencoder.source": "phantoms",
    "diffusion.training.images": 48,
    "diffusion.training.batch": 8,
    "diffusion.private": {
        "epsilon": 20.0, "delta": 1e-3, "noise_levels": 2, "accountant": "rdp",
    },
    "gate.rules": [
        {"finding": "memorization.p_value", "at_least": 0.0},
        {"finding": "privacy.epsilon", "at_most": 20.0},
    ],
}  # fmt: skip
"""What makes it a study under a privacy budget: study(**PRIVATE)."""


def study(**changes) -> protocol.Protocol:
    """Return the tiny protocol, changed: study(**{"sample.steps": 2})."""
    return protocol.parse(TEXT, source="tiny.yaml", changes=changes)


def write_raw(folder: Path, *, patients: int = 40, bad_files: int = 1) -> Path:
    """Write phantom chests as a hospital would hand them over."""
    phantoms.write_folder(
        folder, domain="chest_xray", patients=patients, seed=1, size_px=32, bad_files=bad_files
    )
    return folder


def torchrun(*arguments: str, timeout: int = 280) -> subprocess.CompletedProcess:
    """Start two processes on the CPU, as a cluster starts one on each GPU."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MEDSYNTH_DEVICE": "cpu"}
    return subprocess.run(
        [sys.executable, *launch, *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
