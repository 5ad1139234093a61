"""Concepts that are learnt from a few images, variations of training images, and their use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .asking import AsJson, Changes, RunFolder, parse_changes
from .telling import at_work, say

app = typer.Typer()


concept = typer.Typer(
    help="Teach a finished run's denoiser a concept from a few images (textual inversion).",
    no_args_is_help=True,
)
app.add_typer(concept, name="concept")
ConceptName = Annotated[str, typer.Argument(metavar="NAME", help="The concept's name.")]


def _with(run: Any, section: str, changes: dict[str, Any]) -> Any:
    """Return an opened run whose optional section is filled in and changed."""
    from .. import pipeline

    return pipeline.Run(run.folder, pipeline.with_changes(run.protocol, section, changes))


@concept.command("learn")
def concept_learn(
    run: RunFolder,
    images: Annotated[Path, typer.Option(help="Folder of images that show it.")],
    name: Annotated[str, typer.Option(help="What it is to be called: a-z, 0-9, - and _.")],
    vectors: Annotated[
        int | None, typer.Option(min=1, help="How many vectors stand for it; 4 if not given.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            metavar="ATTRIBUTE=VALUE",
            help="Known token to begin with, or an attribute alone; the nearest if not given.",
        ),
    ] = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Learn new token vectors from images, everything else frozen; again = go on."""
    from .. import pipeline

    changes = parse_changes(set_) | ({"concept.vectors": vectors} if vectors else {})
    opened = _with(pipeline.open_run(run), "concept", changes)
    with at_work(run, json_) as progress:
        said = pipeline.learn_concept(opened, images, name, start=start, progress=progress)
    say(said, json_, *pipeline.tell_concept(said))


@concept.command("list")
def concept_list(run: RunFolder, json_: AsJson = False) -> None:
    """List the concepts of a run."""
    from .. import pipeline

    found = pipeline.list_concepts(pipeline.open_run(run))
    lines = [line for said in found for line in pipeline.tell_concept(said)]
    say({"concepts": found}, json_, *(lines or ["This run has no concepts."]))


@concept.command("remove")
def concept_remove(run: RunFolder, name: ConceptName, json_: AsJson = False) -> None:
    """Delete a concept; images that were drawn with it are left where they are."""
    from .. import pipeline

    opened = pipeline.open_run(run)
    with at_work(run, json_):
        pipeline.remove_concept(opened, name)
    say({"removed": name}, json_, f"Removed {name}.")


@concept.command("sample")
def concept_sample(
    run: RunFolder,
    name: ConceptName,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder beside the run.")],
    images: Annotated[int, typer.Option(min=1, help="How many.")] = 32,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Another attribute of all images; may be repeated."
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0.0, help="In place of the concept's own.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Draw images that show a concept: derived, so no evidence covers them and none is released."""
    from .. import pipeline

    labels = {str(key): str(value) for key, value in parse_changes(label).items()}
    with at_work(out, json_) as progress:
        pipeline.sample_concept(
            pipeline.open_run(run), name, out,
            images=images, labels=labels, guidance=guidance, progress=progress,
        )  # fmt: skip
    say(
        {"images": images, "origin": "derived"},
        json_,
        f"{images} images that show {name}: {out}",
        "No evidence covers them: they are derived, no release takes them, keep them inside.",
    )


@app.command()
def augment(
    run: RunFolder,
    strengths: Annotated[
        str | None,
        typer.Option(help='How far to noise, drawn evenly: "1 .75 .5 .25" if not given.'),
    ] = None,
    children: Annotated[int | None, typer.Option(min=1, help="Variations of each image.")] = None,
    concept: Annotated[str | None, typer.Option(help="Vary under this concept.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks, ID.png as in intake/records.csv.")
    ] = None,
    outside: Annotated[
        bool, typer.Option("--outside/--inside", help="Change what the mask leaves out, or it.")
    ] = False,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Vary a run's training images into RUN/derived (DA-Fusion), for training inside the hospital.

    Says for each strength how many children still show their parent. No release takes them.
    """
    from .. import pipeline

    changes = parse_changes(set_)
    changes |= {"augment.strengths": _numbers(strengths, "--strengths")} if strengths else {}
    changes |= {"augment.children": children} if children else {}
    opened = _with(pipeline.open_run(run), "augment", changes)
    given = None if masks is None else pipeline.ChildMasks(masks, inside=not outside)
    with at_work(run, json_) as progress:
        found = pipeline.augment(opened, concept=concept, masks=given, progress=progress)
    result = {"derived": str(run / "derived"), "findings": [item.to_dict() for item in found]}
    say(
        result, json_, *pipeline.tell_children(found), f"Children, to be kept inside: {run}/derived"
    )


@app.command()
def utility(
    run: RunFolder,
    attribute: Annotated[
        str | None, typer.Option(help="Label that is learned; the first that can be if not given.")
    ] = None,
    shots: Annotated[
        str | None, typer.Option(help='Few real images a class: "1 2 4 8 16" if not given.')
    ] = None,
    trainings: Annotated[
        int | None, typer.Option(min=2, help="Networks of each kind; 5 if not given.")
    ] = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Measure of what use a validated run's images are: classifiers that learn from them are asked
    about held-out patients, beside some that learn from real images, many and few (RUN/utility).

    The same command again goes on where it stopped.
    """
    from .. import pipeline
    from ..runtime import without_nan

    changes = parse_changes(set_)
    changes |= {"validate.utility.attribute": attribute} if attribute else {}
    changes |= {"validate.utility.trainings": trainings} if trainings else {}
    if shots:
        changes["validate.utility.shots"] = [int(count) for count in _numbers(shots, "--shots")]
    with at_work(run, json_) as progress:
        found = pipeline.utility(pipeline.open_run(run), changes=changes, progress=progress)
    result = {"findings": [without_nan(item.to_dict()) for item in found]}
    say(result, json_, *pipeline.tell_utility(found), f"All numbers: {run}/utility/findings.jsonl")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise DataError(f"{option}: expected numbers, got {text!r}") from None
