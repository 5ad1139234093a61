"""How well any autoencoder keeps anyone's images: a plain folder in, numbers, pictures, a page out.

    AUTOENCODER, IMAGES -> images/ -> evidence/ -> report.html

Both folders are stages as those of a run are: the same command again does what is new. All of it
stays inside the hospital.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import protocol
from ..cohort import Cohort, csv_line
from ..errors import DataError, StageError
from ..finding import Finding, read_findings, write_findings
from ..ownership import holds_something
from ..protocol import Protocol, set_knobs
from ..runtime import (
    SCRATCH_FOLDERS,
    VOLATILE,
    StageRecord,
    choose_device,
    derive_seed,
    digest_file,
    digest_files,
    digest_json,
    read_json,
    run_stage,
    wait_for_everyone,
    write_json,
    write_text,
    writes,
)
from .audit_study import SMALLEST_PX, STEP_PX
from .evidence import check_one_process, teacher
from .fidelity_pictures import draw_pictures
from .run import Progress, Run, silent
from .segmented import fit_segmenters, say_lost

if TYPE_CHECKING:
    from ..validation.keeping import Reconstruct, Subject

READING = ("domain", "image", "data", "slides", "deidentify", "seed")
MEASURED = ("domain", "validate", "seed")
USUAL_PX = 256
FEWEST = 10  # images
SIDES = ("autoencoder", "against")


@dataclass(frozen=True)
class Asked:
    """What is asked: an autoencoder, perhaps another to hold it against, and a folder of images,
    perhaps with a table of their patients, and with a folder of masks of the same names."""

    autoencoder: Path
    images: Path
    against: Path | None = None
    patients: Path | None = None
    masks: Path | None = None

    @property
    def sides(self) -> dict[str, Path]:
        """The autoencoders by their role."""
        both = (self.autoencoder, self.against)
        return {name: path for name, path in zip(SIDES, both, strict=True) if path is not None}

    @property
    def names(self) -> dict[str, str]:
        """What the autoencoders are called: their folders, told apart where those are alike."""
        names = {side: path.resolve().name for side, path in self.sides.items()}
        if len(set(names.values())) < len(names):
            return {
                side: f"{path.resolve().parent.name}/{path.resolve().name}"
                for side, path in self.sides.items()
            }
        return names


def draft_fidelity(
    asked: Asked,
    *,
    size_px: int | None = None,
    domain: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> tuple[Protocol, list[str]]:
    """Return the protocol of a look at an autoencoder, and what was guessed, in sentences.

    The size is that of the autoencoder's run where it is one of medsynth's, else 256 px, and never
    more than the images have. Labels are the columns that look like labels. Raises DataError where
    there is no folder of images, ProtocolError where a knob is wrong.
    """
    from ..data.survey import survey

    if not asked.images.is_dir():
        raise DataError(f"expected a folder of images, {asked.images.name} is none")
    wanted, said = dict(changes or {}), []
    seen = survey(asked.images)
    if domain is not None or "domain" not in wanted:
        wanted["domain"] = domain or seen.domain
    if domain is None and "domain" not in (changes or {}):
        said.append(f"A guess, for {seen.domain_because}: {seen.domain}. --domain says otherwise.")
    if "data.label_columns" not in wanted and seen.found.labels:
        wanted["data.label_columns"] = list(seen.found.labels)
        said.append(f"Labels: {', '.join(seen.found.labels)} (--set data.label_columns=[...]).")
    if "image.size_px" not in wanted:
        short_px = max(SMALLEST_PX, seen.look.short_px)
        tile_px = wanted.get("image.tile_px") or short_px
        usual = size_px or _size_of_run(asked.autoencoder) or USUAL_PX
        wanted["image.size_px"] = min(usual, tile_px // STEP_PX * STEP_PX)
        size = wanted["image.size_px"]
        said.append(f"Images of {short_px} px (median) are brought to {size} px (--size).")
    return protocol.load(protocol.shipped("audit"), changes=wanted), said


def _size_of_run(autoencoder: Path) -> int | None:
    """Return the size of the images of the run that an autoencoder belongs to, if any."""
    from ruamel.yaml import YAML

    for folder in (autoencoder, autoencoder.resolve().parent):
        path = folder / "protocol.yaml"
        if path.is_file() and (folder / "intake").is_dir():
            found = YAML(typ="safe").load(path.read_text())  # an older version's, perhaps
            return found.get("image", {}).get("size_px")
    return None


@dataclass(frozen=True)
class Answer:
    """What came out: findings by name, by how much the first autoencoder is better than the other
    (none where there is no other), sentences for people, and the page."""

    findings: Mapping[str, Finding]
    better: Mapping[str, Finding]
    said: tuple[str, ...]
    report: Path


def fidelity(
    asked: Asked,
    out: Path,
    study: Protocol,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = silent,
) -> Answer:
    """Measure what an autoencoder keeps of a folder's images; write findings, pictures, a page.

    Raises DataError where an autoencoder can't be opened or too few images can be read, and
    StageError where `out` holds something else.
    """
    for path in asked.sides.values():
        _opened(path)
    if asked.images.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError("--out lies in the folder of images: choose another, apart from it")
    if writes():
        _claim(out, study)
    wait_for_everyone()
    run = Run(out, study)
    _read(run, asked, say, progress)
    inputs = {"images": read_json(out / "images" / "stage.json")["digest"]}
    inputs |= {side: _digest(path) for side, path in asked.sides.items()}
    if asked.masks is not None:
        inputs["masks"] = digest_json(digest_files(asked.masks))
    run_stage(
        out / "evidence",
        lambda folder: _measure(run, asked, folder, progress),
        inputs=inputs,
        settings={name: set_knobs(study.section(name)) for name in MEASURED},
    )
    answer = _answer(run, asked)
    if writes():
        from .fidelity_pictures import write_page

        write_page(run, asked.names, answer.findings, answer.better, answer.said)
    wait_for_everyone()
    return answer


def _opened(path: Path):
    from ..models.foreign import open_foreign

    return open_foreign(path, device=choose_device())


def _digest(path: Path) -> str:
    from ..models.foreign import find

    if path.is_file():
        return digest_file(path)
    return digest_json(digest_files(find(path), skip=(*VOLATILE, *SCRATCH_FOLDERS)))


def _claim(out: Path, study: Protocol) -> None:
    if holds_something(out) and not (out / "fidelity.yaml").exists():
        raise StageError(f"{out.name}/ holds something else already: choose another --out")
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(out / "fidelity.yaml", protocol.to_yaml(study))


def _read(run: Run, asked: Asked, say: Callable[[str], None], progress: Progress) -> StageRecord:
    from ..data import deidentify, intake
    from ..data.account import Intake
    from ..data.original import look_over
    from ..data.plain import list_plain, read_patients

    known: dict[str, str] = {}
    if asked.patients is not None:
        known = read_patients(asked.patients, {"images": asked.images})["images"]
    raw = asked.images

    def build(workspace: Path) -> None:
        intake.ingest(
            raw,
            workspace,
            run.protocol,
            deidentify.read_or_make_secret(run.folder / "site.key"),
            progress=lambda done, total: progress("images", done / max(1, total)),
            earlier=run.folder / "images",
            listing=list_plain(raw, run.protocol.data, patients=known),
        )

    record = run_stage(
        run.folder / "images",
        build,
        inputs={"raw": look_over(raw), "patients": digest_json(known)},
        settings={name: set_knobs(run.protocol.section(name)) for name in READING},
    )
    say(Intake(**read_json(run.folder / "images" / "intake.json")).summary)
    return record


def _measure(run: Run, asked: Asked, folder: Path, progress: Progress) -> None:
    """Score both autoencoders and the half-size reference on the same images."""
    from ..validation import keeping

    subject = _subject(run, asked, folder, progress)
    reference = keeping.look(subject, keeping.halved, what="half size")
    scores, coders = {}, {side: _coder(path) for side, path in asked.sides.items()}
    for side, (_, apply) in coders.items():
        scores[side] = keeping.look(subject, apply, what=side)
        name = "findings.jsonl" if side == "autoencoder" else f"findings_{side}.jsonl"
        write_findings(folder / name, keeping.to_findings(subject, scores[side], reference))
        _write_table(folder / f"images_{side}.csv", subject.cohort, scores[side])
        draw_pictures(folder, side, subject, apply, scores[side])
    compared = keeping.better(subject, *scores.values()) if len(scores) == 2 else []
    write_findings(folder / "better.jsonl", compared)
    write_json(
        folder / "facts.json",
        {
            "kinds": {side: kind for side, (kind, _) in coders.items()},
            "images": len(subject.cohort),
            "patients": int(subject.cohort.patients.max()) + 1,
            "size_px": subject.cohort.size_px,
            "not_measured": keeping.not_measured(subject),
        },
    )


def _subject(run: Run, asked: Asked, folder: Path, progress: Progress) -> Subject:
    """Return at most validate.fidelity_images images, drawn at random, with their classifiers and,
    where there are masks, their segmenters."""
    from ..validation import agreement, keeping

    cohort = Cohort.read(run.folder / "images")
    most = run.protocol.validate_.fidelity_images
    if len(cohort) < FEWEST:
        raise DataError(f"expected at least {FEWEST} images that can be read, got {len(cohort)}")
    seed = run.protocol.seed
    if len(cohort) > most:
        order = np.random.default_rng(derive_seed(seed, "chosen")).permutation(len(cohort))
        cohort = cohort.take(np.sort(order[:most]))
    names = agreement.attributes(cohort)
    if names or asked.masks is not None:
        check_one_process("medsynth fidelity, where there are labels or masks,")
    segmenter = None
    if asked.masks is not None:
        scratch = folder / "state"
        segmenter = fit_segmenters(run, cohort, asked.images, asked.masks, scratch, progress)
    judges = [
        agreement.train_judge(
            cohort,
            name,
            teach=teacher(run),
            seed=seed,
            progress=lambda share, n=name: progress(f"classifier: {n}", share),
        )
        for name in names
    ]
    settings = run.protocol.validate_
    return keeping.Subject(cohort, settings, seed, tuple(judges), progress, segmenter)


def _coder(path: Path) -> tuple[str, Reconstruct]:
    import torch

    opened, device = _opened(path), choose_device()

    def apply(images: np.ndarray) -> np.ndarray:
        return opened.reconstruct(torch.from_numpy(images).to(device)).cpu().numpy()

    return opened.kind, apply


def _write_table(path: Path, cohort: Cohort, scores: Mapping[str, np.ndarray]) -> None:
    """Write one line an image: it stays inside, as all else here."""
    rows = [("image", *scores)]
    for i, record in enumerate(cohort.records):
        rows.append((record.id, *(f"{values[i]:.6g}" for values in scores.values())))
    write_text(path, "".join(map(csv_line, rows)))


def _answer(run: Run, asked: Asked) -> Answer:
    from ..validation import keeping

    folder, names = run.folder / "evidence", asked.names
    facts = read_json(folder / "facts.json")
    better = read_findings(folder / "better.jsonl")
    said = [f"{names[side]}: {kind}." for side, kind in facts["kinds"].items()]
    said.append(
        f"{facts['images']:,} images of {facts['patients']:,} patients at {facts['size_px']} px."
    )
    if better:
        first = better.get(f"better.{keeping.PRIMARY}")
        said.append(keeping.say_better(first, names["autoencoder"], names["against"]))
        clear = [sum(one.low > 0 for one in better.values())]
        clear.append(sum(one.high < 0 for one in better.values()))
        said.append(
            f"Of {len(better)} numbers {names['autoencoder']} is clearly better in {clear[0]}, "
            f"{names['against']} in {clear[1]}; where they are alike, one in twenty is by chance."
        )
    findings = read_findings(folder / "findings.jsonl")
    said += [
        say_lost(finding) for finding in findings.values() if keeping.LOST.fullmatch(finding.name)
    ]
    said += facts["not_measured"]
    return Answer(findings, better, tuple(said), run.folder / "report.html")
