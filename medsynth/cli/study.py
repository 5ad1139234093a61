"""A study: the whole way, and what comes before the start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .asking import AsJson, Changes, Profile, Raw, RunFolder, Study, load
from .telling import at_work, end, leave, outcome, say

app = typer.Typer()


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(metavar="[RUN]", help="Run folder.")] = Path("runs/demo"),
    memorize: Annotated[
        bool,
        typer.Option(
            "--memorize", help="Use a generator that copies training images: the gate must refuse."
        ),
    ] = False,
    json_: AsJson = False,
) -> None:
    """Show the whole way on phantoms: no data needed, two CPU cores, a few minutes."""
    from .. import pipeline

    with at_work(run, json_) as progress:
        opened, verdict = pipeline.demo(run, memorize=memorize, progress=progress)
    end(opened, verdict, json_)


@app.command("run")
def run_command(
    protocol: Study,
    raw: Raw,
    run: RunFolder,
    profile: Profile = None,
    set_: Changes = None,
    halves: Annotated[
        bool,
        typer.Option(
            "--halves",
            help="For few patients: two runs, RUN/first and RUN/second, each trained on the "
            "patients whom the other holds out.",
        ),
    ] = False,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder of masks named as the images, where the protocol draws masks."),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Do all stages, from raw images to the gate and the release; again = go on."""
    from .. import pipeline

    study = load(protocol, profile, set_)
    if halves:
        with at_work(run, json_) as progress:
            done = pipeline.run_halves(study, raw, run, progress, masks=masks)
        return _end_halves(done, json_)
    opened = pipeline.start(study, run)
    with at_work(run, json_) as progress:
        verdict = pipeline.run_all(opened, raw, progress, masks=masks)
    end(opened, verdict, json_)


def _end_halves(done: dict[str, tuple[Any, Any]], as_json: bool) -> None:
    """Say what the gate said of both halves; exit 3 unless both passed."""
    said = {half: outcome(run, verdict) for half, (run, verdict) in done.items()}
    lines = [line for half, (_, told) in said.items() for line in (f"The {half} half:", *told)]
    say({half: result for half, (result, _) in said.items()}, as_json, *lines)
    leave(all(verdict.passed for _, verdict in done.values()))


@app.command()
def init(
    raw: Raw,
    output: Annotated[Path, typer.Option("-o", "--output", help="Protocol to write.")] = Path(
        "protocol.yaml"
    ),
    base: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Pin this Stable Diffusion folder instead of networks to train."
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Look at a folder of images and write a protocol to edit."""
    from .. import pipeline

    seen = pipeline.init(raw, output, base=base)
    say(
        {"protocol": str(output), "seen": seen},
        json_,
        *seen,
        "",
        f"Wrote {output}. Read it, write the gate's rules (they have no defaults), then:",
        f"  medsynth run {output} {raw} RUN",
    )


@app.command()
def deidentify(
    raw: Raw,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for what comes out.")],
    protocol: Annotated[
        Path | None, typer.Option(help="Take its data and deidentify sections.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="File of the secret; OUT.key where none is given.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Write a folder's images without identity, beside and not instead of it; again = go on."""
    from .. import pipeline

    study = load(protocol, None, None) if protocol else None
    with at_work(out, json_) as progress:
        done = pipeline.deidentify(raw, out, study, key=key, progress=progress)
    say(vars(done), json_, done.summary)


@app.command("protocol")
def protocol_command(
    file: Study, profile: Profile = None, set_: Changes = None, json_: AsJson = False
) -> None:
    """Check a protocol and print it with all defaults filled in, and its digest."""
    from .. import protocol

    study = load(file, profile, set_)
    say(
        {"digest": study.digest, "protocol": study.to_dict()},
        json_,
        f"# digest: {study.digest}",
        protocol.to_yaml(study).rstrip(),
    )
