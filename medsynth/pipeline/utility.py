"""Of what use a run's images are, into RUN/utility: TSTR, TRTR, mixed, worth, the few-shot table.

What `validate` measured already is taken over; else it is measured here by the same trainings, and
comes out the same. Children are made of the few images that any training sees, and deleted when all
is done: they start from patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import protocol
from ..cohort import Cohort
from ..data.lessons import Show
from ..errors import DataError, ProtocolError
from ..finding import Finding, read_findings, write_findings
from ..protocol import set_knobs
from ..runtime import read_stage, run_stage
from .augment import make_children
from .evidence import check_one_process, remaining, segmenter, teacher
from .masks import open_known
from .run import Progress, Run, parts_of, silent

if TYPE_CHECKING:
    from ..validation.few_shot import StandIn
    from ..validation.schooling import School
    from ..validation.utility_masks import Segmenting

FEW_SHOT = "utility.few_shot."
SCORES = {"AUC": "utility.{}.auc", "balanced accuracy": "utility.{}.balanced_accuracy"}
LEARNED_FROM = {"trtr": "real images", "tstr": "synthetic images", "mixed": "both"}
CHANGEABLE = ("validate.utility.", "augment.")


def utility(
    run: Run, *, changes: Mapping[str, Any] | None = None, progress: Progress = silent
) -> list[Finding]:
    """Measure of what use a validated run's images are; again = go on.

    `changes` are knobs of validate.utility and augment, in place of the protocol's. Raises
    DataError where no label can be learned, StageError where several processes run.
    """
    study = _changed(run.protocol, changes or {})
    settings = study.validate_.utility or protocol.Utility()
    varied = study.augment or protocol.Augment()
    check_one_process("medsynth utility")
    run_stage(
        run.folder / "utility",
        lambda folder: _measure(run, folder, settings, varied, progress),
        inputs=run.inputs("utility"),
        settings={
            "utility": set_knobs(settings.model_dump(mode="json")),
            "augment": set_knobs(varied.model_dump(mode="json")),
            "sample": set_knobs(run.protocol.section("sample")),
            "intervals": {
                name: run.protocol.section("validate")[name] for name in ("bootstrap", "subgroups")
            },
            "seed": run.protocol.seed,
        },
    )
    return list(read_findings(run.folder / "utility" / "findings.jsonl").values())


def few_shots_of(run: Run) -> dict[str, Finding]:
    """Return the few-shot table's findings, for the page that stays inside; none where there is no
    table or it was made beside other evidence than there is now."""
    made, evidence = (read_stage(run.folder / name) for name in ("utility", "evidence"))
    if made is None or evidence is None or made.inputs["evidence"] != evidence.digest:
        return {}
    found = read_findings(run.folder / "utility" / "findings.jsonl")
    return {name: item for name, item in found.items() if name.startswith(FEW_SHOT)}


def _changed(study: protocol.Protocol, changes: Mapping[str, Any]) -> protocol.Protocol:
    others = [name for name in changes if not name.startswith(CHANGEABLE)]
    if others:
        said = " and ".join(f"{part}*" for part in CHANGEABLE)
        raise ProtocolError("--set", [f"{name}: only {said} here" for name in others])
    return protocol.parse(protocol.to_yaml(study), source="utility", changes=changes)


def _measure(
    run: Run,
    folder: Path,
    settings: protocol.Utility,
    varied: protocol.Augment,
    progress: Progress,
) -> None:
    from ..validation import few_shot, utility_masks
    from ..validation import utility as compared

    school = school_of(run, folder / "blocks" / "answers", settings, progress)
    if school.attribute is None and run.protocol.masks is None:
        raise DataError(
            "no label can be learned: expected an attribute of which training and held-out "
            "patients have two values or more, eight patients each, and synthetic images one"
        )
    if as_validated(run, settings):
        known = read_findings(run.folder / "evidence" / "findings.jsonl")
        found = [item for name, item in known.items() if name.startswith("utility.")]
    else:
        found = list(compared.compare(school))
        if run.protocol.masks is not None:
            found += utility_masks.compare(segmenting(run, school))
    if school.attribute is not None:
        stand_in = _children(run, folder / "blocks" / "children", school, varied, progress)
        found += few_shot.compare(school, stand_in)
    write_findings(folder / "findings.jsonl", found)


def as_validated(run: Run, settings: protocol.Utility) -> bool:
    """True where `validate` measured by these settings: few shots play no part in it."""
    before = run.protocol.validate_.utility
    few = {"shots": settings.shots, "alpha": settings.alpha}
    return before is not None and before.model_copy(update=few) == settings


def school_of(run: Run, folder: Path, settings: protocol.Utility, progress: Progress) -> School:
    """Return who learns what of a run, the answers kept in `folder`."""
    from ..validation.schooling import School

    cohort, parts = parts_of(run)
    folder.mkdir(parents=True, exist_ok=True)
    return School(
        settings=settings,
        train=cohort.take(parts["train"]),
        holdout=cohort.take(parts["holdout"]),
        synthetic=remaining(run),
        teach=teacher(run),
        folder=folder,
        seed=run.protocol.seed,
        draws=run.protocol.validate_.bootstrap,
        mirrored=run.domain.mirrored,
        subgroups=run.protocol.validate_.subgroups,
        progress=progress,
    )


def segmenting(run: Run, school: School) -> Segmenting:
    """Return who learns what of the run's images that have masks."""
    from ..validation.utility_masks import Segmenting

    known = open_known(run)
    return Segmenting(
        settings=school.settings,
        train=known.cohort("train"),
        holdout=known.cohort("holdout"),
        synthetic=school.synthetic,
        values=known.values,
        learn=segmenter(run),
        folder=school.folder,
        seed=school.seed,
        draws=school.draws,
        progress=school.progress,
    )


def _children(
    run: Run, folder: Path, school: School, varied: protocol.Augment, progress: Progress
) -> StandIn:
    """Make children of all images that any few-shot training sees; return what shows them in place
    of their parents."""
    from torch.utils.data import Subset

    from ..augmentation import TrainingImages, WithChildren
    from ..validation.few_shot import parents

    folder.mkdir(exist_ok=True)
    places = parts_of(run)[1]["train"][parents(school)]
    make_children(
        run, folder, places.tolist(), varied,
        progress=lambda what, share: progress("utility: children", share),
    )  # fmt: skip
    images, alpha = TrainingImages(run.folder), school.settings.alpha

    def stand_in(cohort: Cohort, chosen: np.ndarray, seed: int) -> Show:
        ids = [cohort.records[i].id for i in chosen]
        shown = WithChildren(Subset(images, chosen.tolist()), folder, alpha, ids=ids, seed=seed)

        def show(indices: np.ndarray, draws: np.ndarray) -> np.ndarray:
            rows = []
            for index, draw in zip(indices.tolist(), draws.tolist(), strict=True):
                shown.set_epoch(draw)
                rows.append(shown[index]["image"].numpy())
            return np.stack(rows)

        return show

    return stand_in


# In words -----------------------------------------------------------------------------------------


def tell_utility(findings: Sequence[Finding]) -> list[str]:
    """Say in lines what was found: tables, and what the images are worth."""
    known = {item.name: item for item in findings}
    lines = []
    if "utility.worth" in known:
        lines += _tell_scores(known, SCORES)
        lines += [*_tell_worth(known["utility.worth"]), ""]
    if "utility.segmentation.worth" in known:
        lines += _tell_scores(known, {"Dice overlap of masks": "utility.segmentation.{}.dice"})
        lines += [*_tell_worth(known["utility.segmentation.worth"]), ""]
    return [*lines, *_tell_few_shot(known)]


def _tell_scores(known: Mapping[str, Finding], columns: Mapping[str, str]) -> list[str]:
    lines = [f"{'learned from':<24}  " + "  ".join(f"{f'{name} (95 %)':<26}" for name in columns)]
    for kind, words in LEARNED_FROM.items():
        cells = (f"{_ends(known[form.format(kind)]):<26}" for form in columns.values())
        lines.append(f"{words:<24}  " + "  ".join(cells))
    return [line.rstrip() for line in lines]


def _ends(item: Finding) -> str:
    return f"{item.value:.3f} ({item.low:.3f} to {item.high:.3f})"


def _tell_worth(item: Finding) -> list[str]:
    made = f"{item.reference:,.0f} synthetic images"
    if "can't be told" in item.method:
        reason = item.method.partition("can't be told: ")[2].partition(";")[0]
        return [f"What {made} are worth can't be told: {reason}."]
    most = max(x for x, _ in item.curve)
    more = " or more: there are no more real ones" if item.high >= most else ""
    return [
        f"{made} teach as much as {item.value:,.0f} real ones "
        f"({item.low:,.0f} to {item.high:,.0f}{more})."
    ]


def _tell_few_shot(known: Mapping[str, Finding]) -> list[str]:
    from ..validation.few_shot import ARMS

    shots = sorted({int(n.split(".")[2]) for n in known if n.startswith(FEW_SHOT)})
    if not shots:
        return []
    lines = ["real images a class  " + "  ".join(f"{arm:<22}" for arm in ARMS).rstrip()]
    for count in shots:
        row = [_ends(known[f"utility.few_shot.{count}.{arm}"]) for arm in ARMS]
        lines.append(f"{count:>19}  " + "  ".join(f"{cell:<22}" for cell in row))
    gains = [
        f"{count} a class: {arm} {'helps' if gain.low > 0 else 'does harm'} "
        f"({gain.value:+.3f}, {gain.low:+.3f} to {gain.high:+.3f})"
        for count in shots
        for arm in ("classical", "children", "both")
        if (gain := known[f"utility.few_shot.{count}.{arm}_gain"]).low > 0 or gain.high < 0
    ]
    none = "No clear gain of any variation, at any number of images."
    return [*lines, "AUC (95 %). Clear differences (both: to classical, others: to plain):",
            *(gains or [none])]  # fmt: skip
