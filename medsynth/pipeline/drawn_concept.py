"""Images drawn with a concept: into a folder beside the run, for the hospital alone.

A concept is a part that learned from patients after the evidence was taken. So what is drawn with
it is `derived`, whatever the run's verdict says of its cohort, and no release takes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..cohort import Cohort
from ..errors import DataError, StageError
from ..ownership import holds_something
from ..protocol import set_knobs
from ..runtime import (
    choose_device,
    derive_seed,
    read_stage,
    run_stage,
    wait_for_everyone,
    write_text,
    writes,
)
from .concept import folder_of, networks_of, open_concept, require_concept, vocabulary_of
from .run import Progress, Run, open_autoencoder, silent

SAYS = "NOTICE.txt"
NOTICE = """These images were drawn with a concept that learned from patients' images. The run's
evidence does not cover them: they are derived, they are no part of a release, and they stay inside
the hospital as the images do that the concept was learned from.
"""


def sample_concept(
    run: Run,
    name: str,
    out: Path,
    *,
    images: int,
    labels: Mapping[str, str] | None = None,
    guidance: float | None = None,
    progress: Progress = silent,
) -> Cohort:
    """Draw images that show a concept into a folder of their own: a Cohort, origin `derived`.

    `labels` are other attributes that all of them have. Raises StageError where `out` lies in the
    run or holds something else, DataError on labels that the vocabulary does not have.
    """
    said = require_concept(run, name)
    given = dict(labels or {})
    if said["attribute"] in given:
        raise DataError(f"{name} is itself a value of {said['attribute']}: leave that label out")
    condition = {**given, said["attribute"]: name}
    vocabulary_of(run).taught(said["attribute"], name).encode(condition)
    _check_out(run, out)
    strength = said["guidance"] if guidance is None else guidance
    settings = run.protocol.sample.model_copy(update={"images": images, "guidance": strength})
    if strength in (0.0, 1.0):
        settings = settings.model_copy(update={"guidance_interval": None})
    run_stage(
        out,
        lambda folder: _sample(run, name, folder, [condition] * images, settings, progress),
        inputs={**networks_of(run), "concept": read_stage(folder_of(run, name)).digest},
        settings={"condition": condition, "sample": set_knobs(settings.model_dump(mode="json")),
                  "seed": run.protocol.seed},
        all_ranks=True,
    )  # fmt: skip
    return Cohort.read(out)


def _check_out(run: Run, out: Path) -> None:
    inside = run.folder.resolve() in (out.resolve(), *out.resolve().parents)
    if inside:
        raise StageError(f"{out.name}/ lies in the run's folder: choose a folder beside it")
    if holds_something(out) and not (out / SAYS).exists():
        raise StageError(f"{out.name}/ holds something else already: choose another folder")
    out.parent.mkdir(parents=True, exist_ok=True)


def _sample(run: Run, name: str, folder: Path, conditions, settings, progress) -> None:
    from .. import synthesis
    from ..pictures import grid_png
    from ..release.pictures import encode_png

    device = choose_device()
    taught, vocabulary, _ = open_concept(run, name, device)
    autoencoder = open_autoencoder(run, device)
    seed = derive_seed(run.protocol.seed, "concept", name)

    def draw(numbers, wanted, seeds):
        return synthesis.sample(
            taught, autoencoder, vocabulary, wanted, settings=settings,
            diffusion=run.protocol.diffusion, seeds=seeds, device=device,
        )  # fmt: skip

    synthesis.sample_cohort(
        draw, conditions, bits=run.protocol.image.bits, batch=settings.batch, seed=seed,
        folder=folder, progress=progress,
    )  # fmt: skip
    wait_for_everyone()
    if not writes():
        return
    drawn = synthesis.join_blocks(conditions, domain=run.protocol.domain, seed=seed, folder=folder)
    records = [replace(record, id=f"{name}-{i + 1:06d}", origin="derived")
               for i, record in enumerate(drawn.records)]  # fmt: skip
    cohort = replace(drawn, records=tuple(records))
    cohort.write(folder)
    (folder / "images").mkdir(exist_ok=True)
    for record, image in zip(cohort.records, cohort.pixels, strict=True):
        (folder / "images" / f"{record.id}.png").write_bytes(encode_png(image, synthetic=True))
    (folder / "grid.png").write_bytes(grid_png(cohort.pixels[:32], columns=8))
    write_text(folder / SAYS, NOTICE)
