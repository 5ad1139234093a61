"""Concepts of a finished run: learned from a folder of images into RUN/concepts/NAME, listed,
opened and removed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import protocol
from ..cohort import Cohort
from ..data.loader import Frames
from ..errors import DataError, ProtocolError, StageError, StaleError
from ..protocol import Protocol, set_knobs
from ..runtime import (
    choose_device,
    derive_seed,
    read_json,
    read_stage,
    require_stage,
    run_stage,
    wait_for_everyone,
    write_json,
    writes,
)
from ..vocabulary import Vocabulary
from .run import Progress, Run, open_autoencoder, silent

if TYPE_CHECKING:
    from ..models.concept import Taught
    from ..training.inversion import Examples

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")
FIRST = "concept"  # the attribute of a concept where the vocabulary has none
READING = ("domain", "image", "data", "slides", "deidentify", "seed")


def with_changes(study: Protocol, section: str, changes: Mapping[str, Any]) -> Protocol:
    """Return a study with one optional section filled in and changed.

    Raises ProtocolError on knobs of other sections.
    """
    others = [name for name in changes if not name.startswith(f"{section}.")]
    if others:
        raise ProtocolError("--set", [f"{name}: only {section}.* here" for name in others])
    return protocol.parse(protocol.to_yaml(study), source=section, changes=changes)


def learn_concept(
    run: Run, images: Path, name: str, *, start: str | None = None, progress: Progress = silent
) -> dict[str, Any]:
    """Learn a concept from a folder of images, into RUN/concepts/NAME; again = go on. Returns what
    the concept says of itself.

    `start` is the known token to begin with, "attribute=value", or an attribute whose nearest value
    is taken; None takes the nearest of all. Raises DataError where the name or start can't be
    taken, StageError beside a privacy budget.
    """
    from ..data.original import look_over

    settings = run.protocol.concept or protocol.Concept()
    vocabulary = vocabulary_of(run)
    _check(run, images, name, start, vocabulary)
    (run.folder / "concepts").mkdir(exist_ok=True)
    run_stage(
        folder_of(run, name),
        lambda folder: _learn(run, images, folder, name, start, settings, progress),
        inputs={**networks_of(run), "images": look_over(images)},
        settings={
            "name": name,
            "start": start,
            "concept": set_knobs(settings.model_dump(mode="json")),
            **{part: set_knobs(run.protocol.section(part)) for part in READING},
        },
        all_ranks=True,
    )
    return require_concept(run, name)


def networks_of(run: Run) -> dict[str, str]:
    """Return the digests of the networks that a concept is learned with."""
    fresh = run.inputs("synthetic")
    return {part: fresh[part] for part in ("autoencoder", "diffusion")}


def folder_of(run: Run, name: str) -> Path:
    """Return where a concept of a name lies. Raises DataError on what is no name."""
    if not NAME.fullmatch(name):
        raise DataError(
            f"a concept's name is at most 50 of a-z, 0-9, - and _, the first a letter or digit; "
            f"got {name!r}"
        )
    return run.folder / "concepts" / name


def vocabulary_of(run: Run) -> Vocabulary:
    """Return the vocabulary of the run's denoiser."""
    require_stage(run.folder / "diffusion", by="concept")
    return Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")


def _check(run: Run, images: Path, name: str, start: str | None, vocabulary: Vocabulary) -> None:
    if run.protocol.diffusion.private is not None:
        raise StageError(
            "this run's denoiser has a privacy budget, and a concept would learn from patients "
            "outside of it: epsilon would hold for nothing that is drawn with it. Learn concepts "
            "in a run without diffusion.private"
        )
    if not images.is_dir():
        raise DataError(f"expected a folder of images, {images.name} is none")
    folder_of(run, name)
    for attribute, _ in _candidates(vocabulary, start).values():
        vocabulary.taught(attribute, name)


def _candidates(vocabulary: Vocabulary, start: str | None) -> dict[int, tuple[str, str]]:
    """Return {token: (attribute, value)} of the tokens that a concept may start from; token 0 where
    there is no other."""
    numbered = dict(enumerate(vocabulary.tokens, start=1)) or {0: (FIRST, "")}
    if start is None:
        return numbered
    attribute, _, value = start.partition("=")
    found = {n: (a, v) for n, (a, v) in numbered.items() if a == attribute and value in ("", v)}
    if not found:
        known = ", ".join(f"{a}={v}" for a, v in vocabulary.tokens) or "nothing"
        raise DataError(f"--start {start}: the vocabulary has {known}")
    return found


# Learning ----------------------------------------------------------------------------------------


def _learn(run, images: Path, folder: Path, name: str, start, settings, progress) -> None:
    from ..models.prompted import open_denoiser
    from ..training import inversion

    device, vocabulary = choose_device(), vocabulary_of(run)
    denoiser = open_denoiser(run.folder / "diffusion").to(device)
    autoencoder = open_autoencoder(run, device)
    cohort = _read(run, images, folder, progress)
    candidates = _candidates(vocabulary, start)
    losses = {}
    for attribute in dict.fromkeys(a for a, _ in candidates.values()):
        examples = _examples(run, folder, cohort, vocabulary.taught(attribute, name), attribute,
                             autoencoder)  # fmt: skip
        losses |= inversion.token_losses(
            denoiser, examples, run.protocol.diffusion, token=vocabulary.size, device=device,
            candidates=[n for n, (a, _) in candidates.items() if a == attribute],
        )  # fmt: skip
    nearest = min(losses, key=losses.get)
    attribute, value = candidates[nearest]
    examples = _examples(run, folder, cohort, vocabulary.taught(attribute, name), attribute,
                         autoencoder)  # fmt: skip
    _, told = inversion.learn(
        denoiser,
        autoencoder,
        examples,
        settings,
        run.protocol.diffusion,
        start=nearest,
        seed=derive_seed(run.protocol.seed, name),
        folder=folder,
        device=device,
        progress=progress,
    )
    if writes():
        write_json(folder / "concept.json", {
            "name": name, "attribute": attribute, "start": value, "vectors": settings.vectors,
            "guidance": settings.guidance, "images": len(cohort),
            "patients": int(cohort.patients.max()) + 1, "loss": told,
            "known": {f"{a}={v}": losses[n] for n, (a, v) in candidates.items()},
        })  # fmt: skip


def _read(run: Run, images: Path, folder: Path, progress: Progress) -> Cohort:
    """Read the images as the run's own were read; they are kept only while the concept learns."""
    from ..data import deidentify, intake
    from ..data.plain import list_plain

    place = folder / "latents" / "images"
    if writes() and not (place / "cohort.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        study = run.protocol.model_copy(update={"data": _data(run, images)})
        intake.ingest(
            images,
            place,
            study,
            deidentify.read_or_make_secret(run.folder / "site.key"),
            progress=lambda done, total: progress("images", done / max(1, total)),
            listing=list_plain(images, study.data),
        )
    wait_for_everyone()
    return Cohort.read(place)


def _data(run: Run, images: Path) -> protocol.Data:
    """Return how the folder is read: as the run's, less what its table does not have."""
    from ..data.layouts.folder import Folder

    data, folder = run.protocol.data, Folder.open(images)
    header = {name for table in folder.named(data.tables) for name in folder.header(table)}
    return data.model_copy(
        update={
            "layout": None,
            "max_bad_share": 0.5,
            "label_columns": tuple(name for name in data.label_columns if name in header),
            "keep": {name: values for name, values in data.keep.items() if name in header},
            "rename": {name: words for name, words in data.rename.items() if name in header},
        }
    )


def _examples(
    run: Run, folder: Path, cohort: Cohort, taught: Vocabulary, attribute: str, autoencoder
) -> Examples:
    """Return the images' latents and what is known of them, with the concept in its place."""
    import torch

    from ..models.denoiser import encode_conditions
    from ..training.augment import views_of
    from ..training.diffusion import encode_views
    from ..training.inversion import Examples

    frames, symmetry = Frames(cohort, np.arange(len(cohort))), run.domain.augmentations
    path = folder / "latents" / "images.npy"
    latents = encode_views(autoencoder, frames, symmetry, path, choose_device())
    name = taught.tokens[-1][1]
    views = [
        [run.domain.mirror(labels) if mirrored else labels for labels in frames.labels]
        for _, mirrored in views_of(symmetry)
    ]
    conditions = [
        encode_conditions(taught, [{**taught.known(row), attribute: name} for row in view])
        for view in views
    ]
    return Examples(latents, torch.stack(conditions))


# What there is -----------------------------------------------------------------------------------


def list_concepts(run: Run) -> list[dict[str, Any]]:
    """Return what each finished concept says of itself, and whether it is `stale`: learned with
    other networks than the run has now."""
    found = []
    for path in sorted((run.folder / "concepts").glob("*/stage.json")):
        base = {part: read_stage(run.folder / part) for part in ("autoencoder", "diffusion")}
        inputs = read_stage(path.parent).inputs
        stale = any(now is None or inputs[part] != now.digest for part, now in base.items())
        found.append({**read_json(path.parent / "concept.json"), "stale": stale})
    return found


def tell_concept(said: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what a concept is, from `list_concepts` or `learn_concept`."""
    loss, nearest = said["loss"], min(said["known"].values())
    started = f", started from {said['start']}" if said["start"] else ""
    lines = [
        f"{said['name']}: a value of {said['attribute']}{started}; {said['vectors']} vectors "
        f"from {said['images']} images of {said['patients']} patients; loss on them "
        f"{loss['after']:.4f}, under the nearest known token {nearest:.4f}."
    ]
    if not loss["after"] < nearest:
        lines.append("  It says no more than a known token does: more steps, images or vectors?")
    if said.get("stale"):
        lines.append("  It is stale: learned with other networks than the run has now.")
    return lines


def remove_concept(run: Run, name: str) -> None:
    """Delete a concept, finished or not. Raises StageError where there is none."""
    folder = folder_of(run, name)
    places = [path for path in (folder, folder.with_name(f"{name}.tmp")) if path.is_dir()]
    if not places:
        raise StageError(f"this run has no concept {name}{_known(run)}")
    for path in places:
        shutil.rmtree(path)


def _known(run: Run) -> str:
    names = [row["name"] for row in list_concepts(run)]
    return f"; it has: {', '.join(names)}" if names else " and no other"


def open_concept(run: Run, name: str, device: str) -> tuple[Taught, Vocabulary, dict[str, Any]]:
    """Return the denoiser that knows a concept, the vocabulary with its name, and what it says.

    Raises StageError where there is none, StaleError where it was learned with other networks.
    """
    from ..models.concept import Concept, Taught
    from ..models.prompted import open_denoiser

    said = require_concept(run, name)
    denoiser = open_denoiser(run.folder / "diffusion")
    concept = Concept.load(folder_of(run, name), denoiser)
    vocabulary = vocabulary_of(run).taught(said["attribute"], name)
    return Taught(denoiser, concept).to(device).eval(), vocabulary, said


def require_concept(run: Run, name: str) -> dict[str, Any]:
    """Return what a concept says of itself; raises as `open_concept` does."""
    record = read_stage(folder_of(run, name))
    if record is None:
        raise StageError(f"this run has no concept {name}{_known(run)}")
    if any(record.inputs[part] != digest for part, digest in networks_of(run).items()):
        raise StaleError(
            f"the concept {name} was learned with other networks than the run has now: learn it "
            f"again"
        )
    return read_json(folder_of(run, name) / "concept.json")
