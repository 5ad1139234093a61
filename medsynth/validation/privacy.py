"""The epsilon that holds for the images, where the denoiser was trained under a privacy budget."""

from __future__ import annotations

from collections.abc import Iterable

from ..finding import Finding
from . import Case


def measure(case: Case) -> Iterable[Finding]:
    """Give `privacy.epsilon`, exact; infinite where the pipeline's parts do not add up.

    Nothing is given where no budget was asked for: a rule on it is then refused too.
    """
    found = case.budget
    if found is not None:
        yield Finding(
            "privacy.epsilon",
            found.epsilon,
            found.epsilon,
            found.epsilon,
            found.patients,
            f"at delta {found.delta:g}",
            "lower is better",
            found.method,
        )
