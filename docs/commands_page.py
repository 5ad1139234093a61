"""The page of all commands, made from the command line, so that it can't say anything else."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import typer

from medsynth.cli import app

HEAD = """# Commands

<!-- Made by docs/commands_page.py from medsynth/cli: change the help there, then `make docs`. -->

Every command takes `--help`, and `--json`: then what it says is one JSON object on standard output,
an error too (`{"error": ...}`). Bars and errors for people go to standard error.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | an error; the message says what was expected, what came and what to do |
| 2 | wrong use of the command |
| 3 | the gate refused or could not tell; of `control fit`, a control is ignored |

A command that was stopped goes on where it was when it is given again.

| variable | what it does |
|---|---|
| `MEDSYNTH_DEVICE` | `cpu` keeps off the GPU; else a GPU is used where there is one |
| `MEDSYNTH_SITE` | a folder whose log counts [attempts](gate.md#attempts-are-counted) of all runs |
| `OMP_NUM_THREADS` | threads of one process; with several processes give each its share |
"""
TABLE = ("| argument or option | takes | default | meaning |", "|---|---|---|---|")
EVERYWHERE = {"--json", "--help"}
WORDS = {Path: "path", str: "text", int: "whole number", float: "number"}


def commands_page() -> str:
    """Return docs/commands.md: a section for each file of the command line, in its order."""
    lines, title = [HEAD], ""
    for name, command in walk(typer.main.get_command(app)):
        heading = title_of(command)
        if heading != title:
            lines += [f"## {heading}", ""]
            title = heading
        lines += section(name, command)
    return "\n".join(lines).rstrip() + "\n"


def walk(group: Any, before: str = "medsynth") -> Iterator[tuple[str, Any]]:
    """Yield every command with all its words, file by file, groups opened."""
    files = list(dict.fromkeys(module_of(command) for command in group.commands.values()))
    for name, command in sorted(group.commands.items(), key=lambda c: files.index(module_of(c[1]))):
        if hasattr(command, "commands"):
            yield from walk(command, f"{before} {name}")
        else:
            yield f"{before} {name}", command


def module_of(command: Any) -> str:
    """Return the module that a command, or the first command of a group, is written in."""
    inner = getattr(command, "commands", None)
    return module_of(next(iter(inner.values()))) if inner else command.callback.__module__


def title_of(command: Any) -> str:
    """Return the first sentence of a command's file."""
    return inspect.getdoc(sys.modules[module_of(command)]).split("\n\n")[0].rstrip(".")


def section(name: str, command: Any) -> list[str]:
    """Return one command's heading, help, usage and table."""
    hints = get_type_hints(command.callback)
    shown = [p for p in command.params if not EVERYWHERE & set(p.opts)]
    usage = " ".join([name, *filter(None, map(used, shown))])
    rows = [row(p, hints[p.name]) for p in shown]
    table = [*TABLE, *rows, ""] if rows else []
    help_ = inspect.cleandoc(command.help)
    return [f"### {name}", "", help_, "", "```text", usage, "```", "", *table]


def used(parameter: Any) -> str:
    """Return what of a parameter stands in the usage line: arguments and options that must be."""
    name = word(parameter)
    if not name.startswith("-"):
        return name
    return f"{name} {parameter.name.upper()}" if parameter.required else ""


def row(parameter: Any, annotation: Any) -> str:
    """Return one argument's or option's line of the table."""
    names = [word(parameter)]
    if names[0].startswith("-"):
        names = [*parameter.opts, *parameter.secondary_opts]
    required = "required" if parameter.required else ""
    default = f"`{parameter.default}`" if parameter.default not in (None, False) else required
    cells = (", ".join(f"`{n}`" for n in names), takes(parameter, annotation), default)
    return "| " + " | ".join((*cells, parameter.help.replace("|", "\\|"))) + " |"


def word(parameter: Any) -> str:
    """Return how a usage line names a parameter."""
    option = parameter.opts[0].startswith("-")
    return parameter.opts[0] if option else parameter.metavar or parameter.name.upper()


def takes(parameter: Any, annotation: Any) -> str:
    """Say in words what a parameter accepts; "" for a switch."""
    if annotation is bool:
        return ""
    kind = f"`{parameter.metavar}`" if "=" in (parameter.metavar or "") else kind_of(annotation)
    return f"{kind}, may be repeated" if parameter.multiple else kind


def kind_of(annotation: Any) -> str:
    """Return an annotation in words: of unions and lists, what they hold."""
    if get_origin(annotation) in (Union, types.UnionType, list):
        return next(kind_of(part) for part in get_args(annotation) if part is not types.NoneType)
    if isinstance(annotation, EnumType):
        return ", ".join(f"`{one.value}`" for one in annotation)
    return WORDS[annotation]
