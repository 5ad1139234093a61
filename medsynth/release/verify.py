"""Check a release anywhere: nothing changed, every image marked, the verdict still stands.

Needs neither torch nor the run. It finds accidents and careless changes. Who rewrites a release
and all its checksums is found out by the `fingerprint`, held against the one that the hospital
publishes.
"""

from __future__ import annotations

import csv
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..budget import Ledger
from ..errors import DataError, MedsynthError
from ..finding import Finding, Verdict, read_findings, read_verdict
from ..protocol import Protocol, digest_as_written, load
from ..runtime import digest_file, read_json
from . import ledger, masks, recognition, signature, weights
from .export import FORMAT, IMAGES, METADATA, OWN_FILES
from .gate import contradictions, digest_findings
from .pictures import is_marked, png_size

UNREADABLE = (
    MedsynthError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    struct.error,
)
PUBLIC = '<meta name="medsynth-report" content="public">'
Judged = tuple[Verdict, Mapping[str, Finding], Protocol]
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Verification:
    """What checking found: `faults` in words (none = ok), how many images, the verdict if readable.

    `fingerprint` is the sha256 of SHA256SUMS, "" where there is none: two releases with the same
    fingerprint are the same. `signer` is the fingerprint of the key that signed it, "" where nobody
    did; who holds that key only a public key from elsewhere can say.
    """

    ok: bool
    faults: tuple[str, ...]
    images: int
    verdict: Verdict | None
    fingerprint: str = ""
    signer: str = ""


def verify(folder: Path, *, key: Path | None = None) -> Verification:
    """Check a release's files, marks, labels and verdict; never writes, never raises.

    `key` is a file with the public key that must have signed it; None takes it unsigned, too.
    """
    faults: list[str] = []
    listed = _try(faults, "SHA256SUMS", partial(_read_sums, folder)) or {}
    manifest = _try(faults, "manifest.json", partial(_read_manifest, folder)) or {}
    verdict = _try(faults, "verdict.json", partial(read_verdict, folder / "verdict.json"))
    findings = _try(faults, "findings.jsonl", partial(read_findings, folder / "findings.jsonl"))
    protocol = _try(faults, "protocol.yaml", partial(load, folder / "protocol.yaml"))
    judged = None if None in (verdict, findings, protocol) else (verdict, findings, protocol)
    checks: dict[str, Callable[[], Iterable[str]]] = {
        "files": partial(_check_files, folder, listed),
        "manifest.json": partial(_check_manifest, listed, manifest),
        "images": partial(_check_images, folder, manifest),
        METADATA: partial(_check_metadata, folder, manifest),
        "report.html": partial(_check_report, folder),
        "dicom": partial(_check_dicom, folder),
        "verdict.json": partial(_check_verdict, folder, manifest, judged),
        ledger.NAME: partial(_check_ledger, folder, judged),
        weights.NAME: partial(_check_weights, folder, judged),
        recognition.NAME: partial(recognition.faults, folder, manifest.get("images", {})),
        signature.NAME: partial(signature.faults, folder, key),
    }
    for place, check in checks.items():
        faults += _try(faults, place, lambda check=check: list(check())) or []
    sums = folder / "SHA256SUMS"
    return Verification(
        ok=not faults,
        faults=tuple(dict.fromkeys(faults)),
        images=len(manifest.get("images", {})),
        verdict=verdict,
        fingerprint=digest_file(sums) if sums.is_file() else "",
        signer=_try(faults, signature.NAME, partial(signature.signer, folder)) or "",
    )


def _try(faults: list[str], place: str, step: Callable[[], Any]) -> Any:
    """Return what a step returns; where it can't be done, None and one more fault."""
    try:
        return step()
    except FileNotFoundError:
        faults.append(f"{place}: is missing")
    except DataError as error:
        faults.append(f"{place}: {error}")
    except UNREADABLE as error:
        faults.append(f"{place}: can't be read ({type(error).__name__})")
    return None


def _read_sums(folder: Path) -> dict[str, str]:
    listed = {}
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = LINE.fullmatch(line).groups()
        if name in listed or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(name)
        listed[name] = digest
    return listed


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / "manifest.json")
    if manifest["format"] != FORMAT:
        raise ValueError(manifest["format"])
    return {**manifest, "images": dict(manifest["images"])}


# Files ------------------------------------------------------------------------------------------


def _check_files(folder: Path, listed: dict[str, str]) -> Iterable[str]:
    present = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir()
    }
    written = "".join(f"{digest}  {name}\n" for name, digest in listed.items())
    if listed and (folder / "SHA256SUMS").read_bytes() != written.encode():
        yield "SHA256SUMS: was changed: it is not as it was written"
    folders = {parent.as_posix() for name in listed for parent in PurePosixPath(name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink() and name not in folders:
            yield f"{name}/: was added"
    for name in OWN_FILES:
        if name not in present:
            yield f"{name}: is missing"
    for name in sorted(listed.keys() - present.keys()):
        yield f"{name}: is missing"
    for name, path in present.items():
        if path.is_symlink():
            yield f"{name}: is a link, not a file"
        elif name in listed:
            if digest_file(path) != listed[name]:
                yield f"{name}: was changed"
        elif name not in ("SHA256SUMS", signature.NAME):
            yield f"{name}: was added"


def _check_manifest(listed: dict[str, str], manifest: dict[str, Any]) -> Iterable[str]:
    if not manifest:
        return
    said = {
        "findings.jsonl": manifest["findings"],
        "verdict.json": manifest["verdict"],
        **manifest["images"],
        **manifest.get("masks", {}),
    }
    for name, digest in said.items():
        if listed.get(name) != digest:
            yield f"{name}: manifest.json and SHA256SUMS do not agree on it"
    folders, tables = (f"{IMAGES}/", f"{masks.FOLDER}/"), (METADATA, masks.CLASSES)
    pictures = {name for name in listed if name.startswith(folders) and name not in tables}
    for name in sorted(pictures - said.keys()):
        yield f"{name}: is not in manifest.json"


# Images and labels ------------------------------------------------------------------------------


def _check_images(folder: Path, manifest: dict[str, Any]) -> Iterable[str]:
    if not manifest.get("images"):
        yield f"{IMAGES}: the release has no image"
        return
    side, masked = manifest["image"]["size_px"], manifest.get("masks", {})
    names = [{PurePosixPath(name).name for name in part} for part in (manifest["images"], masked)]
    if masked and names[0] != names[1]:
        yield f"{masks.FOLDER}: there is not one mask for each image"
    for name in (*manifest["images"], *masked):
        path = folder / name
        if not path.is_file():
            continue  # already said by the check of files
        if not is_marked(path):
            yield f"{name}: does not say that it is synthetic"
        elif _size(path) != (side, side):
            yield f"{name}: is not {side} x {side} pixels"


def _size(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        return png_size(file.read(24))


def _check_metadata(folder: Path, manifest: dict[str, Any]) -> Iterable[str]:
    with (folder / METADATA).open(newline="") as file:
        rows = list(csv.DictReader(file))
    named = [f"{IMAGES}/{row['file_name']}" for row in rows]
    if sorted(named) != sorted(manifest.get("images", {})):
        yield f"{METADATA}: its {len(rows)} rows are not the images of manifest.json"
    pointed = [row[masks.COLUMN] for row in rows] if manifest.get("masks") else []
    if sorted(pointed) != sorted(f"../{name}" for name in manifest.get("masks", {})):
        yield f"{METADATA}: its {len(pointed)} masks are not those of manifest.json"
    if len({row["id"] for row in rows}) != len(rows):
        yield f"{METADATA}: an id comes twice"


def _check_report(folder: Path) -> Iterable[str]:
    if PUBLIC not in (folder / "report.html").read_text():
        yield "report.html: is not the public one; the one for inside the hospital shows patients"


def _check_dicom(folder: Path) -> Iterable[str]:
    from .dicom import check

    for path in sorted((folder / "dicom").glob("*.dcm")):
        try:
            found = list(check(path))
        except Exception as error:  # a damaged file ends in any error at all
            found = [f"can't be read ({type(error).__name__})"]
        yield from (f"dicom/{path.name}: {fault}" for fault in found)


# The verdict ------------------------------------------------------------------------------------


def _check_verdict(folder: Path, manifest: dict[str, Any], judged: Judged | None) -> Iterable[str]:
    if judged is None:
        return
    verdict, findings, protocol = judged
    if not verdict.passed:
        yield f"verdict.json: the gate did not pass this cohort: {verdict.outcome}"
    for fault in contradictions(verdict, findings, protocol.gate.rules):
        yield f"verdict.json: {fault}"
    bound = {
        "evidence": digest_findings(findings),
        "synthetic": manifest.get("cohort"),
        "protocol": manifest.get("protocol"),
    }
    for key, digest in bound.items():
        if verdict.digests.get(key) != digest:
            yield f"verdict.json: was given for another {key}"
    said = manifest.get("protocol")
    same = said == protocol.digest or said == digest_as_written(folder / "protocol.yaml")
    if not manifest.get("protocol_redacted") and not same:
        yield "protocol.yaml: is not the protocol of manifest.json"


def _check_weights(folder: Path, judged: Judged | None) -> Iterable[str]:
    if judged is not None:
        yield from weights.faults(folder, judged[2], judged[0])


def _check_ledger(folder: Path, judged: Judged | None) -> Iterable[str]:
    """Hold a privacy budget's ledger, if there is one, against what is said of it."""
    path = folder / ledger.NAME
    if judged is None:
        return
    found = Ledger.read(path) if path.exists() else None
    _, findings, protocol = judged
    again = ledger.reckoned_again(found) if found is not None else ()
    for fault in (*ledger.faults(found, protocol, findings), *again):
        yield f"{ledger.NAME}: {fault}"
