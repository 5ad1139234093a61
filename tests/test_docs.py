"""What the pages say is so: commands exist with their options, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from conf import order
from generate import PAGES as MADE

ROOT = Path(__file__).parents[1]
USED = re.compile(r"medsynth [a-z]+ ")  # a line of a text block that is a command
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """All `medsynth ...` lines of a page's shell blocks and tables, as words."""
    lines = "\n".join(blocks(page, "sh")).splitlines()
    lines += [line for line in "\n".join(blocks(page, "text")).splitlines() if USED.match(line)]
    lines += re.findall(r"`(medsynth [^`]+)`", page.read_text())
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] == "medsynth"]


def subcommands() -> dict:
    """All commands by their words: "fit", and of a group "control fit"."""
    import typer

    from medsynth.cli import app

    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {sub}": c for sub, c in inner.items()} if inner else {name: command}
    return found


def named(line: list[str]) -> str:
    """The words of a line that name its command."""
    two = " ".join(line[1:3])
    return two if two in subcommands() else line[1]


def options_of(command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts} | {"--help"}


ALL = [(page.name, line) for page in PAGES for line in commands(page)]


def test_pages_show_commands():
    assert {name for name, _ in ALL} >= {"README.md", "quickstart.md"}


@pytest.mark.parametrize(("page", "line"), ALL, ids=lambda value: " ".join(value)[:60])
def test_every_command_exists_with_its_options(page, line):
    if line[1].startswith("-"):
        return
    assert named(line) in subcommands(), f"{page}: there is no command medsynth {line[1]}"
    used = {word.split("=")[0] for word in line[2:] if word.startswith("-")}
    assert used <= options_of(subcommands()[named(line)])


def test_every_command_is_in_the_readme_and_takes_json():
    shown = {named(line) for line in commands(ROOT / "README.md") if len(line) > 1}
    assert subcommands().keys() <= shown
    assert not [n for n, command in subcommands().items() if "--json" not in options_of(command)]


def test_makes_targets_that_the_readme_names_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"^make (\w+)", "\n".join(blocks(ROOT / "README.md", "sh")), re.MULTILINE)
    )
    assert {"demo", "test"} <= named <= targets


def test_readme_tells_the_exit_codes_of_the_errors():
    from medsynth.errors import MedsynthError, RefusedError

    text = (ROOT / "README.md").read_text()
    assert f"{MedsynthError.exit_code} error" in text
    assert f"{RefusedError.exit_code} the gate refused" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_of_the_pages_is_what_a_protocol_accepts(page):
    from medsynth.protocol import parse

    for block in blocks(page, "yaml"):
        whole = block if "name:" in block else f"name: page\ndomain: fundus\n{block}"
        if "gate:" not in whole:  # a page on something else
            whole += "gate: {rules: [{finding: memorization.p_value, not_rejected_at: 0.05}]}\n"
        assert parse(whole, source=page.name).gate.rules


def test_every_page_has_its_line_in_the_index():
    lists = order((ROOT / "docs" / "index.md").read_text()).values()
    listed = [page for pages in lists for _, page in pages]
    assert len(listed) == len(set(listed)), "a page is listed twice in docs/index.md"
    missing = {path.stem for path in (ROOT / "docs").glob("*.md")} - {*listed, "index"}
    assert not missing, (
        f"in no list of docs/index.md, and so in no sidebar: {', '.join(sorted(missing))}. "
        f"Give each a line there, such as: - [Title](page.md): what it is for"
    )


@pytest.mark.parametrize("name", MADE)
def test_pages_that_are_made_from_code_are_as_it_makes_them(name):
    assert (ROOT / "docs" / name).read_text() == MADE[name](), f"docs/{name} is old: make docs"


def test_versions_agree():
    import medsynth

    assert f"version: {medsynth.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## [{medsynth.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_pinned_versions_meet_the_ranges_of_the_project():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert all(re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line) for line in lines[1:])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(line for extra in extras for line in extra)]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name == "medsynth" or pinned[name] in requirement.specifier, name
    assert pinned["torch"] == "2.13.0"
