"""What commands ask for: arguments and options that several share, and what they are read as."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ProtocolError

Raw = Annotated[Path, typer.Argument(metavar="RAW", help="Folder of patient images.")]
RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Run folder: everything a study makes. Keep it inside the hospital."
    ),
]
Study = Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The study's YAML file.")]
Profile = Annotated[
    str | None,
    typer.Option(help="Use one of the protocol's profiles, for example 'full' for a GPU."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a knob, for example --set sample.images=500."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def parse_changes(changes: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE pairs, values as YAML has them. Raises ProtocolError where there is no =."""
    from ruamel.yaml import YAML

    parsed = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise ProtocolError("--set", [f"expected KEY=VALUE, got {change!r}"])
        parsed[key] = YAML(typ="safe").load(value)
    return parsed


def load(path: Path, profile: str | None, changes: list[str] | None) -> Any:
    """Read a protocol file as the command line asks for it."""
    from .. import protocol

    return protocol.load(path, profile=profile, changes=parse_changes(changes))
