"""A control of a finished run: fitted into RUN/control/NAME, then held against its floors in
RUN/obedience/NAME. Both show, or remember, patients: they stay inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import protocol
from ..data import controls
from ..data.control_files import split_kinds
from ..errors import DataError, ProtocolError
from ..finding import Finding, write_findings
from ..protocol import ControlKind, Protocol
from ..runtime import (
    choose_device,
    read_json,
    require_stage,
    write_json,
    writes,
)
from ..vocabulary import Vocabulary
from .learn import conditions_of_views, drawer
from .mapped import Masks, mapped, stack
from .obeyed import as_made, read_obedience
from .run import Progress, Run, open_autoencoder, silent

if TYPE_CHECKING:
    from ..models.control import Controlled

SAYS = "control.json"


def with_control(
    study: Protocol, kinds: tuple[ControlKind, ...], changes: dict[str, object]
) -> Protocol:
    """Return a study whose control section is filled in, with these kinds (those of the study
    where there are none) and changes. Raises ProtocolError on knobs of other sections."""
    others = [f"{key}: only control.* can be changed here" for key in changes
              if not key.startswith("control.")]  # fmt: skip
    if others:
        raise ProtocolError("--set", others)
    section = study.control or protocol.Control()
    if kinds:
        section = section.model_copy(update={"kinds": kinds})
    filled = protocol.to_yaml(study.model_copy(update={"control": section}))
    return protocol.parse(filled, source="control", changes=changes)


def fit_control(
    run: Run, name: str, *, masks: Masks | None = None, progress: Progress = silent
) -> list[Finding]:
    """Fit a control to the run's denoiser, and measure how well it is obeyed.

    `run.protocol` has a control section. Raises DataError where a kind needs masks that are not
    given, or the other way round.
    """
    if (controls.MASK in run.protocol.control.kinds) != (masks is not None):
        raise DataError(
            "the kind mask and a folder of masks come together: --kind mask --masks DIR"
        )
    stage, given = f"control/{name}", {"masks": masks.digest} if masks else {}
    (run.folder / "control").mkdir(exist_ok=True)
    (run.folder / "obedience").mkdir(exist_ok=True)
    fitted = run.build(
        stage,
        lambda folder: _fit(run, folder, masks, progress),
        inputs=run.inputs(stage) | given,
        all_ranks=True,
    )
    stage = f"obedience/{name}"
    run.build(
        stage,
        lambda folder: _measure(run, name, folder, masks, progress),
        inputs=run.inputs(stage) | given | {"control": fitted.digest},
        all_ranks=masks is not None,  # that train the network which finds masks again
    )
    return list(read_obedience(run, name).values())


# Fitting ------------------------------------------------------------------------------------------


def _fit(run: Run, folder: Path, masks: Masks | None, progress: Progress) -> None:
    from ..models.prompted import open_denoiser
    from ..training.control import Examples
    from ..training.control import fit_control as train_control
    from ..training.diffusion import encode_views

    device, symmetry = choose_device(), run.domain.augmentations
    autoencoder = open_autoencoder(run, device)
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")
    parts = mapped(run, masks, ("train", "validation"))
    if not len(parts["train"].frames):
        raise DataError("no training image has a mask")
    cache, examples = folder / "latents", {}
    cache.mkdir(parents=True, exist_ok=True)
    for part, seen in (("train", symmetry), ("validation", "identity")):
        frames = parts[part].frames
        path = cache / f"{part}.npy"
        examples[part] = Examples(
            encode_views(autoencoder, frames, seen, path, device),
            conditions_of_views(run, frames, vocabulary, seen),
            parts[part].maps,
        )
    train_control(
        examples["train"],
        examples["validation"],
        open_denoiser(run.folder / "diffusion"),
        autoencoder,
        run.protocol.control,
        run.protocol.diffusion,
        symmetry=symmetry,
        seed=run.protocol.seed,
        folder=folder,
        device=device,
        groups=parts["train"].frames.groups,
        progress=progress,
    )
    if writes():
        said = {"kinds": run.protocol.control.kinds, "values": parts["train"].values}
        write_json(folder / SAYS, said)


@dataclass(frozen=True, eq=False)
class Opened:
    """A fitted control, opened: the run it was fitted in, and what its maps show."""

    run: Run
    controlled: Controlled
    kinds: tuple[str, ...]
    values: tuple[int, ...]
    digest: str


def open_fitted(run: Run, name: str) -> Opened:
    """Open a fitted control. Raises StageError where there is none, and StaleError where what it
    was fitted to has changed since."""
    from ..models.control import Controlled, open_control
    from ..models.prompted import open_denoiser

    folder = run.folder / "control" / name
    record = require_stage(folder, by="control sample")
    own = as_made(run, f"control/{name}", record)
    device = choose_device()
    denoiser = open_denoiser(run.folder / "diffusion").to(device)
    said = read_json(folder / SAYS)
    controlled = Controlled(denoiser, open_control(folder).to(device)).eval()
    return Opened(own, controlled, tuple(said["kinds"]), tuple(said["values"]), record.digest)


def sampler(opened: Opened):
    """Return a draw(maps, conditions, seeds) -> (N, C, H, W) under an opened control."""
    draw = drawer(opened.run, opened.controlled, choose_device())
    return lambda maps, conditions, seeds: draw(conditions, seeds, maps)


# Obedience ----------------------------------------------------------------------------------------


def _measure(run: Run, name: str, folder: Path, masks: Masks | None, progress: Progress) -> None:
    import torch

    from .. import synthesis
    from ..validation import obedience

    opened, study = open_fitted(run, name), run.protocol
    held = mapped(run, masks, ("holdout",))["holdout"]
    if len(np.unique(held.frames.patients)) < 2:
        raise DataError("obedience needs maps of at least 2 held-out patients")
    images, maps = held.frames[:], held.maps.astype(np.float32) / 255
    other = _others(held.frames.patients)
    vocabulary = Vocabulary.read(run.folder / "diffusion" / "vocabulary.json")
    labels = [vocabulary.known(row) for row in held.frames.labels]
    seeds = [synthesis.image_seed(study.seed, i) for i in range(len(maps))]
    draw = sampler(opened)
    made = {"": draw(maps, labels, seeds)}
    progress("obedience", 0.4)
    made[obedience.SHUFFLED] = draw(maps[other], labels, seeds)
    progress("obedience", 0.8)
    with torch.inference_mode():
        coded = open_autoencoder(run, choose_device())
        rebuilt = [coded.reconstruct(torch.from_numpy(x).to(choose_device())).cpu().numpy()
                   for x in np.array_split(images, -(-len(images) // 64))]  # fmt: skip
    made[obedience.RECONSTRUCTED] = np.concatenate(rebuilt)
    read = _reader(run, opened, masks, folder, progress)
    found = {where: read(drawn) for where, drawn in made.items()}
    findings = obedience.measure(
        split_kinds(maps, opened.kinds, opened.values),
        {where: split_kinds(m, opened.kinds, opened.values) for where, m in found.items()},
        patients=held.frames.patients,
        draws=study.validate_.bootstrap,
        seed=study.seed,
    )
    if writes():
        write_findings(folder / "findings.jsonl", findings)
        _draw_pictures(folder / "previews", images, maps, made, found[""])
    progress("obedience", 1.0)


def _others(patients: np.ndarray) -> np.ndarray:
    """Return for each image the number of one of the next patient's, so that none keeps its own."""
    first = {patient: i for i, patient in reversed(list(enumerate(patients)))}
    order = list(dict.fromkeys(patients.tolist()))
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    return np.array([first[following[int(patient)]] for patient in patients])


def _reader(run: Run, opened: Opened, masks: Masks | None, folder: Path, progress: Progress):
    """Return a read(images) -> maps (N, K, H, W): filters, and for masks a network of its own."""
    segment = None
    if masks is not None:
        from ..training.segmenter import fit_segmenter

        train = mapped(run, masks, ("train",))["train"]
        masked = split_kinds(train.maps, opened.kinds, opened.values)[controls.MASK]
        scratch = folder / "latents" / "segmenter"
        scratch.mkdir(parents=True, exist_ok=True)
        segment = fit_segmenter(
            train.frames[:],
            masked,
            symmetry=run.domain.augmentations,
            seed=run.protocol.seed,
            folder=scratch,
            device=choose_device(),
            most_images=run.protocol.control.training.images,
            progress=progress,
        )

    def read(images: np.ndarray) -> np.ndarray:
        given = {} if segment is None else {controls.MASK: segment(images)}
        return stack(images, opened.kinds, given)

    return read


def _draw_pictures(folder: Path, images, maps, made, found) -> None:
    """Draw real images, their maps, what was drawn under them and what is found in it."""
    from ..pictures import write_grid
    from ..validation.obedience import SHUFFLED

    folder.mkdir(exist_ok=True)
    shown, colours = slice(0, 10), images.shape[1]
    rows = [images, _as_images(maps, colours), made[""], _as_images(found, colours), made[SHUFFLED]]
    sheet = np.concatenate([row[shown] for row in rows]).astype(np.float32)
    write_grid(folder / "obedience.png", sheet, columns=len(images[shown]), scale=2)


def _as_images(maps: np.ndarray, colours: int) -> np.ndarray:
    return np.repeat(maps.max(1, keepdims=True) * 2 - 1, colours, axis=1)
