"""From a raw folder to patients divided: the stages `ingest` and `split`."""

from __future__ import annotations

from pathlib import Path

from ..cohort import Cohort
from ..errors import StageError
from ..runtime import StageRecord, write_json, write_text
from .run import Progress, Run, facts, silent


def ingest(run: Run, raw: Path, progress: Progress = silent) -> StageRecord:
    """Read the raw folder into intake/: a cohort, quarantine.csv, audit.csv and intake.json.

    Of a folder that changed since intake/ was made, only what is new or other is read.
    """
    from ..data import deidentify, intake
    from ..data.original import look_over
    from ..data.text import check_installed

    if not raw.is_dir():
        raise StageError(f"expected a folder of images, {raw.name} is none")
    check_installed(run.protocol.deidentify)

    def build(workspace: Path) -> None:
        secret = deidentify.read_or_make_secret(run.folder / "site.key")
        intake.ingest(
            raw,
            workspace,
            run.protocol,
            secret,
            progress=lambda done, total: progress("ingest", done / max(1, total)),
            earlier=run.folder / "intake",
        )

    return run.build("intake", build, inputs={"raw": look_over(raw)})


def split(run: Run, progress: Progress = silent) -> StageRecord:
    """Divide the patients at random into split/split.csv; split.json says what can be seen."""
    from ..data import split as splitting

    def build(workspace: Path) -> None:
        cohort = Cohort.read(run.folder / "intake")
        parts = splitting.split_patients(cohort, run.protocol.split, run.protocol.seed)
        rows = [f"{record.id},{part}\n" for record, part in zip(cohort.records, parts, strict=True)]
        write_text(workspace / "split.csv", "id,part\n" + "".join(rows))
        caveats = facts(run, "intake/intake.json").get("caveats", ())
        half = run.protocol.split.half
        said = splitting.describe(cohort, parts, caveats=caveats, half=half)
        write_json(workspace / "split.json", said)
        progress("split", 1.0)

    return run.build("split", build)


def tell_split(run: Run) -> list[str]:
    """Return in sentences what the division can see, what another would, and what may be claimed.

    One of the numbers of copies asked about is 1 % of the synthetic images.
    """
    from ..data import split as splitting

    said = facts(run, "split/split.json")
    patients = sum(part["patients"] for part in said["parts"].values())
    copies = sorted({*splitting.COPIES, max(1, round(0.01 * run.protocol.sample.images))})
    division = run.protocol.split
    if division.half is not None:
        return [said["foresight"]["sentence"], said["half"], said["claim"]]
    proposed = splitting.say_holdouts(patients, validation=division.validation, copies=copies)
    halves = splitting.say_halves(patients, validation=division.validation)
    return [said["foresight"]["sentence"], proposed, halves, said["claim"]]
