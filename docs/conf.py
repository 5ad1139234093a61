"""How the site is built: `make site`. Pages are plain Markdown, and index.md is their order."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent

project = "medsynth"
author = "The medsynth developers"
copyright = author
release = re.search(
    r'__version__ = "(.+)"', (HERE.parent / "medsynth" / "__init__.py").read_text()
)[1]

extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"medsynth {release}"
html_static_path = ["style"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b6b74", "color-brand-content": "#0b6b74"},
    "dark_css_variables": {"color-brand-primary": "#5cc4cf", "color-brand-content": "#5cc4cf"},
}
suppress_warnings = ["misc.highlighting_failure"]  # an ellipsis in YAML or JSON is meant

SECTION = re.compile(r"^## (.+)\n+((?:- \[.+\n(?:  .+\n)*)+)", re.MULTILINE)
PAGE = re.compile(r"^- \[([^\]]+)\]\(([\w-]+)\.md\)", re.MULTILINE)
FILE = re.compile(r"\[(?:docs/)?([\w-]+)\.md\]\(")


def order(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the (title, page) of each section of index.md: lists of links that lead a heading."""
    return {title: PAGE.findall(links) for title, links in SECTION.findall(text)}


def change(app, name: str, source: list[str]) -> None:
    """Make of Markdown for a repository's browser what the site needs besides."""
    if name == "changelog":
        source[0] = (HERE.parent / "CHANGELOG.md").read_text()
    if name == "index":  # its lists are the sidebar
        for title, pages in order(source[0]).items():
            lines = "\n".join(f"{words} <{page}>" for words, page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```\n"
    source[0] = FILE.sub(r"[\1](", source[0])  # a site has pages and no files


def setup(app) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("source-read", change)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
