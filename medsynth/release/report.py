"""The evidence as one HTML page: one for inside the hospital, one for the world.

Both hold everything they show and ask for nothing over the network. They come from the same
findings, but the public one is made of numbers, and of pictures that it reads from the release's
own folder, in which no real pixel is. To the eye they differ in title, colour and banner.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import domains
from ..errors import RefusedError
from ..finding import Finding, Verdict
from ..protocol import Protocol
from . import wording
from .attackers import answers, not_concluded, not_measured, say, say_tried
from .cards import split_rows, study_rows
from .charts import Curve, curve_svg, interval_bar, is_logarithmic, power_curve
from .gate import QUARANTINED, limits
from .masks import palette
from .pictures import is_marked, png_size, read_png
from .sheets import MOST_SHOWN, Panel, contact_sheets, spread
from .waivers import waivers

GROUP = re.compile(r"memorization\.p_value\.([^.]+)\.([^.]+)")
POWER = re.compile(r"memorization\.smallest_rate\.([^.]+)")
COLUMN_PX = 784  # the width of the text
OUTCOME_WORDS = {
    "passed": "Passed",
    "refused": "Refused",
    "inconclusive": "Inconclusive",
    "waived": "Waived",
}
OUTCOME_MEANS = {
    "passed": "Every rule holds on the pessimistic end of its interval.",
    "refused": "At least one rule is broken. Nothing may leave.",
    "inconclusive": "No number breaks its rule, but the evidence is too weak. Nothing may leave.",
}


@dataclass(frozen=True, kw_only=True)
class PrivateReport:
    """What the page inside the hospital shows; `panels` hold real patients' images."""

    protocol: Protocol
    verdict: Verdict
    findings: Mapping[str, Finding]
    split: Mapping
    panels: Sequence[Panel] = ()
    curves: Sequence[Curve] = ()


@dataclass(frozen=True, kw_only=True)
class AuditReport(PrivateReport):
    """What the page of an audit shows beside that: `overlap` says first, in sentences, what its
    three folders have in common; `study` are (question, answer) in place of a protocol's."""

    overlap: Sequence[str]
    study: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class PublicReport:
    """What the page for the world shows: its only pictures are files of `images`, and of `masks`
    where there are some, folders of a release, in which no real pixel is.

    Raises RefusedError where a file that it would show does not say that a model made it.
    """

    protocol: Protocol
    verdict: Verdict
    findings: Mapping[str, Finding]
    split: Mapping
    images: Path
    masks: Path | None = None
    curves: Sequence[Curve] = ()

    def __post_init__(self) -> None:
        if not all(is_marked(path) for path in (*self.shown, *self.shown_masks)):
            raise RefusedError("a public report shows images alone that are marked as synthetic")

    @property
    def shown(self) -> list[Path]:
        """The image files that the page shows, spread evenly over the folder."""
        paths = sorted(self.images.glob("*.png"))
        return [paths[i] for i in spread(len(paths), MOST_SHOWN)] if paths else []

    @property
    def shown_masks(self) -> list[Path]:
        """The masks of these images, which have their names."""
        return [] if self.masks is None else [self.masks / path.name for path in self.shown]


def private_report(data: PrivateReport) -> str:
    """Return the page with real patients' images, which must not leave the hospital."""
    return _page(data, private=True, panels=data.panels)


def public_report(data: PublicReport) -> str:
    """Return the page that leaves with the release: synthetic images and findings only."""
    images = sum(1 for _ in data.images.glob("*.png"))
    shown = {"Synthetic images": [read_png(path) for path in data.shown]}
    if data.masks is not None:
        shown["Their masks"] = [palette()[read_png(path)[..., 0]] for path in data.shown_masks]
    panels = [
        contact_sheets(heading, pictures, of=images, what="of the cohort", synthetic=True)
        for heading, pictures in shown.items()
    ]
    return _page(data, private=False, panels=panels)


def _page(data: PrivateReport | PublicReport, *, private: bool, panels: Sequence[Panel]) -> str:
    answered = answers(data.findings, data.verdict.judgements)
    audit = isinstance(data, AuditReport)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            private=private,
            title=data.protocol.card.title,
            subject=domains.domain(data.protocol.domain).title,
            verdict=data.verdict,
            outcome_word=OUTCOME_WORDS[data.verdict.outcome],
            outcome_means=OUTCOME_MEANS[data.verdict.outcome],
            outcome_words=OUTCOME_WORDS,
            findings=data.findings,
            groups=_grouped(data.findings),
            subgroups=_subgroups(data.findings),
            power=_power(data.findings),
            quarantined=_say_quarantined(data.findings),
            limits=_limits(data),
            panels=panels,
            curves=[
                (curve, Markup(curve_svg(curve)), is_logarithmic(curve)) for curve in data.curves
            ],
            contents=_contents(data, panels),
            answers=answered,
            tried=say_tried(answered),
            not_concluded=not_concluded(data.findings, passed=data.verdict.passed),
            audit=audit,
            overlap=data.overlap if audit else (),
            study=data.study if audit else study_rows(data.protocol),
            split=[row for row in split_rows(data.split) if row[2] or not audit],
            not_measured=not_measured(data.findings),
            waivers=waivers(data.verdict),
        )
    )


def _contents(data: PrivateReport | PublicReport, panels: Sequence[Panel]) -> list[tuple[str, str]]:
    """Return (anchor, words) of the page's parts, in order."""
    parts = [
        ("overlap", "What the folders share", isinstance(data, AuditReport)),
        ("verdict", "Verdict", True),
        ("means", "What a pass means", True),
        ("attackers", "Who might attack", True),
        ("open", "Not measured", True),
        ("limits", "Not to be concluded", True),
        ("rules", "Rule by rule", True),
        ("pictures", "Pictures", bool(panels)),
        ("training", "Training", bool(data.curves)),
        ("findings", "Findings", True),
        ("made", "How it was made", True),
    ]
    return [(anchor, words) for anchor, words, there in parts if there]


def _limits(data: PrivateReport | PublicReport) -> dict[str, float]:
    """Return the bar of every judged finding, as the number that was held against it."""
    return limits(data.protocol.gate.rules, data.findings, attempt=data.verdict.attempt)


def _grouped(findings: Mapping[str, Finding]) -> list[tuple[str, list[Finding]]]:
    tables = (GROUP, POWER)  # these have tables of their own
    ordered = [
        findings[name]
        for name in sorted(findings)
        if not any(own.fullmatch(name) for own in tables)
    ]
    groups = groupby(ordered, key=lambda finding: wording.family(finding.name))
    return [(name, list(members)) for name, members in groups]


def _subgroups(findings: Mapping[str, Finding]) -> list[tuple[str, str, Finding]]:
    """Return (attribute, value, finding) of each group of patients that was tested by itself."""
    found = ((GROUP.fullmatch(name), findings[name]) for name in sorted(findings))
    return [(*map(wording.plain, match.groups()), finding) for match, finding in found if match]


def _power(findings: Mapping[str, Finding]) -> list[tuple[str, Finding, Markup]]:
    """Return (change, finding, drawing) of each kind of copy, the one that is seen worst first."""
    found = ((POWER.fullmatch(name), findings[name]) for name in sorted(findings))
    rows = [(wording.plain(match[1]), finding) for match, finding in found if match]
    rows.sort(key=lambda row: (-row[1].value, -row[1].high))
    reach = max((x for _, finding in rows for x, _ in finding.curve), default=1.0)
    return [(change, finding, Markup(power_curve(finding, reach))) for change, finding in rows]


def _say_quarantined(findings: Mapping[str, Finding]) -> str:
    """Say how many images the quarantine took; "" where there was none."""
    taken = findings.get(QUARANTINED)
    if taken is None or not taken.is_number:
        return ""
    images = round(taken.value * taken.n)
    expected = wording.quantity(taken.reference, taken.unit)
    return (
        f"{images:,} of {wording.count(taken.n, 'image')} were quarantined, each much nearer to "
        f"one training patient than to the next; of innocent images at most {expected} would be. "
        f"{wording.count(taken.n - images, 'image')} remain."
    )


def _sized(png: bytes) -> Markup:
    """Return as attributes how large a picture is shown: small ones half as large again."""
    width, height = png_size(png)
    larger = min(1.5, max(1.0, COLUMN_PX / width))
    return Markup(f'width="{round(larger * width)}" height="{round(larger * height)}"')


def _breakable(name: str) -> Markup:
    """Let a long dotted name break after its dots and underscores, and nowhere else."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _tied(bar: str) -> str:
    """Keep a rule's number and its words on one line; what stands in brackets may go below."""
    return bar.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}(", " (")


def _data_uri(png: bytes) -> str:
    """Return a picture as a link that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def environment() -> Environment:
    """Return what the pages' templates are filled in with."""
    made = Environment(
        loader=PackageLoader("medsynth.release"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["interval_bar"] = lambda *given: Markup(interval_bar(*given))
    made.filters.update(
        data_uri=_data_uri,
        sized=_sized,
        say=say,
        quantity=wording.quantity,
        interval=wording.interval,
        words=wording.title,
        family_words=wording.full_title,
        count=wording.count,
        unit_note=wording.unit_note,
        sign=wording.sign,
        breakable=_breakable,
        tied=_tied,
    )
    return made
