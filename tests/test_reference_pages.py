"""The pages of all commands and of what is imported are whole."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest
from api_page import SURFACE, api_page
from commands_page import EVERYWHERE, commands_page, walk

ROOT = Path(__file__).parents[1]
PUBLIC = {(part.module, name) for part in SURFACE for name in part.names}
# Of medsynth.pipeline: what the command line says to people, and what others of its parts use.
WORDING = {"PLANS", "check_fresh"} | {
    f"tell_{what}"
    for what in ("audit", "children", "concept", "forecast", "intake", "split", "utility")
}  # fmt: skip


def test_the_page_of_commands_has_every_option_with_its_help():
    import typer

    from medsynth.cli import app

    page = commands_page()
    found = dict(walk(typer.main.get_command(app)))
    assert {"medsynth run", "medsynth control fit", "medsynth concept list"} <= found.keys()
    for name, command in found.items():
        section = page.split(f"\n### {name}\n")[1].split("\n### ")[0]
        for parameter in command.params:
            if not EVERYWHERE & set(parameter.opts):
                assert parameter.help, f"{name}: {parameter.name} has no help"
                assert parameter.help in section
                assert parameter.opts[-1] in section or parameter.metavar in section


def test_every_name_that_is_public_is_there_and_says_what_it_is():
    for module, name in PUBLIC:
        assert inspect.getdoc(getattr(importlib.import_module(module), name)), (module, name)
    assert "0x" not in api_page()  # no object's address: the page would never be the same


def test_what_the_pipeline_hands_out_is_public_or_wording():
    from medsynth import pipeline

    named = {name for module, name in PUBLIC if module == "medsynth.pipeline"}
    assert set(pipeline.__all__) == named | WORDING, (
        "a new name of medsynth.pipeline: put it into SURFACE of docs/api_page.py, then `make docs`"
    )


def sources() -> list[tuple[str, str]]:
    """Python of the pages and notebooks that a reader may take over."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        if page.name != "api.md":
            text = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
            found.append((page.name, text))
    for page in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(page.read_text())["cells"]
        code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        found.append((page.name, "\n".join(code)))
    return [(name, text) for name, text in found if "medsynth" in text]


@pytest.mark.parametrize(("name", "text"), sources(), ids=lambda value: value[:30])
def test_pages_and_notebooks_import_what_is_public(name, text):
    modules = {module for module, _ in PUBLIC}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medsynth"):
            for alias in node.names:
                known = (node.module, alias.name) in PUBLIC
                assert known or f"{node.module}.{alias.name}" in modules, alias.name
