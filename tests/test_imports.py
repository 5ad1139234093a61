"""The house: imports point one way, starts are light, files and names are as STYLE says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medsynth

PACKAGE = Path(medsynth.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"torch", "monai", "pandas", "diffusers", "skimage", "scipy", "matplotlib", "accelerate"}
RANKS = {
    "errors": 0,
    "runtime": 1,
    "ownership": 2,
    "pictures": 2, "finding": 2, "budget": 2, "vocabulary": 2, "domains": 2,
    "rarity": 2,
    "protocol": 3,
    "cohort": 4, "reference": 4,
    "data": 5, "models": 5,
    "training": 6, "synthesis": 6, "validation": 6, "release": 6,
    "variation": 6, "augmentation": 6,
    "pipeline": 7, "doctor": 7,
    "cli": 8, "__main__": 9,
}  # fmt: skip
# Files that may be longer than 350 lines, and why.
LONGER = {
    "protocol.py": "every knob of a study on one page",
}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    """The module or folder right under medsynth/ that a file belongs to; "" for __init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported_parts(path: Path) -> set[str]:
    """The parts of medsynth that a file imports anywhere, functions and TYPE_CHECKING included."""
    package = ["medsynth", *path.relative_to(PACKAGE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            names = [[*module, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "medsynth" and len(name) > 1}
    return {part for part in found if part in RANKS or (PACKAGE / part).exists()}


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in run.stdout.split()}


def test_every_part_of_the_house_has_its_rank():
    assert {part_of(path) for path in MODULES} - {""} == RANKS.keys()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_one_way(path):
    own = part_of(path)
    limit = RANKS.get(own, 0)
    upwards = {part for part in imported_parts(path) if part != own and RANKS[part] >= limit}
    assert not upwards, f"{name_of(path)} imports {upwards}, which do not stand to its left"


def test_the_import_test_sees_relative_and_absolute_imports(tmp_path, monkeypatch):
    module = tmp_path / "models" / "probe.py"
    module.parent.mkdir()
    module.write_text(
        "import medsynth.cli\nfrom medsynth.release import gate\nfrom ..cohort import Cohort\n"
        "from .. import protocol\n"
        "def f():\n    from . import lens\n    from ..training.loop import x\n"
    )
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    found = imported_parts(module)
    assert found == {"cli", "release", "cohort", "protocol", "models", "training"}


@pytest.mark.parametrize("statement", ["import medsynth", "import medsynth.cli"])
def test_starting_loads_nothing_heavy(statement):
    assert not loaded_after(statement) & HEAVY


def test_release_and_all_its_modules_load_no_torch():
    modules = [path.stem for path in (PACKAGE / "release").glob("*.py") if path.stem != "__init__"]
    assert modules
    names = ", ".join(f"medsynth.release.{name}" for name in modules)
    assert not loaded_after(f"import {names}") & {"torch", "monai", "diffusers"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_tells_one_story(path):
    lines = len(path.read_text().splitlines())
    assert lines <= 350 or name_of(path) in LONGER


def test_no_file_is_named_after_nothing():
    vague = {"utils", "util", "helpers", "helper", "manager", "base", "common", "misc"}
    assert not {path.stem for path in MODULES} & vague


def test_no_two_files_of_tests_have_one_name():
    """pytest would collect only one of them."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert {name for name in names if names.count(name) > 1} <= {"conftest.py"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not tree.body
    kinds = (ast.FunctionDef, ast.ClassDef)
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare
