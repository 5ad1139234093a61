"""The one door out: images, labels, card, report and evidence, each bound by its sha256.

Whatever did not go through the gate just as it stands is refused. The same cohort, protocol and
verdict give the same files, byte for byte; no clock, user or machine is written into them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .. import __version__
from ..budget import Ledger
from ..cohort import Cohort
from ..errors import DataError, RefusedError
from ..finding import Finding, Verdict, write_findings
from ..protocol import Protocol, to_yaml
from ..runtime import digest_bytes, digest_file, digest_files, write_json, write_text
from . import formats, masks, recognition, signature, weights
from .cards import CARDS, CardData, card, count_labels, model_card, privacy_report
from .descriptions import croissant, ro_crate
from .formats import columns, own_columns
from .gate import contradictions, digest_findings
from .ledger import NAME, published
from .ledger import faults as ledger_faults
from .pictures import encode_png
from .report import PublicReport, public_report
from .weights import Weights

FORMAT = 1
OWN_FILES = (
    "README.md",
    "report.html",
    "findings.jsonl",
    "verdict.json",
    "protocol.yaml",
    "manifest.json",
    recognition.NAME,
    "SHA256SUMS",
)
IMAGES, METADATA = "images", "images/metadata.csv"
FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
CROISSANT, RO_CRATE = "croissant.json", "ro-crate-metadata.json"
MEDIA = {
    ".md": "text/markdown",
    ".html": "text/html",
    ".jsonl": "application/jsonl",
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".csv": "text/csv",
}


def write_release(
    folder: Path,
    *,
    cohort: Cohort,
    protocol: Protocol,
    findings: Mapping[str, Finding],
    verdict: Verdict,
    split: Mapping[str, Any],
    models: Mapping[str, str],
    also: Sequence[str] = (),
    ledger: Ledger | None = None,
    networks: Weights | None = None,
    mark: Callable[[bytes], bytes] | None = None,
) -> None:
    """Write a release into an empty folder.

    `models` are digests by name; `also` are formats beside those of the protocol; `ledger` is the
    privacy budget's, where there is one; `networks` are the weights, where they leave; `mark` puts
    signed credentials into a PNG's bytes, which are then others each time. Raises RefusedError,
    with every reason, where the gate did not pass just this cohort, these findings, this protocol
    and these models, where the ledger is not what is claimed, where weights leave unguarded, and
    where any record is not synthetic or points to a patient; DataError where the folder is not
    empty.
    """
    reasons = list(_reasons(cohort, protocol, findings, verdict, models))
    reasons += weights.reasons(protocol, verdict, networks)
    reasons += [f"{NAME}: {fault}" for fault in ledger_faults(ledger, protocol, findings)]
    if reasons:
        raise RefusedError("this can't be released", reasons)
    _require_empty(folder)
    images = _write_images(folder / IMAGES, cohort, mark)
    classes = masks.classes_of(cohort, protocol)
    drawn = masks.write_masks(folder, cohort, classes)
    write_text(folder / METADATA, _metadata(cohort, images))
    write_text(folder / recognition.NAME, recognition.hashes_csv(cohort))
    public, redacted = publishable(protocol)
    write_text(folder / "protocol.yaml", to_yaml(public))
    write_findings(folder / "findings.jsonl", findings.values())
    write_json(folder / "verdict.json", verdict.to_dict())
    if ledger is not None:
        published(ledger).write(folder / NAME)
    leave = networks is not None
    _write_pages(folder, cohort, public, findings, verdict, split, classes, weights=leave)
    made_by = {**models, "protocol": protocol.digest}
    contents = formats.Contents(cohort, folder / IMAGES, made_by, classes)
    formats.write(folder, (*protocol.card.formats, *also), contents)
    if networks is not None:
        weights.write(folder, networks, protocol=public, findings=findings, verdict=verdict)
    _describe(folder, cohort, protocol)
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "medsynth": __version__,
            "domain": cohort.domain,
            "image": {
                "size_px": cohort.size_px,
                "channels": cohort.channels,
                "bits": 8 * cohort.pixels.dtype.itemsize,
            },
            "protocol": protocol.digest,
            "protocol_redacted": redacted,
            "cohort": cohort.digest,
            "models": dict(sorted(models.items())),
            "findings": digest_file(folder / "findings.jsonl"),
            "verdict": digest_file(folder / "verdict.json"),
            "images": images,
            **({"masks": drawn, "classes": list(classes.values())} if drawn else {}),
        },
    )
    write_text(folder / "SHA256SUMS", sums(folder))


def sums(folder: Path) -> str:
    """Return a line "sha256  path" for every file of a release, as sha256sum reads and writes."""
    digests = digest_files(folder, skip=["SHA256SUMS", signature.NAME])
    return "".join(f"{digest}  {name}\n" for name, digest in digests.items())


def publishable(protocol: Protocol) -> tuple[Protocol, list[str]]:
    """Return the protocol without the hospital's paths, and the knobs that lost one.

    Of a path only the last part is kept. The card's own words are left as a person wrote them.
    """
    values = protocol.to_dict()
    redacted = [name for name, value in _strings(values) if _is_path(name, value)]
    for name in redacted:
        *parents, last = name.split(".")
        section = values
        for parent in parents:
            section = section[parent]
        section[last] = PureWindowsPath(section[last]).name  # knows both kinds of slash
    return Protocol.model_validate_json(json.dumps(values)), redacted


# What is refused --------------------------------------------------------------------------------


def _reasons(
    cohort: Cohort,
    protocol: Protocol,
    findings: Mapping[str, Finding],
    verdict: Verdict,
    models: Mapping[str, str],
) -> Iterable[str]:
    if not verdict.passed:
        yield f"the gate did not pass it: the verdict is {verdict.outcome}"
        yield from verdict.reasons
    else:
        yield from contradictions(verdict, findings, protocol.gate.rules)
    if not len(cohort):
        yield "no image remains"
    yield from _not_synthetic(cohort)
    yield from _not_nameable(cohort)
    yield from masks.faults(cohort, protocol)
    yield from _not_as_judged("synthetic", "cohort", cohort.digest, verdict)
    yield from _not_as_judged("evidence", "findings", digest_findings(findings), verdict)
    yield from _not_as_judged("protocol", "protocol", protocol.digest, verdict)
    for name in sorted(models.keys() & verdict.digests.keys()):
        yield from _not_as_judged(name, name, models[name], verdict)


def _not_synthetic(cohort: Cohort) -> Iterable[str]:
    canaries = sum(record.origin == "canary" for record in cohort.records)
    if canaries:
        yield f"{canaries} of {len(cohort)} records are canaries, which never leave"
    origins = sum(record.origin != "synthetic" for record in cohort.records)
    if origins:
        yield f"{origins} of {len(cohort)} records are not synthetic"
    for name in ("patient", "source", "parent"):
        pointing = sum(bool(getattr(record, name)) for record in cohort.records)
        if pointing:
            yield f"{pointing} of {len(cohort)} records point to a {name}"


def _not_nameable(cohort: Cohort) -> Iterable[str]:
    strange = sum(not FILE_NAME.fullmatch(record.id) for record in cohort.records)
    if strange:
        yield f"{strange} of {len(cohort)} ids can't be names of files"


def _not_as_judged(key: str, noun: str, digest: str, verdict: Verdict) -> Iterable[str]:
    if verdict.digests.get(key) != digest:
        yield f"{noun}: not the same as what was judged; run validate and decide again"


# What is written --------------------------------------------------------------------------------


def _require_empty(folder: Path) -> None:
    if strange := sorted(path.name for path in folder.iterdir()):
        raise DataError(f"a release needs an empty folder, {folder.name}/ has {strange[0]}")


def _write_images(
    folder: Path, cohort: Cohort, mark: Callable[[bytes], bytes] | None
) -> dict[str, str]:
    """Write each image as a PNG named by its id; return {path in the release: sha256} in order."""
    folder.mkdir()
    digests = {}
    for record, image in zip(cohort.records, cohort.pixels, strict=True):
        png = encode_png(image, synthetic=True)
        png = png if mark is None else mark(png)
        name = f"{record.id}.png"
        (folder / name).write_bytes(png)
        digests[f"{IMAGES}/{name}"] = digest_bytes(png)
    return digests


def _metadata(cohort: Cohort, images: Iterable[str]) -> str:
    """Return the table that goes beside the images; the seed stays with the model."""
    attributes = columns(cohort)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*own_columns(cohort), *attributes])
    for name, record in zip(images, cohort.records, strict=True):
        labels = [record.labels.get(attribute, "") for attribute in attributes.values()]
        mask = [] if cohort.masks is None else [f"../{masks.FOLDER}/{record.id}.png"]
        writer.writerow([PurePosixPath(name).name, record.id, *mask, *labels])
    return text.getvalue()


def _describe(folder: Path, cohort: Cohort, protocol: Protocol) -> None:
    """Write what machines read of the release: croissant.json and ro-crate-metadata.json."""
    described = croissant(
        protocol.card,
        name=protocol.name,
        columns=(*own_columns(cohort), *columns(cohort)),
        metadata_sha256=digest_file(folder / METADATA),
        masks=cohort.masks is not None,
    )
    write_json(folder / CROISSANT, described)
    parts = {f"{path.name}/": "" for path in sorted(folder.iterdir()) if path.is_dir()}
    own = [*OWN_FILES, *CARDS, CROISSANT, METADATA, *([NAME] if (folder / NAME).exists() else [])]
    files = {name: MEDIA.get(Path(name).suffix, "") for name in own}
    write_json(folder / RO_CRATE, ro_crate(protocol.card, name=protocol.name, files=files | parts))


def _write_pages(
    folder: Path,
    cohort: Cohort,
    protocol: Protocol,
    findings: Mapping[str, Finding],
    verdict: Verdict,
    split: Mapping[str, Any],
    classes: Mapping[int, str],
    *,
    weights: bool,
) -> None:
    labels = count_labels([record.labels for record in cohort.records])
    words = CardData(
        protocol=protocol,
        images=len(cohort),
        labels=labels,
        findings=findings,
        verdict=verdict,
        split=split,
        classes=classes,
        weights=weights,
    )
    write_text(folder / "README.md", card(words))
    write_text(folder / "PRIVACY.md", privacy_report(words))
    write_text(folder / "MODEL_CARD.md", model_card(words))
    page = PublicReport(
        protocol=protocol,
        verdict=verdict,
        findings=findings,
        split=split,
        images=folder / IMAGES,
        masks=folder / masks.FOLDER if classes else None,
    )
    write_text(folder / "report.html", public_report(page))


# Paths of the hospital --------------------------------------------------------------------------


def _strings(values: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _strings(value, f"{name}.{key}" if name else key)
    elif isinstance(values, str):
        yield name, values


def _is_path(name: str, value: str) -> bool:
    if name.startswith("card."):
        return False
    rooted = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    above = value.startswith(("~", "../", "..\\"))
    return rooted or above or (name == "lens.weights" and PureWindowsPath(value).name != value)
