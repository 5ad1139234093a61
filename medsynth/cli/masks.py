"""Masks that belong to no patient."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .asking import AsJson, RunFolder
from .telling import WORDS, at_work, leave, say

app = typer.Typer()


masks = typer.Typer(
    help="Draw masks that belong to no patient, for cohorts of images with masks.",
    no_args_is_help=True,
)
app.add_typer(masks, name="masks")


@masks.command("fit")
def masks_fit(
    run: RunFolder,
    masks: Annotated[Path, typer.Option(help="Folder of masks, named as the images.")],
    images: Annotated[Path, typer.Option(help="The raw images of the run.")],
    json_: AsJson = False,
) -> None:
    """Train the denoiser of masks on those of training patients; again = go on."""
    from .. import pipeline

    with at_work(run, json_) as progress:
        given = pipeline.Masks(masks, images)
        done = pipeline.fit_masks(pipeline.open_run(run), given, progress)
    say({"masks": done.digest}, json_, f"Trained: {run / 'masks'}. It stays inside.")


@masks.command("sample")
def masks_sample(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the masks.")],
    count: Annotated[int, typer.Option(min=1, help="How many masks.")] = 100,
    json_: AsJson = False,
) -> None:
    """Draw masks alone and hold them against patients' masks; exit 3 where a rule is broken."""
    from .. import pipeline

    with at_work(out, json_) as progress:
        verdict = pipeline.sample_masks(
            pipeline.open_run(run), out, images=count, progress=progress
        )
    origin = "synthetic" if verdict.passed else "derived"
    say(
        {"masks": count, "origin": origin, "reasons": verdict.reasons},
        json_,
        f"{count} masks in {out / 'maps' / 'mask'}, {origin}.",
        f"Their rules: {WORDS[verdict.outcome]}.",
        *(f"  - {reason}" for reason in verdict.reasons),
    )
    leave(verdict.passed)
