"""What every stage stands on: seeds, digests, atomic files, stages that resume, the device.

A stage reads only what stands to its left, works in `NAME.tmp/` and renames it when all is there.
Killed at any moment it leaves either the old folder or the new one, and a `NAME.tmp/` from which
the same command goes on. `stage.json` binds what came out to what went in.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__
from .errors import StageError, StaleError

RECORDED = ("torch", "monai", "diffusers", "transformers", "accelerate", "opacus",
            "numpy", "pydicom")  # fmt: skip
# Files of how long things took, or of how it went, are no part of a stage's digest.
VOLATILE = ("log.jsonl", "stage.json", "key.json", "files.jsonl", "previews")
# What serves only to resume goes when the stage is done.
SCRATCH_FOLDERS = ("state", "latents", "blocks", "secret", "checkpoints", "averages", "best")
KEPT_FOLDERS = ("read",)  # what says itself for which inputs it is good outlives a change
PATIENCE = timedelta(days=30)  # of processes that wait for one another


# Seeds ------------------------------------------------------------------------------------------


def derive_seed(*parts: int | str) -> int:
    """Derive an independent 63-bit seed from a path of names and numbers.

    The same parts always give the same seed, different parts unrelated ones, so that a random
    number depends on what it is for and never on what was drawn before.
    """
    text = "\x1f".join(
        f"str:{part}" if isinstance(part, str) else f"int:{int(part)}" for part in parts
    )
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


# Digests ----------------------------------------------------------------------------------------


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of bytes as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> str:
    """Write a value as JSON in the one form that digests are taken of: sorted, compact, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest_json(value: Any) -> str:
    """Return the sha256 of a value's canonical JSON."""
    return digest_bytes(canonical_json(value).encode())


def digest_files(folder: Path, *, skip: Iterable[str] = ()) -> dict[str, str]:
    """Return {path relative to folder: sha256} of all files under it, sorted.

    `skip` names files and folders right under it that are left out.
    """
    skipped = set(skip)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: digest_file(path) for name, path in names.items() if name.split("/")[0] not in skipped
    }


# Files that are whole or absent -----------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old one or the new one, never half."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never half."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # where the disk was full: half a file is of no use


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, whole or not at all; NaN is written as null."""
    text = json.dumps(without_nan(value), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def append_jsonl(path: Path, row: Mapping[str, Any]) -> None:
    """Append one line of JSON to a log; NaN is written as null.

    A last line that a kill cut in two is ended first, so that it spoils no other.
    """
    line = json.dumps(without_nan(row), allow_nan=False) + "\n"
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        cut = size > 0 and file.read(1) != b"\n"
        file.write((b"\n" if cut else b"") + line.encode())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a log of JSON lines; an absent file is an empty log, a half last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the line that a kill cut in two
            continue
    return rows


def without_nan(value: Any) -> Any:
    """Replace NaN and infinities, which JSON has no word for, by None, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# Stages -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageRecord:
    """What `stage.json` says: `key` binds inputs and settings, `digest` binds what came out."""

    name: str
    key: str
    digest: str
    inputs: dict[str, str]
    settings: Any
    outputs: dict[str, str]
    versions: dict[str, str]
    seconds: float
    finished: str


def run_stage(
    folder: Path,
    build: Callable[[Path], None],
    *,
    inputs: Mapping[str, str],
    settings: Any,
    all_ranks: bool = False,
) -> StageRecord:
    """Build a folder by `build(workspace)`, or skip it where its inputs are still the same.

    `build` must leave the same files whether it ran through or was killed and started again; it
    finds in its workspace what the interrupted run left there, but only if inputs and settings
    are unchanged. A failed build leaves the finished folder of an earlier run untouched.
    Of several processes only the first builds, unless `all_ranks`; the others wait.
    """
    key = stage_key(inputs, settings)
    wait_for_everyone()
    existing = read_stage(folder)
    if existing is not None and existing.key == key:
        if writes():
            _clear_scratch(folder)
        return existing
    if writes():
        open_workspace(folder, key)
    wait_for_everyone()
    workspace, started = _workspace(folder), time.monotonic()
    if writes() or all_ranks:
        build(workspace)
    wait_for_everyone()
    if writes():
        record = _describe(folder.name, workspace, inputs, settings, time.monotonic() - started)
        write_json(workspace / "stage.json", asdict(record))
        _replace_folder(workspace, folder)
        # Only now: a kill while it is deleted must not leave half a state to go on from.
        _clear_scratch(folder)
    wait_for_everyone()
    return require_stage(folder, by=folder.name)


def stage_key(inputs: Mapping[str, str], settings: Any) -> str:
    """Return what binds a stage to what went in: it is stale where this differs from its record."""
    return digest_json({"inputs": dict(inputs), "settings": settings})


def _clear_scratch(folder: Path) -> None:
    for name in SCRATCH_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def _workspace(folder: Path) -> Path:
    return folder.with_name(folder.name + ".tmp")


def open_workspace(folder: Path, key: str) -> Path:
    """Return `folder.tmp`, emptied unless it belongs to the same inputs and settings (`key`)."""
    workspace = _workspace(folder)
    key_file = workspace / "key.json"
    if not (key_file.exists() and read_json(key_file) == key):
        key_file.unlink(missing_ok=True)  # first: what is left after a kill belongs to nothing
        _empty(workspace)
        write_json(key_file, key)
    return workspace


def _empty(workspace: Path) -> None:
    workspace.mkdir(parents=True, exist_ok=True)
    for path in workspace.iterdir():
        if not path.is_dir():
            path.unlink()
        elif path.name not in KEPT_FOLDERS:
            shutil.rmtree(path)


def _replace_folder(workspace: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    workspace.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _describe(
    name: str, workspace: Path, inputs: Mapping[str, str], settings: Any, seconds: float
) -> StageRecord:
    outputs = _results(workspace)
    return StageRecord(
        name=name,
        key=stage_key(inputs, settings),
        digest=digest_json(outputs),
        inputs=dict(inputs),
        settings=settings,
        outputs=outputs,
        versions=versions(),
        seconds=round(seconds, 2),
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def _results(folder: Path) -> dict[str, str]:
    return digest_files(folder, skip=(*VOLATILE, *SCRATCH_FOLDERS))


def read_stage(folder: Path) -> StageRecord | None:
    """Return what a finished stage says of itself, None where it was not finished."""
    path = folder / "stage.json"
    return StageRecord(**read_json(path)) if path.exists() else None


def require_stage(folder: Path, *, by: str) -> StageRecord:
    """Return a finished stage's record, or raise StageError naming the command that makes it."""
    record = read_stage(folder)
    if record is None:
        raise StageError(
            f"{by} needs the folder {folder.name}/, which is not finished in this run: "
            f"run the stage that makes it first (medsynth run does all stages in order)"
        )
    return record


def verify_stage(folder: Path) -> StageRecord:
    """Hash a finished stage again; raise StaleError where any result changed, left or was added."""
    record = require_stage(folder, by="verification")
    now = _results(folder)
    changed = sorted(
        name
        for name in now.keys() | record.outputs.keys()
        if now.get(name) != record.outputs.get(name)
    )
    if changed:
        raise StaleError(
            f"{folder.name}/ changed after it was made: {', '.join(changed[:5])}"
            f"{' …' if len(changed) > 5 else ''}. Delete the folder and run the stage again"
        )
    return record


# The machine ------------------------------------------------------------------------------------


def versions(packages: Iterable[str] = RECORDED) -> dict[str, str]:
    """Return the versions of Python, of medsynth and of those packages that are installed."""
    found = {"python": platform.python_version(), "medsynth": __version__}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def ranks() -> tuple[int, int]:
    """Return (this process's number, how many there are) as torchrun or accelerate set them."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def writes() -> bool:
    """True in the one process of a run that writes what all of them made."""
    return ranks()[0] == 0


def wait_for_everyone() -> None:
    """Wait until all processes of this run are here; nothing where there is one."""
    if ranks()[1] > 1:
        from accelerate import PartialState

        # The others wait as long as the first one reads images, or measures.
        PartialState(cpu=choose_device() == "cpu", timeout=PATIENCE).wait_for_everyone()


def choose_device() -> str:
    """Return "cuda" where a GPU can be used, else "cpu"; the variable MEDSYNTH_DEVICE wins."""
    import torch

    return os.environ.get("MEDSYNTH_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
