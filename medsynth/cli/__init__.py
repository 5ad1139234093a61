"""The command line: parses, prints, exits; one pipeline call a command.

Heavy packages are imported inside the commands, so that help and `verify` start at once.
"""

from __future__ import annotations

import json
import signal
import sys

import typer
from typer.core import TyperGroup

from ..errors import MedsynthError
from . import concepts, controls, machine, masks, others, stages, study

STOPPED = "stopped; the same command goes on from here"


class _Commands(TyperGroup):
    """Commands that say how to go on where they are stopped; click alone says "Aborted!"."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise MedsynthError(STOPPED) from None


app = typer.Typer(
    name="medsynth",
    cls=_Commands,
    help=(
        "From a folder of patient images to a cohort that may be shared, with the evidence that "
        "it may. Nothing is downloaded and nothing leaves the machine; what may leave lies in "
        "RUN/release, and only after the gate has passed."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Exit codes: 0 done, 1 error, 2 wrong use, 3 the gate refused.",
)
for _part in (study, others, controls, masks, concepts, stages, machine):
    app.add_typer(_part.app)


def main() -> None:
    """Run the command line; the exit code says how it ended."""
    try:
        _run()
    except MedsynthError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain(STOPPED)
        sys.exit(1)
    except RuntimeError as error:
        if not lost_another(error):
            raise
        _complain(
            "another process of this run ended, so this one stops too; what went wrong is in the "
            "other's own message. The same command goes on, with as many processes as you like"
        )
        sys.exit(1)


def _run() -> None:
    """Run the command; a request to end stops it, and is too late for what already ends."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app(standalone_mode=True)
    finally:
        signal.signal(signal.SIGTERM, lambda number, frame: None)


def _stop(number: int, frame: object) -> None:
    """End as by Ctrl-C: SLURM at the end of a job's time, torchrun where another process failed."""
    raise KeyboardInterrupt


def lost_another(error: RuntimeError) -> bool:
    """True where an error is that one of several processes is gone."""
    from ..runtime import ranks

    said = f"{type(error).__name__}: {error}".lower()
    signs = ("closed by peer", "reset by peer", "broken pipe", "distbackenderror", "distnetwork")
    return ranks()[1] > 1 and any(sign in said for sign in signs)


def _complain(message: str) -> None:
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    else:
        print(f"medsynth: {message}", file=sys.stderr)
