"""Who may attack a cohort, what was tried in their place, and how well that attack works.

One row a leak, made from the findings: the same words in the reports and the privacy report. An
attack that was not made, or that never showed that it finds what is there, is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..finding import Finding, Judgement
from . import wording

FROM_IMAGES = ("membership.distance.tpr_1", "membership.density.tpr_1")
FROM_WEIGHTS = tuple(
    f"membership.{attack}.tpr_1" for attack in ("loss", "score", "pia", "calibrated")
)


SEEN = 0.5  # of what was planted, at the low end of the interval; as for a space of the search


@dataclass(frozen=True)
class Attack:
    """One leak: who is after what, and by which findings it is measured.

    `found` are the findings that answer, `power` those that say whether the attack finds what is
    there; `unproved` says what stands in place of the latter where there are none by design, and
    `limit` what not even a good answer covers.
    """

    attacker: str
    question: str
    how: str
    found: tuple[str, ...]
    power: tuple[str, ...]
    limit: str
    unproved: str = "nothing was planted for it to find"

    @property
    def who(self) -> str:
        return self.attacker.partition(":")[0]


ATTACKS = (
    Attack(
        "Reader: has the released images",
        "Is a picture of a real patient among them, also changed?",
        "every image is laid over every real one, in several poses, crops and lights; what counts "
        "is being much nearer to one patient than to the next",
        ("memorization.copy_rate", "memorization.p_value", "memorization.exact_copies"),
        ("memorization.smallest_rate", "memorization.recall"),
        "copies changed in a way that was not planted",
    ),
    Attack(
        "Reader: has the released images",
        "Is a piece of a real patient's picture in an otherwise new image?",
        "windows of every image are looked for at all places of every real one",
        ("memorization.region_rate", "memorization.region_p_value"),
        ("memorization.region_recall",),
        "pieces smaller than the planted ones",
    ),
    Attack(
        "Reader: has the released images",
        "Does a small group of patients leak where the whole does not?",
        "the first test, group by group, adjusted for their number",
        ("memorization.p_value.worst_group",),
        (),
        "groups that are too small to be tested, which are left out",
        "the copies planted in the whole cohort stand for it",
    ),
    Attack(
        "Matcher: has an archive with names as well",
        "Can a training patient be recognised, as by another picture of the same person?",
        "a likeness learnt from patients with several pictures",
        ("identity.match_rate", "identity.p_value"),
        ("identity.recall", "identity.power"),
        "a better matcher, such as a network trained on a large archive",
    ),
    Attack(
        "Suspect: has the images, and pictures of a candidate",
        "Can it be told that the candidate was in the training set?",
        "how near, and how much likelier, the candidate is than other people",
        ("membership.p_value", *FROM_IMAGES),
        (),
        "members who were not copied hardly show in images; a stronger attack may come",
        "the attack's spaces must find planted copies, else its findings are no numbers",
    ),
    Attack(
        "Insider: has the weights as well",
        "Can it be told who was in the training set?",
        "how well the model knows a picture, at several noise levels",
        ("membership.model.p_value", *FROM_WEIGHTS),
        (),
        "attacks with reference networks, which were not trained",
        "the same attacks find the members of a model that was trained too long (see the "
        "documentation), not shown on this one",
    ),
    Attack(
        "Insider: has the weights as well",
        "What does training give away in the worst case?",
        "made images were planted, and a random half of them trained on; guesses are counted",
        ("canary.epsilon", "canary.right"),
        (),
        "it can refute a guarantee and never prove one",
        "guesses on planted images are exact by themselves",
    ),
    Attack(
        "Anybody, with whatever they know",
        "Is there a bound that no attack can pass?",
        "training with differential privacy by patient",
        ("privacy.epsilon",),
        (),
        "what the ledger does not cover",
        "a proof needs no attack",
    ),
)
OF_MASKS = Attack(
    "Reader: has the released masks as well",
    "Is a mask a real patient's, under a new image?",
    "every mask is laid over every real one, as images are",
    ("masks.copy_rate", "masks.p_value", "masks.exact_copies"),
    ("masks.smallest_rate", "masks.recall"),
    "copied parts of a mask; masks that many people share",
)
QUALITIES = (
    ("reconstruction", "How faithfully the autoencoder keeps an image."),
    ("fidelity", "How close the cohort as a whole comes to real images."),
    ("utility", "Usefulness: whether a classifier trained on the cohort works on real patients."),
)
NEVER_ASKED = (
    "What several releases of the same patients tell together.",
    "What an attacker learns with true knowledge from elsewhere about this hospital.",
    "Whether a combination of labels points to a person. medsynth draws no rare one; an audit of "
    "other images does not look.",
    "Leakage that none of the tests above looks for.",
)


@dataclass(frozen=True)
class Answer:
    """What one attack found: `status` in a few words; `found` and `power` are (finding, what its
    rule said or "no rule"), of `power` those that show that the attack finds what is there, of
    `gaps` those that show that it does not; `missing` names the findings that are no numbers."""

    attack: Attack
    found: tuple[tuple[Finding, str], ...]
    power: tuple[Finding, ...]
    gaps: tuple[Finding, ...]
    missing: tuple[str, ...]

    @property
    def measured(self) -> bool:
        return bool(self.found)

    @property
    def status(self) -> str:
        if not self.measured:
            return "tried, without a number" if self.missing else "not measured"
        if self.attack.power and not self.power:
            return "measured, and not shown to work"
        return "measured, with gaps" if self.gaps else "measured"


def answers(findings: Mapping[str, Finding], judgements: Iterable[Judgement] = ()) -> list[Answer]:
    """Return one answer for each attack that medsynth knows, made or not, in a fixed order; that on
    masks only where there are some."""
    said = {item.finding: item.outcome for item in judgements}
    masks = [OF_MASKS] if any(name.startswith("masks.") for name in findings) else []
    every = (ATTACKS[0], *masks, *ATTACKS[1:])
    return [_answer(attack, findings, said) for attack in every]


def say_tried(answered: Sequence[Answer]) -> str:
    """Say how many of the attacks that medsynth knows were made."""
    measured = sum(answer.measured for answer in answered)
    return (
        f"Of {len(answered)} questions that an attacker may ask, {measured} "
        f"{'was' if measured == 1 else 'were'} measured."
    )


def not_measured(findings: Mapping[str, Finding]) -> list[str]:
    """Say in sentences what was not measured here, and what medsynth never measures."""
    families = {wording.family(name) for name in findings}
    attacks = [
        f"{answer.attack.who}: {answer.attack.question}"
        f"{' (' + answer.status.capitalize() + '.)' if answer.missing else ''}"
        for answer in answers(findings)
        if not answer.measured
    ]
    qualities = [words for name, words in QUALITIES if name not in families]
    return [*attacks, *qualities, *NEVER_ASKED]


def not_concluded(findings: Mapping[str, Finding], *, passed: bool) -> list[str]:
    """Say in sentences what may not be concluded, whatever the verdict is."""
    asked = findings.get("membership.model.p_value")
    asked_model = asked is not None and asked.is_number
    sentences = [
        "That the images are anonymous in the sense of the law. That is for the data holder to "
        "judge, with this evidence at hand.",
        f"That nothing leaks. {_bounds(findings)}",
        "That other images of this model, or of another model trained on these patients, leak as "
        f"little: only these images were judged{'' if asked_model else ', and the weights not'}.",
        "That what holds for many holds for each patient: rates are averages, and a patient who "
        "looks like nobody else is at more risk.",
        "That the images are medically right, or that a method which works on them works on "
        "patients. They are not for diagnosis.",
    ]
    refused = "That images which did not pass may leave all the same: they may not."
    return sentences if passed else [*sentences, refused]


def say(finding: Finding) -> str:
    """Say a finding as "copy rate 0 % (interval 0 % to 1.4 %; 1 % for …; n = 300)"."""
    if not finding.is_number:
        return f"{wording.title(finding.name)}: not a number"
    span = wording.interval(finding)
    parts = ["exact" if span == "exact" else f"interval {span}"]
    if finding.reference is not None:
        reference = wording.quantity(finding.reference, wording.sign(finding.unit))
        parts.append(f"{reference} for {finding.reference_is}")
    parts.append(f"n = {finding.n:,}")
    value = wording.quantity(finding.value, wording.sign(finding.unit))
    return f"{wording.title(finding.name)} {value} ({'; '.join(parts)})"


def _answer(attack: Attack, findings: Mapping[str, Finding], said: Mapping[str, str]) -> Answer:
    tried = [findings[name] for name in attack.found if name in findings]
    power = [_parts(name, findings) for name in attack.power]
    shown = [[f for f in parts if _shows(f)] for parts in power]
    return Answer(
        attack,
        tuple((f, said.get(f.name, "no rule")) for f in tried if f.is_number),
        tuple(parts[0] for parts in shown if parts),
        tuple(f for parts in power for f in parts if not _shows(f)),
        tuple(f.name for f in tried if not f.is_number),
    )


def _parts(name: str, findings: Mapping[str, Finding]) -> list[Finding]:
    """Return the parts of what says how well an attack works, as `NAME.crop`, the weakest first;
    the finding itself where it has none."""
    parts = [f for key, f in findings.items() if key.startswith(f"{name}.") and f.is_number]
    if not parts:
        return [f for key, f in findings.items() if key == name and f.is_number]
    lower = parts[0].direction == "lower is better"
    return sorted(parts, key=lambda finding: finding.value, reverse=lower)


def _shows(power: Finding) -> bool:
    """Return True if a finding says that an attack sees most of what is there, or, where there is
    a reference, more than that."""
    if power.direction == "lower is better":  # the smallest share that is seen; 1 = none is
        return power.value < 1
    return power.low >= SEEN if power.reference is None else power.low > power.reference


def _bounds(findings: Mapping[str, Finding]) -> str:
    """Say up to which share of copies the evidence could have missed."""
    rate = findings.get("memorization.copy_rate")
    smallest = findings.get("memorization.smallest_rate")
    parts = []
    if rate is not None and rate.is_number:
        parts.append(f"up to {wording.quantity(rate.high, 'share')} of the images may be copies")
    if smallest is not None and smallest.is_number:
        share = wording.quantity(smallest.value, "share")
        parts.append(
            f"copies fewer than {share} of them may go unseen by the test of the cohort"
            if smallest.value < 1
            else "no share of copies that was tried would be seen reliably by the cohort's test"
        )
    if not parts:
        return "How many copies would have been missed was not measured."
    return f"With the evidence there is, {'; '.join(parts)}."
