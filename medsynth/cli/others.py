"""Images and autoencoders of another make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .asking import AsJson, Changes, parse_changes
from .telling import WORDS, at_work, leave, print_findings, say

app = typer.Typer()


@app.command()
def audit(
    train: Annotated[Path, typer.Option(help="Images that the generator learnt from.")],
    holdout: Annotated[Path, typer.Option(help="Images of patients whom it never met.")],
    synthetic: Annotated[Path, typer.Option(help="Images that it made.")],
    patients: Annotated[
        Path | None, typer.Option(help="Table of real images: columns path, patient_id.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="What comes out. It shows patients: keep it inside.")
    ] = Path("audit"),
    size: Annotated[
        int | None, typer.Option(help="Compare at this size in pixels; 64 if not given.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Kind of image; guessed if not given.")] = None,
    lens: Annotated[
        Path | None, typer.Option(help="Local weights in place of a lens that is trained.")
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The sha256 of --lens.")] = None,
    rules: Annotated[
        Path | None, typer.Option(help="YAML with the gate's rules, in place of the defaults.")
    ] = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Measure leakage and fidelity of anyone's synthetic images; exit 3 where the gate refuses.

    Three plain folders of images, of any sizes and formats; no training run is needed. The same
    command again goes on where it stopped.
    """
    from .. import pipeline
    from ..runtime import writes

    folders = pipeline.Folders(train, holdout, synthetic, patients)
    weights = {"lens.weights": str(lens)} if lens else {}
    pin = {"lens.sha256": sha256} if sha256 else {}
    study, guesses = pipeline.draft_audit(
        folders,
        size_px=size,
        domain=domain,
        rules=rules,
        changes={**weights, **pin, **parse_changes(set_)},
    )
    said: list[str] = []

    def tell(sentence: str) -> None:
        said.append(sentence)
        if writes() and not json_:
            print(sentence)

    for sentence in (*guesses, *pipeline.tell_audit(study)):
        tell(sentence)
    with at_work(out, json_) as progress:
        run, verdict = pipeline.audit(folders, out, study, say=tell, progress=progress)
    result = {
        "outcome": verdict.outcome,
        "reasons": verdict.reasons,
        "said": said,
        "report": str(run.folder / "report.html"),
        "findings": str(run.folder / "evidence" / "findings.jsonl"),
    }
    say(
        result,
        json_,
        f"The gate {WORDS[verdict.outcome]}.",
        *(f"  - {reason}" for reason in verdict.reasons),
        f"Report to open:     {run.folder / 'report.html'}",
        f"{run.folder} holds patients' images and the key to their pseudonyms: keep it inside.",
    )
    leave(verdict.passed)


@app.command()
def fidelity(
    autoencoder: Annotated[
        Path,
        typer.Argument(
            metavar="AUTOENCODER",
            help="A run or its autoencoder/, a diffusers folder, a MONAI bundle, or a .pt2 file.",
        ),
    ],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of real images.")],
    against: Annotated[
        Path | None, typer.Option(help="Another autoencoder: which of the two is better?")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Table of the images: columns path, patient_id.")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Masks of the images' names: what does a segmenter lose?"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="What comes out. It shows patients: keep it inside.")
    ] = Path("fidelity"),
    size: Annotated[
        int | None, typer.Option(help="Size in pixels; that of the run, or 256, if not given.")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Kind of image; guessed if not given.")] = None,
    set_: Changes = None,
    json_: AsJson = False,
) -> None:
    """Measure what any autoencoder keeps of these images: structures, and at which size of detail
    it goes blind.

    Use images of patients whom the autoencoder never saw. The same command again goes on.
    """
    from .. import pipeline
    from ..runtime import without_nan, writes

    asked = pipeline.Asked(autoencoder, images, against, patients, masks)
    study, guesses = pipeline.draft_fidelity(
        asked, size_px=size, domain=domain, changes=parse_changes(set_)
    )
    said: list[str] = []

    def tell(sentence: str) -> None:
        said.append(sentence)
        if writes() and not json_:
            print(sentence)

    for sentence in guesses:
        tell(sentence)
    with at_work(out, json_) as progress:
        answer = pipeline.fidelity(asked, out, study, say=tell, progress=progress)
    for sentence in answer.said:
        tell(sentence)
    result = {
        "said": said,
        "findings": [without_nan(item.to_dict()) for item in answer.findings.values()],
        "better": [without_nan(item.to_dict()) for item in answer.better.values()],
        "report": str(answer.report),
    }
    last = (f"Report to open:     {answer.report}", f"{out} shows patients: keep it inside.")
    if not json_ and writes():
        print_findings(answer.findings)
    say(result, json_, *last)
