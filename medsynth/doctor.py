"""What this machine has, before a night of training is spent on it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from .runtime import choose_device, versions


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
        **_formats(),
        **_codecs(),
        "network": "never used",
        **versions(),
    }


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _formats() -> dict[str, str]:
    """Say which file formats and tables can be read, and what the others need."""
    from .data.formats import readable

    found = readable()
    said = {name: words for name, words in found.items() if words != "read"}
    return {"reads": ", ".join(name for name in found if name not in said), **said}


def _codecs() -> dict[str, str]:
    """Say of every DICOM transfer syntax what unpacks it, and first whether all are there."""
    from .data.dicom_codecs import EXTRA, find_codecs

    found = find_codecs()
    missing = sum(EXTRA in plugin for plugin in found.values())
    summary = f"{missing} missing: {EXTRA} brings them" if missing else "all that an extra brings"
    return {"DICOM codecs": summary, **{f"DICOM {name}": found[name] for name in found}}
