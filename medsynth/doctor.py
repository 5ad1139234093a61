"""What this machine has, before a night of training is spent on it.

`examine` says it in words, `faults` what would stop a run. Nothing is opened to the network, and of
the folder that is named only an empty file is made, and taken away.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from .runtime import choose_device, versions

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")
LEAST_FREE_GIB = 2
LAST_RELEASED = 1_767_225_600  # 1 January 2026: no clock is right that says less
MOST_APART_S = 5  # between the clocks of the processor and of the disk


def examine(folder: Path) -> dict[str, str]:
    """Return what was found, a line of words for each thing; `folder` is where a run is to lie."""
    return {
        **_processor(),
        **_gpu(),
        **_disk(folder),
        **_formats(),
        **_codecs(),
        "clock": _clock(folder),
        "new files": f"umask {_umask():03o}; a run's own are for their owner only, whatever it is",
        "weights": "none are needed or fetched; a protocol may name files, see --plan",
        "network": f"never used; {_switches()}",
        **versions(),
    }


def faults(folder: Path) -> list[str]:
    """Return in sentences what would stop a run in this folder, or spoil it."""
    place = _existing(folder)
    return [words for words in (*_disk_faults(folder, place), *_clock_faults(place)) if words]


# What there is ----------------------------------------------------------------------------------


def _processor() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": f"{platform.machine()}, {os.cpu_count()} cores, {usable} of them for this job",
        "threads": f"{_threads()} a process",
        "memory": f"{_memory_gib():.0f} GiB{_memory_limit()}",
    }


def _threads() -> str:
    import torch

    said = os.environ.get("OMP_NUM_THREADS")
    return f"{torch.get_num_threads()} ({f'OMP_NUM_THREADS={said}' if said else 'not limited'})"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _memory_limit() -> str:
    """Say what a container or a batch system leaves of the memory, where it says so."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = Path("/sys/fs/cgroup") / name
        text = path.read_text().strip() if path.exists() else ""
        if text.isdigit() and int(text) < 2**50:
            return f", of which this job may use {int(text) / 2**30:.0f}"
    return ""


def _gpu() -> dict[str, str]:
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    named = [f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in found]
    return {
        "gpu": "; ".join(named) or "none: small images train on the processor",
        "trains on": choose_device(),
    }


def _disk(folder: Path) -> dict[str, str]:
    place = _existing(folder)
    free = shutil.disk_usage(place).free / 2**30
    temporary = Path(tempfile.gettempdir())
    return {
        "free disk": f"{free:.0f} GiB for {folder.name or folder}",
        "run folder": _can_write(place) or f"can be written to, {_locks(place)}{_seen_by(folder)}",
        "temporary": f"{shutil.disk_usage(temporary).free / 2**30:.0f} GiB free",
    }


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


def _clock(folder: Path) -> str:
    now = time.strftime("%Y-%m-%d %H:%M %z")
    return f"{now}, {_apart(_existing(folder)):.0f} s from the disk's"


def _switches() -> str:
    on = [name for name in SWITCHES if os.environ.get(name, "0").lower() not in ("0", "", "false")]
    return f"libraries are told so by {', '.join(on)}" if on else "no library is told so (no need)"


# What would stop a run --------------------------------------------------------------------------


def _disk_faults(folder: Path, place: Path) -> Iterable[str]:
    yield _can_write(place)
    free = shutil.disk_usage(place).free / 2**30
    if free < LEAST_FREE_GIB:
        yield f"only {free:.1f} GiB are free for {folder.name or folder}: a run takes some GiB"


def _clock_faults(place: Path) -> Iterable[str]:
    if time.time() < LAST_RELEASED:
        yield f"the clock says {time.strftime('%Y-%m-%d')}, before this version was made: set it"
    if not _can_write(place) and abs(_apart(place)) > MOST_APART_S:
        yield "the clocks of this machine and of the disk differ: files changed may seem unchanged"


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that is there."""
    whole = folder.resolve()
    return next(path for path in (whole, *whole.parents) if path.is_dir())


def _can_write(place: Path) -> str:
    """Return "" if a file can be made in a folder, else what is wrong."""
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place.name or place} can't be written to: {error.strerror}"


def _locks(place: Path) -> str:
    """Say whether two runs in one folder, of two machines, would notice each other."""
    with tempfile.TemporaryFile(dir=place) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "knows no locks: see to it yourself that no two machines work in one folder"
    return "knows locks"


def _seen_by(folder: Path) -> str:
    loose = folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) & 0o077
    return "; others may see the names in it (chmod 700)" if loose else ""


def _apart(place: Path) -> float:
    """Return by how many seconds the disk's clock is ahead of this machine's; 0 if unknown."""
    if _can_write(place):
        return 0.0
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(b"1")
        file.flush()
        return os.fstat(file.fileno()).st_mtime - time.time()


def _umask() -> int:
    before = os.umask(0o077)
    os.umask(before)
    return before
