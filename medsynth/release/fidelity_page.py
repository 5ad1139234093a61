"""What an autoencoder keeps of real images, as one HTML page for inside the hospital."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from ..finding import Finding
from . import wording
from .charts import Curve, curve_svg
from .report import environment
from .sheets import Panel


@dataclass(frozen=True, kw_only=True)
class FidelityPage:
    """What the page shows: `findings` of each autoencoder by its name, `better` by how much the
    first is better than the second (none where there is one), and real patients in `panels`."""

    title: str
    subject: str
    said: Sequence[str]
    findings: Mapping[str, Mapping[str, Finding]]
    better: Mapping[str, Finding]
    panels: Sequence[Panel]
    curves: Sequence[Curve]


def fidelity_page(data: FidelityPage) -> str:
    """Return the page, which holds everything it shows."""
    return (
        environment()
        .get_template("fidelity.html.j2")
        .render(
            private=True,
            title=data.title,
            subject=data.subject,
            said=data.said,
            tables=[(name, _grouped(findings)) for name, findings in data.findings.items()],
            better=sorted(data.better.values(), key=lambda finding: finding.name),
            panels=data.panels,
            curves=[(curve, Markup(curve_svg(curve))) for curve in data.curves],
        )
    )


def _grouped(findings: Mapping[str, Finding]) -> list[tuple[str, list[Finding]]]:
    ordered = [findings[name] for name in sorted(findings)]
    families = groupby(ordered, key=lambda finding: wording.family(finding.name))
    return [(family, list(members)) for family, members in families]
