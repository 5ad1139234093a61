"""What a person is told about their images before anything is trained."""

from __future__ import annotations

from pathlib import Path

from .. import domains, protocol
from ..errors import StageError
from ..runtime import write_text
from .prompted import draft_base
from .run import Run, facts


def init(raw: Path, output: Path, *, base: Path | None = None) -> list[str]:
    """Look at a raw folder, write a protocol to edit, and return what was seen in sentences.

    `base` is a text-conditioned base's folder, which is then pinned in place of networks to train.
    Raises StageError where the protocol file is there already: nothing a person wrote is lost.
    """
    from ..data import draft, survey

    if output.exists():
        raise StageError(f"{output.name} is there already: choose another name with -o")
    seen = survey.survey(raw)
    few = seen.is_small and base is None  # of a base nothing is trained
    recipe = protocol.recipe(seen.domain, profile="few" if few else None)
    if base is not None:
        places = ", ".join(f"{{{name}}}" for name in seen.found.labels)
        recipe |= draft_base(base, f"{domains.domain(seen.domain).title}, {places}")
    write_text(output, draft.draft_protocol(seen, name=_short_name(raw), base=recipe))
    return seen.sentences()


def _short_name(raw: Path) -> str:
    letters = "".join(c if c.isalnum() and c.isascii() else "-" for c in raw.resolve().name.lower())
    return letters.strip("-") or "study"


def tell_intake(run: Run) -> list[str]:
    """Return in sentences what came out of `ingest`."""
    from ..data.account import Intake

    counts = facts(run, "intake/intake.json")
    return [
        Intake(**counts).summary,
        *(
            f"{name.replace('_', ' ')}: {value}"
            for name, value in counts.items()
            if isinstance(value, int | str | bool)
        ),
    ]
