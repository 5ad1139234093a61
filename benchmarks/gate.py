"""How often the gate alarms without cause, and how few copies it sees, where the truth is known.

    python benchmarks/gate.py --out RESULTS [--domain chest_xray nih64 ...] [--data DIR] [--quick]

Prints Markdown tables; writes a JSON file a domain into RESULTS, and each finished search beside
it, so that the same command again goes on where it was stopped. `chest_xray`, `fundus` and
`histology` are phantoms; `kermany224`, `nih64` and `monuseg` are real images under --data.

False alarms, for generators that know nobody (gate_worlds.py). Who is nearest to an image among
all pooled patients is found without knowing who was trained on. So one search serves as many
studies as patients can be divided in ways: every random division of the pool, with a random half
of the images, is a study of its own, and given the images these are independent, so the binomial
intervals hold for this pool and these images. That the rate is nominal for any images is what
the test's exactness says; what is checked here is its code, the search and the lens, which may
not know the division. They do not: one lens is trained on the whole pool. Where the gate's other
rules need a search among training patients alone, a few divisions are searched in full; those
studies share their images, so their intervals are for these images too.

Power. Copies of pooled images were looked up once under each change. In each study the patients
are divided anew, and copies of training images take the place of images of the null; the test is
made in the spaces that an audit would believe, at the level of the gate's first attempt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from gate_worlds import REAL, Effort, Looked, World, look_up, measured, take, world

from medsynth import protocol
from medsynth.domains import domain
from medsynth.protocol import Validate
from medsynth.release import gate
from medsynth.validation import Case, memorization, planted, trust
from medsynth.validation.attack import Attack, Pool
from medsynth.validation.attribution import Ranking, attribution_test, rank
from medsynth.validation.nearest import Found
from medsynth.validation.statistics import clopper_pearson, conformal_threshold

LEVELS = (0.05, 0.025)  # a test's, and what the gate's first attempt has of it
COPIES = (5, 10, 15, 20, 40)
PERMUTATIONS = 199  # of each simulated study: exact with any number, a little weaker with few


def main() -> None:
    """Measure what the command line asks for, and print all that RESULTS holds."""
    found = measured(__doc__, measure, "{}.json")
    print("\n".join(tables(found)))


def measure(
    name: str,
    data: Path | None,
    effort: Effort,
    folder: Path,
    *,
    changes: Sequence[str] = tuple(planted.CHANGES),
) -> dict:
    """Search one world and simulate all studies in it; return counts, [hits, n] each."""
    seen = world(name, data, effort)
    looked = look_up(seen, folder, effort, changes=changes)
    rng, spaces = np.random.default_rng(0), believed(seen, looked)
    generators = {name: each["everyone"] for name, each in looked.made.items()}
    generators["one class"] = take(generators["null"], seen.one_class)
    return {
        "patients": seen.patients,
        "images": len(seen.made["null"]),
        "believed": spaces,
        "effort": asdict(effort),
        "alarms": {
            kind: alarms(found, seen.patients, effort.studies, rng)
            for kind, found in generators.items()
        },
        "gate": {kind: verdicts(seen, looked, kind) for kind in generators},
        "power": {
            change: powers(seen, looked, change, spaces, effort.mixes, rng)
            for change in looked.copies
        },
    }


# False alarms -----------------------------------------------------------------------------------


def alarms(
    found: Found, patients: int, studies: int, rng: np.random.Generator
) -> dict[str, list[int]]:
    """Return {level: [studies that alarm, studies]} of a generator that knows nobody.

    Each study divides the patients anew and has a random half of the images.
    """
    halves = np.arange(patients) < patients // 2
    p = []
    for _ in range(studies):
        images = rng.permutation(len(found.registered.score))
        few = take(found, images[: len(images) // 2])
        is_train = rng.permutation(halves)
        p.append(attribution_test(rankings(few, rng), is_train, PERMUTATIONS, rng))
    return {str(level): [int((np.array(p) < level).sum()), studies] for level in LEVELS}


def rankings(found: Found, rng: np.random.Generator) -> list[Ranking]:
    """Return one ranking a space."""
    return [rank(each.patient, each.score, rng) for each in found.spaces.values()]


def verdicts(seen: World, looked: Looked, kind: str) -> dict[str, int]:
    """Return how often the gate's rules on copies said what, over the divisions searched in full:
    those of protocols/audit.yaml on what `evidence` measures."""
    rules = protocol.load(protocol.shipped("audit")).gate.rules
    outcomes: Counter[str] = Counter()
    for d in range(len(seen.divisions)):
        case, attack = study(seen, looked, kind, d)
        findings = {finding.name: finding for finding in evidence(case, attack)}
        held = [rule for rule in rules if rule.finding in findings]
        verdict = gate.decide(findings, held, attempt=1, claim=(), digests={})
        outcomes[verdict.outcome] += 1
        outcomes.update(f"{j.outcome}: {j.finding}" for j in verdict.judgements)
    return dict(outcomes)


def study(seen: World, looked: Looked, kind: str, d: int) -> tuple[Case, Attack]:
    """Return the study of a generator in division d, as the audit's own code would find it."""
    settings, is_train = Validate(permutations=999), seen.is_train(d)
    order = np.empty(len(is_train), np.int64)
    for side in (is_train, ~is_train):
        order[side] = np.arange(side.sum())
    made, cohort = looked.made[kind if kind in looked.made else "null"], seen.made.get(kind)
    if cohort is None:
        cohort = seen.made["null"].take(seen.one_class)
        made = {part: take(found, seen.one_class) for part, found in made.items()}
    of_training = np.flatnonzero(is_train[looked.sources])
    copies = {
        change: _parts({part: take(found, of_training) for part, found in each.items()}, d)
        for change, each in looked.copies.items()
    }
    holdout = take(looked.pool[f"train {d}"], np.flatnonzero(~is_train))
    threshold, rate = conformal_threshold(holdout.registered.score, settings.false_alarms)
    pool = Pool(None, order, is_train, seen.pool.patients)
    attack = Attack(pool, _parts(made, d), holdout, copies, threshold, rate)
    case = Case(
        settings=settings,
        domain=domain(seen.pool.domain),
        train=seen.pool.take(np.flatnonzero(is_train)),
        holdout=seen.pool.take(np.flatnonzero(~is_train)),
        synthetic=cohort,
        lens=lambda images: images.reshape(len(images), -1),
        reconstruct=None,
        seed=d,
        private=Path(),
    )
    return case, attack


def _parts(found: Mapping[str, Found], d: int) -> dict[str, Found]:
    return {"everyone": found["everyone"], "train": found[f"train {d}"]}


def evidence(case: Case, attack: Attack) -> Iterable:
    """Yield what the rules on copies are held against."""
    flags = attack.flags(attack.synthetic)
    found = {
        change: (int(copied.sum()), len(copied))
        for change, copies in attack.copies.items()
        for copied in [attack.flags(copies).copied]
    }
    yield memorization.p_value(case, attack, trust.space_recalls(attack, case.settings))
    yield memorization.copy_rate(case, attack, flags, found)
    yield memorization.exact_copies(case, memorization.is_exact(case, attack))
    yield from memorization.recall_findings(found)


# Power ------------------------------------------------------------------------------------------


def powers(
    seen: World,
    looked: Looked,
    change: str,
    spaces: Sequence[str],
    mixes: int,
    rng: np.random.Generator,
) -> dict[str, list[int]]:
    """Return {copies: [studies that reject, studies]}, for as many copies as there are."""
    found = {}
    for count in COPIES:
        studies = [_planted(seen, looked, change, spaces, count, rng) for _ in range(mixes)]
        p = np.array([value for value in studies if value is not None])
        if len(p) == mixes:
            found[str(count)] = [int((p < LEVELS[1]).sum()), mixes]
    return found


def believed(seen: World, looked: Looked) -> tuple[str, ...]:
    """Return the spaces that an audit would believe, as the first division shows."""
    case, attack = study(seen, looked, "null", 0)
    recalls = trust.space_recalls(attack, case.settings)
    return trust.believed(recalls, case.settings.least_lens_recall)


def _planted(
    seen: World,
    looked: Looked,
    change: str,
    spaces: Sequence[str],
    count: int,
    rng: np.random.Generator,
) -> float | None:
    """Return the p-value of one study with so many copies of training images; None where too few
    were looked up for that, or no space is believed."""
    null = looked.made["null"]["everyone"]
    is_train = rng.permutation(np.arange(seen.patients) < seen.patients // 2)
    of_training = np.flatnonzero(is_train[seen.pool.patients[looked.sources]])
    if len(of_training) < count or not spaces:
        return None
    copies = take(looked.copies[change]["everyone"], rng.permutation(of_training)[:count])
    kept = take(null, rng.permutation(len(null.registered.score))[count:])
    mixed = [
        rank(
            np.concatenate([kept.spaces[space].patient, copies.spaces[space].patient]),
            np.concatenate([kept.spaces[space].score, copies.spaces[space].score]),
            rng,
        )
        for space in spaces
    ]
    return attribution_test(mixed, is_train, PERMUTATIONS, rng)


# Tables -----------------------------------------------------------------------------------------


def tables(found: Mapping[str, dict]) -> Iterable[str]:
    """Yield the lines of three Markdown tables."""
    yield from _alarm_table(found)
    yield from _verdict_table(found)
    for name, each in found.items():
        yield from _power_table(name, each)


def _alarm_table(found: Mapping[str, dict]) -> Iterable[str]:
    yield "\nFalse alarms of the cohort's test: share of studies with p below the level\n"
    yield "| images | patients | generator | " + " | ".join(f"at {x}" for x in LEVELS) + " |"
    yield "|---|---|---|" + "---|" * len(LEVELS)
    for name, each in found.items():
        for kind, counts in each["alarms"].items():
            rates = " | ".join(share(*counts[str(level)]) for level in LEVELS)
            yield f"| {kind_of(name)} | {each['patients']} | {kind} | {rates} |"


def _verdict_table(found: Mapping[str, dict]) -> Iterable[str]:
    yield "\nThe gate's rules on copies (protocols/audit.yaml) where nothing was copied\n"
    yield "| images | generator | refused | inconclusive | passed |\n|---|---|---|---|---|"
    for name, each in found.items():
        for kind, counts in each["gate"].items():
            outcomes = [counts.get(word, 0) for word in ("refused", "inconclusive", "passed")]
            refused = share(outcomes[0], sum(outcomes))
            yield f"| {kind_of(name)} | {kind} | {refused} | {outcomes[1]} | {outcomes[2]} |"


def _power_table(name: str, each: dict) -> Iterable[str]:
    columns = [
        str(count) for count in COPIES if any(str(count) in x for x in each["power"].values())
    ]
    heads = [f"{count} copies ({int(count) / each['images']:.1%})" for count in columns]
    spaces = " and ".join(each["believed"]) or "no space"
    yield (
        f"\nPower, {kind_of(name)}: {each['patients']} patients, half of them held out, among "
        f"{each['images']} synthetic images, in {spaces}\n"
    )
    yield "| change | " + " | ".join(heads) + " |\n|---|" + "---|" * len(heads)
    for change, counts in each["power"].items():
        shares = [share(*counts[count]) if count in counts else "-" for count in columns]
        yield f"| {change} | {' | '.join(shares)} |"


def kind_of(name: str) -> str:
    """Say what a world's images are."""
    return name if name in REAL else f"{name} phantoms"


def share(hits: int, n: int) -> str:
    """Say a share with its Clopper-Pearson interval."""
    each = clopper_pearson(hits, n)
    return f"{each.value:.1%} ({each.low:.1%} to {each.high:.1%}, n = {n})"


if __name__ == "__main__":
    main()
