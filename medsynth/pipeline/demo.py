"""The whole way on phantoms, for whoever has no data at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

from .. import protocol
from ..finding import Verdict
from ..runtime import digest_bytes, read_json, write_json, write_text
from .run import Progress, Run, silent, start
from .whole import run_all

PATIENTS, SIZE_PX = 400, 64


def demo(
    folder: Path, *, memorize: bool = False, progress: Progress = silent
) -> tuple[Run, Verdict]:
    """Draw phantom patients into `folder`/raw and do all stages with the demo's protocol.

    `memorize` puts a generator in place of the trained one that copies training images: the gate
    must refuse it.
    """
    changes = {"sample.generator": "memorize"} if memorize else {}
    study = protocol.load(protocol.shipped("demo"), changes=changes)
    folder.mkdir(parents=True, exist_ok=True)
    _hand_over(folder / "raw", study)
    # Phantoms are nobody: a key that everybody knows makes one demo comparable with another.
    key = folder / "site.key"
    if not key.exists():
        write_text(key, digest_bytes(b"the phantoms' key, which is no secret") + "\n")
        key.chmod(0o600)
    run = start(study, folder)
    return run, run_all(run, folder / "raw", progress)


def _hand_over(raw: Path, study: protocol.Protocol) -> None:
    """Write the phantoms as a hospital would hand its images over: whole or not at all."""
    from ..data import phantoms

    wanted = {"domain": study.domain, "patients": PATIENTS, "size_px": SIZE_PX, "seed": study.seed}
    done = raw / ".phantoms.json"
    if done.exists() and read_json(done) == wanted:
        return
    shutil.rmtree(raw, ignore_errors=True)
    phantoms.write_folder(
        raw, domain=study.domain, patients=PATIENTS, seed=study.seed, size_px=SIZE_PX, bad_files=3
    )
    write_json(done, wanted)
