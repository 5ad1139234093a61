"""Drawing what a map says."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .asking import AsJson, Changes, RunFolder, parse_changes
from .telling import at_work, leave, say

app = typer.Typer()


control = typer.Typer(
    help="Draw what a map says: edges, lines, vessels, points or masks (ControlNet).",
    no_args_is_help=True,
)
app.add_typer(control, name="control")


class Kind(StrEnum):
    """What a control map shows."""

    canny = "canny"
    hough = "hough"
    soft_edges = "soft_edges"
    vessels = "vessels"
    keypoints = "keypoints"
    mask = "mask"


Kinds = Annotated[
    list[Kind] | None,
    typer.Option("--kind", help="What the maps show; may be repeated, then they are stacked."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The control's name.")]


@control.command("extract")
def control_extract(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the maps.")],
    kind: Kinds = None,
    domain: Annotated[str, typer.Option(help="Kind of image, which says how to crop.")] = "fundus",
    size: Annotated[int, typer.Option(help="Side of the maps in pixels.")] = 256,
    nobody: Annotated[
        bool, typer.Option("--nobody", help="You say that these images show no patient.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Write the maps of a folder's images to OUT/KIND/NAME.png."""
    from .. import pipeline

    kinds = [one.value for one in kind or ()] or ["canny"]
    with at_work(out, json_) as progress:
        count = pipeline.extract_controls(
            images, out, kinds, domain=domain, size_px=size, nobody=nobody, progress=progress
        )
    whose = "nobody's, as you say" if nobody else "patients': what is drawn from them stays inside"
    say({"images": count, "kinds": kinds}, json_, f"Maps of {count} images, {whose}: {out}")


@control.command("fit")
def control_fit(
    run: RunFolder,
    kind: Kinds = None,
    name: Annotated[str | None, typer.Option(help="Its name; its kinds if not given.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks, named as the images.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="With --masks: the raw images of the run.")
    ] = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Train a control of a finished run's denoiser; exit 3 where it is not obeyed."""
    from .. import pipeline

    opened = pipeline.open_run(run)
    kinds = tuple(one.value for one in kind or ())
    study = pipeline.with_control(opened.protocol, kinds, parse_changes(set_))
    if (masks is None) != (images is None):
        raise DataError("--masks and --images come together: masks have the images' names")
    given = None if masks is None else pipeline.Masks(masks, images)
    called = name or "_".join(study.control.kinds)
    with at_work(run, json_) as progress:
        found = pipeline.fit_control(
            pipeline.Run(run, study), called, masks=given, progress=progress
        )
    _end_control(called, found, json_)


def _end_control(name: str, found: list[Any], as_json: bool) -> None:
    """Say how well a control is obeyed; exit 3 where one of its kinds is ignored."""
    from ..runtime import without_nan
    from ..validation.obedience import ignored

    faults = ignored(found)
    lines = [
        f"{item.name}: {item.value:.3g} ({item.low:.3g} to {item.high:.3g}) {item.unit}"
        for item in found
    ]
    said = faults or [f"The control {name} is obeyed: its interval lies clear of chance."]
    result = {"control": name, "ignored": faults, "findings": [item.to_dict() for item in found]}
    say(without_nan(result), as_json, *lines, *said)
    leave(not faults)


@control.command("sample")
def control_sample(
    run: RunFolder,
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the images.")],
    control: Annotated[Path, typer.Option(help="Folder of maps, as `control extract` writes it.")],
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What all images show.")
    ] = None,
    ignored: Annotated[
        bool, typer.Option("--ignored", help="Draw although the control is ignored.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Draw one image a map; images under patients' maps are derived and never released.

    A control that is ignored is refused: exit 3.
    """
    from .. import pipeline

    labels = dict(_labels(label))
    with at_work(out, json_) as progress:
        cohort = pipeline.sample_controlled(
            pipeline.open_run(run), name, control, out,
            labels=labels, ignored=ignored, progress=progress,
        )  # fmt: skip
    origin = cohort.records[0].origin
    inside = "" if origin == "synthetic" else ": patients' maps, so they stay inside"
    say(
        {"images": len(cohort), "origin": origin},
        json_,
        f"{len(cohort)} images, {origin}{inside}; with their maps in {out}",
    )


def _labels(pairs: list[str] | None) -> Iterator[tuple[str, str]]:
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise DataError(f"--label: expected NAME=VALUE, got {pair!r}")
        yield name, value
