"""What needs no run: checking a release, and what this machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DataError
from .asking import AsJson, Changes, Profile, load
from .telling import progress_bars, say

app = typer.Typer()


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="A released folder.")],
    json_: AsJson = False,
) -> None:
    """Check a release anywhere: every byte, the marks and the verdict. Needs no torch."""
    from ..release.verify import verify as check

    if not folder.is_dir():
        raise DataError(f"expected the folder of a release, {folder.name} is none")
    found = check(folder)
    result = {
        "ok": found.ok,
        "images": found.images,
        "faults": found.faults,
        "fingerprint": found.fingerprint,
    }
    good = (
        f"{found.images} images, unchanged since release; the verdict stands.",
        f"Fingerprint, to compare with what the data holder says: {found.fingerprint}",
    )
    say(result, json_, *(good if found.ok else found.faults))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def doctor(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where a run is to lie; it need not exist.")
    ] = Path(),
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="PROTOCOL", help="Foretell what this protocol takes here: hours and memory."
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="With --plan: how many images of patients there are.")
    ] = 1000,
    profile: Profile = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Say what this machine has, or with --plan what a protocol will take on it.

    Exit 1 where a run in FOLDER would fail: no room, no right to write, a wrong clock.
    The plan builds the networks and takes a few steps of each on made-up patients: minutes.
    """
    if plan is not None:
        return _foretell(load(plan, profile, set_), images, json_)
    from .. import doctor as machine

    found, faults = machine.examine(folder), machine.faults(folder)
    width = max(map(len, found))
    lines = [f"{name:<{width}} {value}" for name, value in found.items()]
    say({**found, "faults": faults}, json_, *lines, *(f"WRONG: {fault}" for fault in faults))
    if faults:
        raise typer.Exit(1)


def _foretell(study: Any, images: int, as_json: bool) -> None:
    from .. import pipeline

    with progress_bars(as_json) as progress:
        costs = pipeline.foretell(study, images=images, progress=progress)
    result = {
        "seconds": sum(cost.seconds for cost in costs),
        "memory_gib": max(cost.memory_gib for cost in costs),
        "stages": [vars(cost) for cost in costs],
    }
    say(result, as_json, *pipeline.tell_forecast(costs))
