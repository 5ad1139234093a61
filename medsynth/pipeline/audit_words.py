"""What an audit says of the three folders: sentences, findings, and what a pass may claim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..finding import Finding
from .audit_overlap import Sides
from .run import Run

BY_CHANCE = (
    "The p-value is exact only if training and held-out patients were divided at random, by "
    "patient, before anything was trained, and if no held-out image met the generator in any way, "
    "the choice of a checkpoint included. An audit is handed folders and can't know that"
)
UNKNOWN_PERSONS = (
    " Where patients are not known, several images of one person on one side do the same: name the "
    "patients (--patients) and audit again."
)
COUNTS = {
    "holdout_in_train": (
        "held-out images",
        "show the same picture as a training image and were taken out, with all of their patients' "
        "images",
    ),
    "synthetic_in_train": ("synthetic images", "show the same picture as a training image"),
    "synthetic_in_holdout": ("synthetic images", "show the same picture as a held-out image"),
}


def overlap_sentences(facts: Mapping[str, Any]) -> list[str]:
    """Say what the folders have in common, what voids the comparison first."""
    said = dict(_sentences(facts))
    return [*said.values()] or ["No picture and no known patient is in two of the three folders."]


def _sentences(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (count's name, sentence) for every count that is not 0."""
    before = facts["images"]
    if shared := facts["patients_on_both_sides"]:
        yield (
            "patients_on_both_sides",
            f"{shared} patients have images in both the training and the held-out folder.",
        )
    if sum((held := facts["holdout_in_train"]).values()):
        yield (
            "holdout_in_train",
            f"{_both(held)} of {before['holdout']} held-out images show the same picture as a "
            f"training image, so they were not held out: what there is of these "
            f"{facts['holdout_patients_taken_out']} patients, {len(facts['taken_out'])} images, is "
            f"left out of the comparison.",
        )
    if sum((known := facts["synthetic_in_holdout"]).values()):
        yield (
            "synthetic_in_holdout",
            f"{_both(known)} of {before['synthetic']} synthetic images show the same picture as a "
            f"held-out image: the generator has seen it, or the folders were mixed up, and then "
            f"nothing was held out.",
        )
    if sum((copies := facts["synthetic_in_train"]).values()):
        yield (
            "synthetic_in_train",
            f"{_both(copies)} of {before['synthetic']} synthetic images show the same picture as "
            f"a training image: these are copies.",
        )


def quarantine_sentences(findings: Mapping[str, Finding]) -> list[str]:
    """Say how many synthetic images must not be shared, and where they are named."""
    share = findings["memorization.quarantined"]
    taken = round(share.value * share.n)
    if not taken:
        return []
    return [
        f"{taken} of {share.n} synthetic images are nearer to one training patient than innocent "
        f"images are: whatever the verdict, don't share them. They are named in "
        f"evidence/private/quarantined_files.csv."
    ]


def _both(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())} ({counts['exact']} exactly, {counts['near']} nearly)"


def count_findings(facts: Mapping[str, Any]) -> Iterable[Finding]:
    """Return the counts of shared pictures as findings; their ends are the counts themselves."""
    for name, (unit, words) in COUNTS.items():
        count = float(sum(facts[name].values()))
        total = facts["images"][name.split("_")[0]]
        method = (
            f"{words}: {facts[name]['exact']} the same pixels in some turn or mirror image, "
            f"{facts[name]['near']} nearly (correlation of the detail at 32 px); a count, so both "
            f"ends are the value"
        )
        yield Finding(f"audit.{name}", count, count, count, total, unit, "lower is better", method)


def claim(run: Run, sides: Sides, facts: Mapping[str, Any], split_auc: Finding) -> tuple[str, ...]:
    """Return in sentences what a pass of an audit means and what it does not."""
    from ..release import gate

    said = describe(sides)
    division = _division(split_auc, known=said["patients_known"])
    known = dict(_sentences(facts))
    told = [known[name] for name in ("holdout_in_train", "synthetic_in_holdout") if name in known]
    caveats = [*said["caveats"], division, *told]
    return gate.claims({**said, "caveats": caveats}, domain=run.protocol.domain)


def describe(sides: Sides) -> dict[str, Any]:
    """Return what split.json of a run would say of the two real sides."""
    from ..data import split

    return split.describe(sides.real, sides.parts)


def _division(auc: Finding, *, known: bool) -> str:
    """Say whether the p-value may be trusted, as far as a classifier can tell."""
    if not auc.is_number:
        return f"{BY_CHANCE}, and here are too few patients to look."
    numbers = f"area under the curve {auc.value:.2f}, {auc.low:.2f} to {auc.high:.2f}"
    if auc.low > 0.5:
        return (
            f"{BY_CHANCE}. Here a classifier tells training from held-out patients ({numbers}): "
            f"they were not divided by chance, and the p-value is not to be trusted."
            + ("" if known else UNKNOWN_PERSONS)
        )
    return f"{BY_CHANCE}; but no classifier told the two apart ({numbers})."
