"""The command line: parses, prints, exits; one pipeline call a command.

Heavy packages are imported inside the commands, so that help and `verify` start at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import DataError, MedsynthError, ProtocolError

app = typer.Typer(
    name="medsynth",
    help=(
        "From a folder of patient images to a cohort that may be shared, with the evidence that "
        "it may. Nothing is downloaded and nothing leaves the machine; what may leave lies in "
        "RUN/release, and only after the gate has passed."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 done, 1 error, 2 wrong use, 3 the gate refused.",
)

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="Folder of patient images.")]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Run folder: everything a study makes. Keep it inside the hospital."
    ),
]
Study = Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The study's YAML file.")]
Profile = Annotated[
    str | None,
    typer.Option(help="Use one of the protocol's profiles, for example 'full' for a GPU."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a knob, for example --set sample.images=500."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class Format(StrEnum):
    """Shapes of a release's images beside PNG files."""

    parquet = "parquet"
    webdataset = "webdataset"
    npz = "npz"
    dicom = "dicom"


def main() -> None:
    """Run the command line; the exit code says how it ended."""
    try:
        app(standalone_mode=True)
    except MedsynthError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("stopped; the same command goes on from here")
        sys.exit(1)


def _complain(message: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    else:
        print(f"medsynth: {message}", file=sys.stderr)


def _say(result: dict[str, Any], as_json: bool, *lines: str) -> None:
    """Print a result: as JSON for programs, as sentences for people; once for all processes."""
    from .runtime import writes

    if writes():
        print(json.dumps(result, indent=2, ensure_ascii=False) if as_json else "\n".join(lines))


@contextmanager
def _progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """Show one bar a stage with the time left; on a terminal a live one, else a line a stage."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from .runtime import ranks

    if quiet or ranks()[0] > 0:
        yield lambda what, share: None
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    # One step of a long search may take minutes: a shorter memory would know no time left.
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=600) as live:

        def report(what: str, share: float) -> None:
            if what not in bars:
                bars[what] = live.add_task(what, total=1.0)
            live.update(bars[what], completed=share)

        yield report


def _parse_changes(changes: list[str] | None) -> dict[str, Any]:
    from ruamel.yaml import YAML

    parsed = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise ProtocolError("--set", [f"expected KEY=VALUE, got {change!r}"])
        parsed[key] = YAML(typ="safe").load(value)
    return parsed


def _load(path: Path, profile: str | None, changes: list[str] | None):
    from . import protocol

    return protocol.load(path, profile=profile, changes=_parse_changes(changes))


# The whole way ----------------------------------------------------------------------------------


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
    from . import pipeline

    with _progress(json_) as progress:
        opened, verdict = pipeline.demo(run, memorize=memorize, progress=progress)
    _end(opened, verdict, json_)


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
    json_: AsJson = False,
) -> None:
    """Do all stages, from raw images to the gate and the release; again = go on."""
    from . import pipeline

    study = _load(protocol, profile, set_)
    if halves:
        with _progress(json_) as progress:
            done = pipeline.run_halves(study, raw, run, progress)
        return _end_halves(done, json_)
    opened = pipeline.start(study, run)
    with _progress(json_) as progress:
        verdict = pipeline.run_all(opened, raw, progress)
    _end(opened, verdict, json_)


def _end(run: Any, verdict: Any, as_json: bool) -> None:
    """Say what the gate said and where to look; exit 3 unless it passed."""
    result, lines = _outcome(run, verdict)
    _say(result, as_json, *lines)
    _exit(verdict.passed)


def _exit(passed: bool) -> None:
    """Exit 3 where the gate did not pass; of several processes only the first, which has said why:
    torchrun ends all of them as soon as one does."""
    from .runtime import writes

    if writes() and not passed:
        raise typer.Exit(3)


def _end_halves(done: dict[str, tuple[Any, Any]], as_json: bool) -> None:
    """Say what the gate said of both halves; exit 3 unless both passed."""
    said = {half: _outcome(run, verdict) for half, (run, verdict) in done.items()}
    lines = [line for half, (_, told) in said.items() for line in (f"The {half} half:", *told)]
    _say({half: result for half, (result, _) in said.items()}, as_json, *lines)
    _exit(all(verdict.passed for _, verdict in done.values()))


def _outcome(run: Any, verdict: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what the gate said of a run: for programs, and in lines for people."""
    report, release = run.folder / "report.html", run.folder / "release"
    result = {
        "outcome": verdict.outcome,
        "reasons": verdict.reasons,
        "report": str(report),
        "release": str(release) if verdict.passed else None,
    }
    lines = [f"The gate {_WORDS[verdict.outcome]}.", *(f"  - {r}" for r in verdict.reasons)]
    if verdict.passed:
        lines.append(f"What may be shared: {release}")
    return result, [*lines, f"Report to open:     {report}"]


_WORDS = {
    "passed": "passed",
    "refused": "refused",
    "inconclusive": "could not tell, and so stays shut",
}


# Before the start -------------------------------------------------------------------------------


@app.command()
def init(
    raw: Raw,
    output: Annotated[Path, typer.Option("-o", "--output", help="Protocol to write.")] = Path(
        "protocol.yaml"
    ),
    json_: AsJson = False,
) -> None:
    """Look at a folder of images and write a protocol to edit."""
    from . import pipeline

    seen = pipeline.init(raw, output)
    _say(
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
    from . import pipeline

    study = _load(protocol, None, None) if protocol else None
    with _progress(json_) as progress:
        done = pipeline.deidentify(raw, out, study, key=key, progress=progress)
    _say(vars(done), json_, done.summary)


@app.command("protocol")
def protocol_command(
    file: Study, profile: Profile = None, set_: Changes = None, json_: AsJson = False
) -> None:
    """Check a protocol and print it with all defaults filled in, and its digest."""
    from . import protocol

    study = _load(file, profile, set_)
    _say(
        {"digest": study.digest, "protocol": study.to_dict()},
        json_,
        f"# digest: {study.digest}",
        protocol.to_yaml(study).rstrip(),
    )


# Images of another make -------------------------------------------------------------------------


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
    from . import pipeline
    from .runtime import writes

    folders = pipeline.Folders(train, holdout, synthetic, patients)
    weights = {"lens.weights": str(lens)} if lens else {}
    pin = {"lens.sha256": sha256} if sha256 else {}
    study, guesses = pipeline.draft_audit(
        folders,
        size_px=size,
        domain=domain,
        rules=rules,
        changes={**weights, **pin, **_parse_changes(set_)},
    )
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if writes() and not json_:
            print(sentence)

    for sentence in (*guesses, *pipeline.tell_audit(study)):
        say(sentence)
    with _progress(json_) as progress:
        run, verdict = pipeline.audit(folders, out, study, say=say, progress=progress)
    result = {
        "outcome": verdict.outcome,
        "reasons": verdict.reasons,
        "said": said,
        "report": str(run.folder / "report.html"),
        "findings": str(run.folder / "evidence" / "findings.jsonl"),
    }
    _say(
        result,
        json_,
        f"The gate {_WORDS[verdict.outcome]}.",
        *(f"  - {reason}" for reason in verdict.reasons),
        f"Report to open:     {run.folder / 'report.html'}",
        f"{run.folder} holds patients' images and the key to their pseudonyms: keep it inside.",
    )
    _exit(verdict.passed)


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
    from . import pipeline
    from .runtime import without_nan, writes

    asked = pipeline.Asked(autoencoder, images, against, patients)
    study, guesses = pipeline.draft_fidelity(
        asked, size_px=size, domain=domain, changes=_parse_changes(set_)
    )
    said: list[str] = []

    def say(sentence: str) -> None:
        said.append(sentence)
        if writes() and not json_:
            print(sentence)

    for sentence in guesses:
        say(sentence)
    with _progress(json_) as progress:
        answer = pipeline.fidelity(asked, out, study, say=say, progress=progress)
    for sentence in answer.said:
        say(sentence)
    result = {
        "said": said,
        "findings": [without_nan(item.to_dict()) for item in answer.findings.values()],
        "better": [without_nan(item.to_dict()) for item in answer.better.values()],
        "report": str(answer.report),
    }
    last = (f"Report to open:     {answer.report}", f"{out} shows patients: keep it inside.")
    if not json_ and writes():
        _print_findings(answer.findings)
    _say(result, json_, *last)


# Control -----------------------------------------------------------------------------------------

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
    from . import pipeline

    kinds = [one.value for one in kind or ()] or ["canny"]
    with _progress(json_) as progress:
        count = pipeline.extract_controls(
            images, out, kinds, domain=domain, size_px=size, nobody=nobody, progress=progress
        )
    whose = "nobody's, as you say" if nobody else "patients': what is drawn from them stays inside"
    _say({"images": count, "kinds": kinds}, json_, f"Maps of {count} images, {whose}: {out}")


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
    from . import pipeline

    opened = pipeline.open_run(run)
    kinds = tuple(one.value for one in kind or ())
    study = pipeline.with_control(opened.protocol, kinds, _parse_changes(set_))
    if (masks is None) != (images is None):
        raise DataError("--masks and --images come together: masks have the images' names")
    given = None if masks is None else pipeline.Masks(masks, images)
    called = name or "_".join(study.control.kinds)
    with _progress(json_) as progress:
        found = pipeline.fit_control(
            pipeline.Run(run, study), called, masks=given, progress=progress
        )
    _end_control(called, found, json_)


def _end_control(name: str, found: list[Any], as_json: bool) -> None:
    """Say how well a control is obeyed; exit 3 where one of its kinds is ignored."""
    from .runtime import without_nan
    from .validation.obedience import ignored

    faults = ignored(found)
    lines = [
        f"{item.name}: {item.value:.3g} ({item.low:.3g} to {item.high:.3g}) {item.unit}"
        for item in found
    ]
    said = faults or [f"The control {name} is obeyed: its interval lies clear of chance."]
    result = {"control": name, "ignored": faults, "findings": [item.to_dict() for item in found]}
    _say(without_nan(result), as_json, *lines, *said)
    _exit(not faults)


@control.command("sample")
def control_sample(
    run: RunFolder,
    name: Name,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the images.")],
    control: Annotated[Path, typer.Option(help="Folder of maps, as `control extract` writes it.")],
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What all images show.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Draw one image a map; images under patients' maps are derived and never released."""
    from . import pipeline

    labels = dict(_labels(label))
    with _progress(json_) as progress:
        cohort = pipeline.sample_controlled(
            pipeline.open_run(run), name, control, out, labels=labels, progress=progress
        )
    origin = cohort.records[0].origin
    inside = "" if origin == "synthetic" else ": patients' maps, so they stay inside"
    _say(
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


# Concepts and variations ------------------------------------------------------------------------

concept = typer.Typer(
    help="Teach a finished run's denoiser a concept from a few images (textual inversion).",
    no_args_is_help=True,
)
app.add_typer(concept, name="concept")
ConceptName = Annotated[str, typer.Argument(metavar="NAME", help="The concept's name.")]


def _with(run: Any, section: str, changes: dict[str, Any]) -> Any:
    """Return an opened run whose optional section is filled in and changed."""
    from . import pipeline

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
    from . import pipeline

    changes = _parse_changes(set_) | ({"concept.vectors": vectors} if vectors else {})
    opened = _with(pipeline.open_run(run), "concept", changes)
    with _progress(json_) as progress:
        said = pipeline.learn_concept(opened, images, name, start=start, progress=progress)
    _say(said, json_, *pipeline.tell_concept(said))


@concept.command("list")
def concept_list(run: RunFolder, json_: AsJson = False) -> None:
    """List the concepts of a run."""
    from . import pipeline

    found = pipeline.list_concepts(pipeline.open_run(run))
    lines = [line for said in found for line in pipeline.tell_concept(said)]
    _say({"concepts": found}, json_, *(lines or ["This run has no concepts."]))


@concept.command("remove")
def concept_remove(run: RunFolder, name: ConceptName, json_: AsJson = False) -> None:
    """Delete a concept; images that were drawn with it are left where they are."""
    from . import pipeline

    pipeline.remove_concept(pipeline.open_run(run), name)
    _say({"removed": name}, json_, f"Removed {name}.")


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
    from . import pipeline

    labels = {str(key): str(value) for key, value in _parse_changes(label).items()}
    with _progress(json_) as progress:
        pipeline.sample_concept(
            pipeline.open_run(run), name, out,
            images=images, labels=labels, guidance=guidance, progress=progress,
        )  # fmt: skip
    _say(
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
    from . import pipeline

    changes = _parse_changes(set_)
    changes |= {"augment.strengths": _numbers(strengths)} if strengths else {}
    changes |= {"augment.children": children} if children else {}
    opened = _with(pipeline.open_run(run), "augment", changes)
    given = None if masks is None else pipeline.ChildMasks(masks, inside=not outside)
    with _progress(json_) as progress:
        found = pipeline.augment(opened, concept=concept, masks=given, progress=progress)
    result = {"derived": str(run / "derived"), "findings": [item.to_dict() for item in found]}
    _say(
        result, json_, *pipeline.tell_children(found), f"Children, to be kept inside: {run}/derived"
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise DataError(f"--strengths: expected numbers from 0 to 1, got {text!r}") from None


# Stage by stage ---------------------------------------------------------------------------------


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
    from . import pipeline

    opened = pipeline.start(_load(protocol, profile, set_), run)
    with _progress(json_) as progress:
        pipeline.ingest(opened, raw, progress)
    _say(pipeline.facts(opened, "intake/intake.json"), json_, *pipeline.tell_intake(opened))


@app.command()
def split(run: RunFolder, json_: AsJson = False) -> None:
    """Divide the patients at random into train, validation and holdout."""
    from . import pipeline

    opened = pipeline.open_run(run)
    pipeline.split(opened)
    said = pipeline.facts(opened, "split/split.json")
    _say(said, json_, *pipeline.tell_split(opened))


@app.command()
def fit(run: RunFolder, json_: AsJson = False) -> None:
    """Train the lens, the autoencoder and the denoiser. For more GPUs: torchrun -m medsynth fit."""
    from . import pipeline

    with _progress(json_) as progress:
        pipeline.fit(pipeline.open_run(run), progress)
    _say({"run": str(run)}, json_, "Trained. Curves and pictures: medsynth report shows them.")


@app.command()
def sample(run: RunFolder, json_: AsJson = False) -> None:
    """Draw the synthetic cohort with DDIM."""
    from . import pipeline

    opened = pipeline.open_run(run)
    with _progress(json_) as progress:
        pipeline.sample(opened, progress)
    count = opened.protocol.sample.images
    _say({"images": count}, json_, f"{count} synthetic images in {run / 'synthetic'}")


@app.command()
def validate(run: RunFolder, json_: AsJson = False) -> None:
    """Measure fidelity and leakage into evidence/findings.jsonl."""
    from . import pipeline

    opened = pipeline.open_run(run)
    with _progress(json_) as progress:
        pipeline.validate(opened, progress)
    _show_findings(opened, json_)


@app.command()
def findings(run: RunFolder, json_: AsJson = False) -> None:
    """Print all findings of a run with intervals, references and methods."""
    from . import pipeline

    _show_findings(pipeline.open_run(run), json_)


def _show_findings(run: Any, as_json: bool) -> None:
    from . import pipeline
    from .runtime import ranks, without_nan

    if ranks()[0] > 0:
        return
    found = pipeline.findings_of(run)
    if as_json:
        print(json.dumps([without_nan(item.to_dict()) for item in found.values()], indent=2))
        return
    _print_findings(found)


def _print_findings(found: Mapping[str, Any]) -> None:
    """Print findings as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("finding", "value", "95 % interval", "n", "reference", "unit", box=None)
    table.columns[0].no_wrap = True
    for item in found.values():
        reference = "" if item.reference is None else f"{item.reference:.4g}"
        table.add_row(
            item.name, f"{item.value:.4g}", f"{item.low:.4g} to {item.high:.4g}",
            str(item.n), reference, item.unit,
        )  # fmt: skip
    console = Console()
    console.print(table)
    for words in sorted({item.reference_is for item in found.values() if item.reference_is}):
        families = sorted({i.name.split(".")[0] for i in found.values() if i.reference_is == words})
        console.print(f"reference of {', '.join(families)}: {words}")
    console.print("How each was measured: --json, or docs/measures.md")


@app.command()
def decide(run: RunFolder, json_: AsJson = False) -> None:
    """Hold the findings against the protocol's rules; exit 3 where the gate refuses."""
    from . import pipeline

    opened = pipeline.open_run(run)
    verdict = pipeline.decide(opened)
    pipeline.report(opened)
    _end(opened, verdict, json_)


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
    json_: AsJson = False,
) -> None:
    """Write RUN/release, the one door out; refuses what the gate did not pass as it stands."""
    from . import pipeline

    also = [chosen.value for chosen in format_ or ()]
    folder = pipeline.release(pipeline.open_run(run), also=also)
    _say(
        {"release": str(folder)},
        json_,
        f"Released: {folder}",
        f"Whoever gets it can check it with: medsynth verify {folder.name}",
    )


@app.command()
def report(run: RunFolder, json_: AsJson = False) -> None:
    """Write RUN/report.html from what the run has so far. It shows patients: keep it inside."""
    from . import pipeline

    path = pipeline.report(pipeline.open_run(run))
    _say({"report": str(path)}, json_, f"Report to open: {path}")


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="A released folder.")],
    json_: AsJson = False,
) -> None:
    """Check a release anywhere: every byte, the marks and the verdict. Needs no torch."""
    from .release.verify import verify as check

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
    _say(result, json_, *(good if found.ok else found.faults))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def doctor(
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

    The plan builds the networks and takes a few steps of each on made-up patients: minutes.
    """
    if plan is not None:
        return _foretell(_load(plan, profile, set_), images, json_)
    from . import doctor as machine

    found = machine.examine()
    width = max(map(len, found))
    _say(found, json_, *(f"{name:<{width}} {value}" for name, value in found.items()))


def _foretell(study: Any, images: int, as_json: bool) -> None:
    from . import pipeline

    with _progress(as_json) as progress:
        costs = pipeline.foretell(study, images=images, progress=progress)
    result = {
        "seconds": sum(cost.seconds for cost in costs),
        "memory_gib": max(cost.memory_gib for cost in costs),
        "stages": [vars(cost) for cost in costs],
    }
    _say(result, as_json, *pipeline.tell_forecast(costs))


if __name__ == "__main__":
    main()
