"""What this machine has, before a night of training is spent on it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from .runtime import choose_device, versions

CODECS = {
    "JPEG baseline": "1.2.840.10008.1.2.4.50",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
    "RLE": "1.2.840.10008.1.2.5",
}


def examine() -> dict[str, str]:
    """Return what was found, a line of words for each thing."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return {
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{_memory_gib():.0f} GiB",
        "gpu": ", ".join(gpus) or "none: small images train on the processor",
        "trains on": choose_device(),
        "free disk": f"{free:.0f} GiB here",
        "DICOM codecs": _codecs(),
        "network": "never used",
        **versions(),
    }


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _codecs() -> str:
    from pydicom.pixels import get_decoder

    missing = [name for name, uid in CODECS.items() if not get_decoder(uid).is_available]
    if not missing:
        return "all"
    return f"missing: {', '.join(missing)}; pip install medsynth[dicom] brings them"
