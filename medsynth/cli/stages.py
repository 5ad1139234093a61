"""Stage by stage."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .asking import AsJson, Changes, Profile, Raw, RunFolder, Study, load
from .telling import at_work, end, print_findings, say

app = typer.Typer()


class Format(StrEnum):
    """Shapes of a release's images beside PNG files."""

    parquet = "parquet"
    webdataset = "webdataset"
    npz = "npz"
    dicom = "dicom"


@app.command()
def ingest(
    protocol: Study,
    raw: Raw,
    run: RunFolder,
    profile: Profile = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Read the images; what can't be used goes to intake/quarantine.csv with the reason."""
    from .. import pipeline

    opened = pipeline.start(load(protocol, profile, set_), run)
    with at_work(run, json_) as progress:
        pipeline.ingest(opened, raw, progress)
    say(pipeline.facts(opened, "intake/intake.json"), json_, *pipeline.tell_intake(opened))


@app.command()
def split(run: RunFolder, json_: AsJson = False) -> None:
    """Divide the patients at random into train, validation and holdout."""
    from .. import pipeline

    opened = pipeline.open_run(run)
    with at_work(run, json_) as progress:
        pipeline.split(opened, progress)
    said = pipeline.facts(opened, "split/split.json")
    say(said, json_, *pipeline.tell_split(opened))


@app.command()
def fit(run: RunFolder, json_: AsJson = False) -> None:
    """Train the lens, the autoencoder and the denoiser. For more GPUs: torchrun -m medsynth fit."""
    from .. import pipeline

    with at_work(run, json_) as progress:
        pipeline.fit(pipeline.open_run(run), progress)
    say({"run": str(run)}, json_, "Trained. Curves and pictures: medsynth report shows them.")


@app.command()
def sample(run: RunFolder, json_: AsJson = False) -> None:
    """Draw the synthetic cohort."""
    from .. import pipeline

    opened = pipeline.open_run(run)
    with at_work(run, json_) as progress:
        pipeline.sample(opened, progress)
    count = opened.protocol.sample.images
    say({"images": count}, json_, f"{count} synthetic images in {run / 'synthetic'}")


@app.command()
def validate(run: RunFolder, json_: AsJson = False) -> None:
    """Measure fidelity and leakage into evidence/findings.jsonl."""
    from .. import pipeline

    opened = pipeline.open_run(run)
    with at_work(run, json_) as progress:
        pipeline.validate(opened, progress)
    _show_findings(opened, json_)


@app.command()
def findings(run: RunFolder, json_: AsJson = False) -> None:
    """Print all findings of a run with intervals, references and methods."""
    from .. import pipeline

    _show_findings(pipeline.open_run(run), json_)


def _show_findings(run: Any, as_json: bool) -> None:
    from .. import pipeline
    from ..runtime import ranks, without_nan

    if ranks()[0] > 0:
        return
    found = pipeline.findings_of(run)
    if as_json:
        print(json.dumps([without_nan(item.to_dict()) for item in found.values()], indent=2))
        return
    print_findings(found)


@app.command()
def decide(run: RunFolder, json_: AsJson = False) -> None:
    """Hold the findings against the protocol's rules; exit 3 where the gate refuses."""
    from .. import pipeline
    from ..ownership import working_in

    opened = pipeline.open_run(run)
    with working_in(run):
        verdict = pipeline.decide(opened)
        pipeline.report(opened)
    end(opened, verdict, json_)


@app.command()
def release(
    run: RunFolder,
    format_: Annotated[
        list[Format] | None,
        typer.Option(
            "--format",
            help="Write the images in this shape too, beside card.formats; may be repeated.",
        ),
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            metavar="KEY", help="Sign it with this SSH key, whose public half recipients know."
        ),
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="Put signed content credentials (C2PA) into each PNG, with the key and "
            "certificates in this file, which is made where it is absent.",
        ),
    ] = None,
    json_: AsJson = False,
) -> None:
    """Write RUN/release, the one door out; refuses what the gate did not pass as it stands."""
    from .. import pipeline
    from ..ownership import working_in
    from ..release.signature import signer

    also = [chosen.value for chosen in format_ or ()]
    opened = pipeline.open_run(run)
    with working_in(run):
        folder = pipeline.release(opened, also=also, sign=sign, credentials=credentials)
    say(
        {"release": str(folder), "signer": signer(folder)},
        json_,
        f"Released: {folder}",
        f"Whoever gets it can check it with: medsynth verify {folder.name}",
    )


@app.command()
def report(run: RunFolder, json_: AsJson = False) -> None:
    """Write RUN/report.html from what the run has so far. It shows patients: keep it inside."""
    from .. import pipeline
    from ..ownership import working_in

    opened = pipeline.open_run(run)
    with working_in(run):
        path = pipeline.report(opened)
    say({"report": str(path)}, json_, f"Report to open: {path}")
