"""The page of an audit: a run's private report, with what overlaps first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import domains
from ..finding import read_findings, read_verdict
from ..runtime import read_json, write_text
from .audit_overlap import Sides
from .audit_words import describe, overlap_sentences
from .report import beside_each_other, curves_of, private_pictures
from .run import Run


def report(run: Run, sides: Sides) -> Path:
    """Write OUT/report.html. It shows real patients, and says so."""
    from ..release.report import AuditReport, private_report

    verdict = read_verdict(run.folder / "verdict.json")
    pictures = beside_each_other(
        sides.synthetic, sides.train, np.arange(len(sides.train)), seed=run.protocol.seed
    )
    page = private_report(
        AuditReport(
            protocol=run.protocol,
            verdict=verdict,
            findings=read_findings(run.folder / "evidence" / "findings.jsonl"),
            split=describe(sides),
            panels=[*pictures, *private_pictures(run)],
            curves=curves_of(run),
            overlap=overlap_sentences(read_json(run.folder / "overlap" / "overlap.json")),
            study=_rows(run, sides),
        )
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def _rows(run: Run, sides: Sides) -> list[tuple[str, str]]:
    study, lens = run.protocol, run.protocol.lens
    trained = f"trained on {lens.training.images:,} views of training and held-out images alike"
    return [
        ("Kind of image", domains.domain(study.domain).title),
        ("Size compared", f"{study.image.size_px} × {study.image.size_px} pixels"),
        ("Synthetic images", f"{len(sides.synthetic):,}"),
        ("Generator", "not known: an audit sees its images alone"),
        ("Lens", trained if lens.weights is None else f"a file with sha256 {lens.sha256}"),
        ("Random seed", str(study.seed)),
    ]
