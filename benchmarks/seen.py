"""What the search sees of copies, space by space, and of copied regions, where the truth is known.

    python benchmarks/seen.py --out RESULTS [--domain chest_xray nih64 ...] [--data DIR] [--quick]

The worlds, the lens and the searches are those of benchmarks/gate.py, whose RESULTS are used where
they are there. Prints Markdown tables; writes RESULTS/NAME/seen.json, and does not measure again
what has one.

Spaces: the share of planted copies that each finds by itself, at the share of held-out images that
`validate.false_alarms` lets pass. Regions: the share of regions of training images, planted in
held-out ones, that are found and lead to the very patient, by size; and how often the test on
regions alarms over random divisions of the patients, for fresh patients' images, which hold none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from gate import LEVELS, PERMUTATIONS, kind_of, share, study
from gate_worlds import Effort, Looked, World, look_up, measured, world

from medsynth.validation import copied_regions, planted_regions, trust
from medsynth.validation.attribution import attribution_test, rank

IMAGES = 200  # synthetic and held-out ones that are searched for regions


def main() -> None:
    """Measure what the command line asks for, and print all that RESULTS holds."""
    found = measured(__doc__, measure, "{}/seen.json")
    print("\n".join((*space_table(found), *region_table(found))))


def measure(name: str, data: Path | None, effort: Effort, folder: Path) -> dict:
    """Return what is seen in one world; counts are [hits, n]."""
    seen = world(name, data, effort)
    looked = look_up(seen, folder, effort)
    return {"patients": seen.patients, "spaces": spaces(seen, looked), **regions(seen, looked)}


def spaces(seen: World, looked: Looked) -> dict[str, list[int]]:
    """Return for each space the planted copies that it finds by itself, in the first division."""
    case, attack = study(seen, looked, "null", 0)
    found = {}
    for space in attack.holdout.spaces:
        counts = trust.own_recall(attack, space, case.settings.false_alarms).values()
        found[space] = np.sum(list(counts), axis=0).tolist()
    return found


def regions(seen: World, looked: Looked) -> dict:
    """Return the planted regions that are found, by size, and the alarms at each level."""
    case, _ = study(seen, looked, "null", 0)
    found = copied_regions.search(case, IMAGES)
    rng, p = np.random.default_rng(0), []
    for _ in range(Effort.studies):
        some = rng.permutation(len(found.chosen))[: len(found.chosen) // 2]
        ranking = rank(found.synthetic.patient[some], found.synthetic.score[some], rng)
        is_train = rng.permutation(found.trained)
        p.append(attribution_test([ranking], is_train, PERMUTATIONS, rng))
    return {
        "threshold_rate": found.rate,
        "regions": {size: list(counts) for size, counts in found.recalls.items()},
        "alarms": {str(x): [int((np.array(p) < x).sum()), len(p)] for x in LEVELS},
    }


def space_table(found: Mapping[str, dict]) -> Iterable[str]:
    """Yield the lines of the table of spaces."""
    names = list(dict.fromkeys(space for each in found.values() for space in each["spaces"]))
    yield "\nShare of planted copies that a space finds by itself\n"
    yield "| images | " + " | ".join(names) + " |\n|---|" + "---|" * len(names)
    for name, each in found.items():
        shares = [share(*each["spaces"][space]) for space in names]
        yield f"| {kind_of(name)} | {' | '.join(shares)} |"


def region_table(found: Mapping[str, dict]) -> Iterable[str]:
    """Yield the lines of the table of regions."""
    sizes = {size: f"{side:.2g} of the side" for size, side in planted_regions.SIDES.items()}
    heads = [*sizes.values(), "held-out images pass at", *(f"alarms at {x}" for x in LEVELS)]
    yield "\nShare of planted regions that are found; share of studies that alarm without any\n"
    yield "| images | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads)
    for name, each in found.items():
        cells = [share(*each["regions"][size]) for size in sizes]
        cells += [f"{each['threshold_rate']:.2g}"]
        cells += [share(*each["alarms"][str(level)]) for level in LEVELS]
        yield f"| {kind_of(name)} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
