"""Fixtures over the made-up study of made_up.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings

from medsynth import protocol
from medsynth.release.export import write_release


@pytest.fixture
def study() -> dict:
    """What `write_release` takes, for a study that passed."""
    settings = protocol.parse(PROTOCOL)
    return judged(settings, make_cohort(), make_findings())


@pytest.fixture
def made_up_study(study) -> dict:
    """The same, for modules that know another `study`."""
    return study


@pytest.fixture
def with_findings(study):
    """Return a function that changes findings by name and puts the study before the gate again."""

    def change(**changes):
        findings = dict(study["findings"])
        for name, values in changes.items():
            full = next(key for key in findings if key.endswith(name))
            findings[full] = replace(findings[full], **values)
        return judged(study["protocol"], study["cohort"], findings)

    return change


@pytest.fixture
def released(tmp_path, study):
    """A release's folder."""
    folder = tmp_path / "release"
    folder.mkdir()
    write_release(folder, **study)
    return folder
