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
    key: Annotated[
        Path | None,
        typer.Option(metavar="PUB", help="Public key of the data holder, which must have signed."),
    ] = None,
    find: Annotated[
        Path | None,
        typer.Option(metavar="IMAGE", help="Is this image one of the release, its marks stripped?"),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Check a release anywhere: every byte, the marks, the verdict, who signed. Needs no torch."""
    from ..release.verify import verify as check

    if not folder.is_dir():
        raise DataError(f"expected the folder of a release, {folder.name} is none")
    if find is not None:
        return _find(find, folder, json_)
    if key is not None and not key.is_file():
        raise DataError(f"--key: expected a file with a public key, {key.name} is none")
    found = check(folder, key=key)
    result = {
        "ok": found.ok,
        "images": found.images,
        "faults": found.faults,
        "waived": found.verdict.waived if found.verdict else 0,
        "fingerprint": found.fingerprint,
        "signer": found.signer,
    }
    say(result, json_, *(_good(found, key) if found.ok else found.faults))
    if not found.ok:
        raise typer.Exit(1)


def _good(found: Any, key: Path | None) -> list[str]:
    from ..release.waivers import waivers

    signed = {
        (False, False): "Nobody signed it.",
        (True, False): f"Signed with {found.signer}; whose key that is, --key PUB tells.",
        (True, True): f"Signed with the key in {key.name if key else ''}, {found.signer}.",
    }[bool(found.signer), key is not None]
    return [
        *waivers(found.verdict),
        f"{found.images} images, unchanged since release; the verdict stands.",
        signed,
        f"Fingerprint, to compare with what the data holder says: {found.fingerprint}",
    ]


def _find(image: Path, release: Path, as_json: bool) -> None:
    from ..release import recognition

    matches = recognition.find(image, release)
    nearest = matches[0].distance
    found = nearest <= recognition.WITHIN
    bits = f"of {recognition.BITS} bits differ"
    lines = [f"{match.id}: the same picture ({match.distance} {bits})" for match in matches]
    none = f"None of the released images: of the nearest {nearest} {bits}, of the same picture at "
    none += f"most {recognition.WITHIN} would."
    result = {
        "found": found,
        "matches": [match._asdict() for match in matches] if found else [],
        "nearest": nearest,
    }
    say(result, as_json, *(lines if found else [none]))


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
