"""The evidence as one HTML page: one for inside the hospital, one for the world.

Both hold everything they show and ask for nothing over the network. They come from the same
findings, but the public one is made of types that can't hold a real pixel: a cohort whose every
record is synthetic, and numbers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from .. import domains
from ..cohort import Cohort
from ..errors import RefusedError
from ..finding import Finding, Verdict
from ..pictures import grid_png
from ..protocol import Protocol
from . import wording
from .cards import not_measured, split_rows, study_rows
from .charts import Curve, curve_svg, interval_bar, is_logarithmic, power_curve
from .gate import QUARANTINED, limits
from .pictures import marks, png_size
from .waivers import waivers

GROUP = re.compile(r"memorization\.p_value\.([^.]+)\.([^.]+)")
POWER = re.compile(r"memorization\.smallest_rate\.([^.]+)")
SHOWN_IMAGES, SHOWN_COLUMNS, SHOWN_PX = 48, 8, 96
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


class Panel(NamedTuple):
    """A picture with its words: `png` are the bytes of a PNG file."""

    heading: str
    caption: str
    png: bytes


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
    """What the page for the world shows: it draws its only pictures from a synthetic cohort.

    Raises RefusedError where any image of the cohort is not synthetic.
    """

    protocol: Protocol
    verdict: Verdict
    findings: Mapping[str, Finding]
    split: Mapping
    cohort: Cohort
    curves: Sequence[Curve] = ()

    def __post_init__(self) -> None:
        if any(record.origin != "synthetic" for record in self.cohort.records):
            raise RefusedError("a public report shows synthetic images only")


def private_report(data: PrivateReport) -> str:
    """Return the page with real patients' images, which must not leave the hospital."""
    return _page(data, private=True, panels=data.panels)


def public_report(data: PublicReport) -> str:
    """Return the page that leaves with the release: synthetic images and findings only."""
    return _page(data, private=False, panels=[_samples(data.cohort)])


def _page(data: PrivateReport | PublicReport, *, private: bool, panels: Sequence[Panel]) -> str:
    limits = {item.finding: item for item in data.verdict.judgements}
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
            judged=limits,
            limits=_limits(data),
            panels=[(panel, data_uri(panel.png), shown_size(panel.png)) for panel in panels],
            curves=[
                (curve, Markup(curve_svg(curve)), is_logarithmic(curve)) for curve in data.curves
            ],
            audit=audit,
            overlap=data.overlap if audit else (),
            study=data.study if audit else study_rows(data.protocol),
            split=[row for row in split_rows(data.split) if row[2] or not audit],
            not_measured=not_measured(data.findings),
            waivers=waivers(data.verdict),
        )
    )


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


def _samples(cohort: Cohort) -> Panel:
    """Return images spread evenly over the cohort, so that no one picked the good ones."""
    shown = np.unique(np.linspace(0, len(cohort) - 1, SHOWN_IMAGES).astype(int))
    scale = max(1, SHOWN_PX // cohort.size_px)
    png = grid_png(cohort.pixels[shown], columns=SHOWN_COLUMNS, scale=scale, marks=marks())
    caption = (
        f"{wording.count(len(shown), 'image')} spread evenly over the "
        f"{wording.count(len(cohort), 'image')} of the cohort, none chosen by hand. Every one is "
        f"synthetic."
    )
    return Panel("Synthetic images", caption, png)


def shown_size(png: bytes) -> tuple[int, int]:
    """Return the size at which a picture is shown: small ones half as large again."""
    width, height = png_size(png)
    larger = min(1.5, max(1.0, COLUMN_PX / width))
    return round(larger * width), round(larger * height)


def _breakable(name: str) -> Markup:
    """Let a long dotted name break after its dots and underscores, and nowhere else."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _tied(bar: str) -> str:
    """Keep a rule's number and its words on one line; what stands in brackets may go below."""
    return bar.replace(" ", "\N{NO-BREAK SPACE}").replace("\N{NO-BREAK SPACE}(", " (")


def data_uri(png: bytes) -> str:
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
