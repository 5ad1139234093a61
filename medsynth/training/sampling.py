"""The random numbers of a private training: who takes part in a step, and all the others.

They come from a secret that is drawn for one training, lies in its workspace and goes with it.
From the protocol's seed, which is published, anybody could draw the noise again and take it off,
or know who took part, which the accounting supposes nobody knows.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

import numpy as np


class Secret:
    """Random numbers that only the holder of 32 secret bytes can draw again."""

    def __init__(self, key: bytes):
        self.key = key
        self.id = hashlib.sha256(b"medsynth training\x1f" + key).hexdigest()[:16]

    @classmethod
    def open(cls, folder: Path) -> Secret:
        """Read the secret in `folder`/noise.key, or draw one; only its owner may read it."""
        path = folder / "noise.key"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / "noise.key.tmp"
            temporary.unlink(missing_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
        return cls(bytes.fromhex(path.read_text()))

    def generator(self, purpose: str, step: int) -> np.random.Generator:
        """Return the generator of one purpose at one step: Philox under a key of 128 bits.

        torch's own on a CPU takes 32 bits of a seed, which can all be tried.
        """
        message = f"{purpose}\x1f{step}".encode()
        digest = hmac.new(self.key, message, hashlib.sha256).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


class Patients:
    """Which images belong to whom: `numbers` (N,) has each image's patient."""

    def __init__(self, numbers: np.ndarray):
        self.order = np.argsort(numbers, kind="stable")
        _, self.starts, self.counts = np.unique(
            numbers[self.order], return_index=True, return_counts=True
        )

    def __len__(self) -> int:
        return len(self.counts)

    def draw(self, rate: float, random: np.random.Generator) -> np.ndarray:
        """Take each patient with probability `rate`; return one image of each, (b,) int64."""
        taken = np.flatnonzero(random.random(len(self)) < rate)
        which = (random.random(len(taken)) * self.counts[taken]).astype(np.int64)
        return self.order[self.starts[taken] + which]
