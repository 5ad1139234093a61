"""Variations of a finished run's training images, into RUN/derived (DA-Fusion).

Children start from patients' images. They are for training inside the hospital, and no release
takes them: `origin` is derived, `parent` says of whom. How far one still shows its parent is
measured for every strength, so that a user sees what strength costs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import protocol
from ..cohort import Cohort, Record
from ..errors import DataError
from ..finding import Finding, read_findings, write_findings
from ..protocol import set_knobs
from ..runtime import (
    choose_device,
    derive_seed,
    digest_files,
    digest_json,
    read_stage,
    require_stage,
    run_stage,
    wait_for_everyone,
    write_text,
    writes,
)
from .concept import folder_of, open_concept, require_concept, vocabulary_of
from .judge import open_lens, reconstructor
from .run import Progress, Run, open_autoencoder, parts_of, silent

TABLE = "children.csv"
LOOKED = ("candidates", "false_alarms", "bootstrap")  # how children are looked up, of validate
COLUMNS = ("id", "parent", "strength", "seed")


@dataclass(frozen=True)
class Masks:
    """A folder of PNG files named by the ids of the run's images (intake/records.csv), white where
    the mask is; `inside` says that it is there that images change, else that it is around it."""

    folder: Path
    inside: bool = True

    def stays(self, ids: Sequence[str], size_px: int) -> np.ndarray:
        """Return where the images of these ids stay as they are, (N, size_px, size_px) bool."""
        from PIL import Image

        found = []
        for name in ids:
            with Image.open(self.folder / f"{name}.png") as image:
                grey = image.convert("L").resize((size_px, size_px), Image.Resampling.NEAREST)
            mask = np.asarray(grey) > 127
            found.append(~mask if self.inside else mask)
        return np.stack(found)


@dataclass(frozen=True)
class Child:
    """One variation to be made: whose, by which number among the cohort's images, and how."""

    parent: int
    id: str
    strength: float
    seed: int


def augment(
    run: Run,
    *,
    concept: str | None = None,
    masks: Masks | None = None,
    progress: Progress = silent,
) -> list[Finding]:
    """Vary the run's training images into RUN/derived, and measure how far children still show
    their parents; again = go on.

    Each is denoised under its own labels, or with `concept` in its attribute's place. With `masks`
    only images that have one are varied. Raises DataError where none has.
    """
    settings = run.protocol.augment or protocol.Augment()
    inputs = run.inputs("synthetic")
    inputs["lens"] = require_stage(run.folder / "lens", by="augment").digest
    if concept is not None:
        require_concept(run, concept)
        inputs["concept"] = read_stage(folder_of(run, concept)).digest
    run_stage(
        run.folder / "derived",
        lambda folder: _augment(run, folder, settings, concept, masks, progress),
        inputs=inputs,
        settings={
            "augment": set_knobs(settings.model_dump(mode="json")),
            "sample": set_knobs(_drawn(run).model_dump(mode="json")),
            "looked": {name: run.protocol.section("validate")[name] for name in LOOKED},
            "concept": concept,
            "masks": masks and {"inside": masks.inside, "files": _digest(masks.folder)},
            "seed": run.protocol.seed,
        },
        all_ranks=True,
    )
    return list(read_findings(run.folder / "derived" / "findings.jsonl").values())


def tell_children(findings: Sequence[Finding]) -> list[str]:
    """Say in a line for each strength how many children still show their parent."""
    shares = [(float(f.name.split(".", 2)[2]), f) for f in findings if ".match." in f.name]
    if not shares:
        return ["Not measured (augment.measured is 0)."]
    lines = ["strength  show their parent   (95 %)        n"]
    for percent, found in sorted(shares, key=lambda pair: pair[0]):
        ends = f"{found.low:.0%} to {found.high:.0%}"
        lines.append(f"{percent / 100:>8g}  {found.value:>17.0%}   {ends:<12}  {found.n}")
    chance = f"{shares[0][1].reference:.1%} of held-out images pass the same threshold."
    return [*lines, f"Strength 0 is the autoencoder alone; {chance}"]


def _drawn(run: Run) -> protocol.Sample:
    """Return how children are drawn: as the run's images, whose number and labels do not matter."""
    return run.protocol.sample.model_copy(
        update={"images": 1, "labels": None, "generator": "diffusion"}
    )


def _digest(folder: Path) -> str:
    if not folder.is_dir():
        raise DataError(f"expected a folder of masks, {folder.name} is none")
    return digest_json(digest_files(folder))


def _augment(run: Run, folder: Path, settings, concept, masks, progress) -> None:
    cohort, parts = parts_of(run)
    parents = [int(i) for i in parts["train"] if _has_mask(masks, cohort.records[i].id)]
    if not parents:
        raise DataError(
            "no training image has a mask: expected PNG files named by the ids of "
            "intake/records.csv"
        )
    made = make_children(
        run, folder, parents, settings, concept=concept, masks=masks, progress=progress
    )
    if made is not None:
        derived, children = made
        _show(folder, cohort, derived, children)
        _measure(run, folder, cohort, parts, derived, children, progress)


def make_children(
    run: Run,
    folder: Path,
    parents: Sequence[int],
    settings: protocol.Augment,
    *,
    concept: str | None = None,
    masks: Masks | None = None,
    progress: Progress = silent,
) -> tuple[Cohort, list[Child]] | None:
    """Vary these of the run's images into a cohort in `folder`, with their table.

    A child is the same whoever is varied beside its parent. Several processes divide the work; all
    but the first return None.
    """
    from ..synthesis import sample_cohort

    cohort = Cohort.read(run.folder / "intake")
    children = plan_children(cohort, parents, settings, seed=run.protocol.seed)
    order = sorted(range(len(children)), key=lambda i: -children[i].strength)
    ordered = [children[i] for i in order]
    draw, labels = _painter(run, cohort, ordered, concept, masks)
    sample_cohort(
        draw, labels, bits=run.protocol.image.bits, batch=run.protocol.sample.batch,
        seed=run.protocol.seed, folder=folder, progress=progress,
    )  # fmt: skip
    wait_for_everyone()
    if not writes():
        return None
    derived = _join(cohort, ordered, labels, folder).take(np.argsort(order))
    derived.write(folder)
    write_text(folder / TABLE, children_csv(cohort, children))
    return derived, children


def _has_mask(masks: Masks | None, name: str) -> bool:
    return masks is None or (masks.folder / f"{name}.png").exists()


def plan_children(
    cohort: Cohort, parents: Sequence[int], settings: protocol.Augment, *, seed: int
) -> list[Child]:
    """Return the children of these images, parent by parent; a child's seed follows from the
    study's, its parent and its number."""
    from ..variation import draw_strengths

    planned = []
    for parent in parents:
        name = cohort.records[parent].id
        strengths = draw_strengths(
            settings.strengths, settings.children, seed=derive_seed(seed, "strengths", name)
        )
        for number, strength in enumerate(strengths):
            own = derive_seed(seed, "child", name, number)
            planned.append(Child(parent, f"{name}-{number + 1:02d}", strength, own))
    return planned


def children_csv(cohort: Cohort, children: Sequence[Child]) -> str:
    """Return the table of children: id, parent's id, strength, seed."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for child in children:
        parent = cohort.records[child.parent].id
        table.writerow([child.id, parent, f"{child.strength:g}", child.seed])
    return text.getvalue()


def _painter(run: Run, cohort: Cohort, children: Sequence[Child], concept, masks):
    """Return what draws children by their numbers, and the labels of each."""
    from ..models.denoiser import Denoiser, encode_conditions
    from ..variation import Parents, vary

    device, vocabulary, given = choose_device(), vocabulary_of(run), {}
    autoencoder = open_autoencoder(run, device)
    if concept is None:
        denoiser = Denoiser.load(run.folder / "diffusion").to(device)
    else:
        denoiser, vocabulary, said = open_concept(run, concept, device)
        given = {said["attribute"]: concept}
    labels = [{**cohort.records[child.parent].labels, **given} for child in children]

    def draw(numbers, wanted, seeds):
        few = [children[i] for i in numbers]
        ids = [cohort.records[child.parent].id for child in few]
        tokens = encode_conditions(vocabulary, [vocabulary.known(row) for row in wanted])
        stays = None if masks is None else masks.stays(ids, cohort.size_px)
        return vary(
            denoiser,
            autoencoder,
            Parents(cohort.floats([child.parent for child in few]), tokens, stays),
            [child.strength for child in few],
            settings=_drawn(run),
            diffusion=run.protocol.diffusion,
            seeds=[child.seed for child in few],
            device=device,
        )

    return draw, labels


def _join(cohort: Cohort, children: Sequence[Child], labels, folder: Path) -> Cohort:
    """Join all blocks. A child keeps its parent's patient and source, so that what is divided by
    patient stays so."""
    blocks = sorted((folder / "blocks").glob("*.npy"))
    pixels = np.concatenate([np.load(path) for path in blocks])
    records = []
    for child, own in zip(children, labels, strict=True):
        parent = cohort.records[child.parent]
        records.append(
            Record(child.id, "derived", parent.patient, own, parent.source,
                   seed=child.seed, parent=parent.id)
        )  # fmt: skip
    return Cohort(cohort.domain, tuple(records), pixels)


def _show(folder: Path, cohort: Cohort, derived: Cohort, children: Sequence[Child]) -> None:
    """Draw eight parents above a child of each strength."""
    from ..pictures import grid_png

    parents = list(dict.fromkeys(child.parent for child in children))[:8]
    rows = [cohort.pixels[parents]]
    for strength in sorted({child.strength for child in children}):
        of = {c.parent: i for i, c in enumerate(children) if c.strength == strength}
        blank = np.zeros_like(derived.pixels[0])
        rows.append(np.stack([derived.pixels[of[p]] if p in of else blank for p in parents]))
    (folder / "grid.png").write_bytes(grid_png(np.concatenate(rows), columns=len(parents)))


def _measure(run: Run, folder: Path, cohort: Cohort, parts, derived, children, progress) -> None:
    from ..validation.children import Family, measure

    place = {int(image): i for i, image in enumerate(parts["train"])}
    family = Family(
        cohort.take(parts["train"]),
        cohort.take(parts["holdout"]),
        derived,
        np.array([place[child.parent] for child in children]),
        np.array([child.strength for child in children]),
    )
    found = measure(
        family,
        run.protocol.validate_,
        run.domain,
        open_lens(run),
        reconstructor(run),
        most=(run.protocol.augment or protocol.Augment()).measured,
        seed=run.protocol.seed,
        device=choose_device(),
        progress=progress,
    )
    write_findings(folder / "findings.jsonl", found)
