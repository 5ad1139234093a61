"""The pages build as a site, offline and without a warning, and it asks for nothing outside."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from conf import order

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page loads, where its links lead, and where links to it may lead."""

    def __init__(self, path: Path):
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = {""}
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and values.get(LOADED[tag]):
            self.loaded.append(values[LOADED[tag]])
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        self.ids |= {values[name] for name in ("id", "name") if values.get(name)}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole site, built as `make site` does it; a warning is an error."""
    from sphinx.cmd.build import build_main

    folder = tmp_path_factory.mktemp("site")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Sphinx' own parts; its pages' are errors by -W
        asked = ["-q", "-W", "-n", "-b", "html", "-d", str(folder / "trees"), str(DOCS)]
        assert build_main([*asked, str(folder / "html")]) == 0
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_in_the_site(site):
    names = {path.stem for path in DOCS.glob("*.md")}
    assert names <= {path.stem for path in site.glob("*.html")}
    assert (site / "searchindex.js").stat().st_size > 0


def test_a_page_loads_nothing_from_elsewhere(site, pages):
    outside = {url for page in pages.values() for url in page.loaded if "//" in url}
    assert not outside
    for path, page in pages.items():
        for url in page.loaded:
            file = path.parent / unquote(url.split("?")[0])
            assert url.startswith(("data:", "#")) or file.is_file(), f"{path.name}: {url}"
    for style in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text())


def test_links_within_the_site_lead_to_a_page_and_a_place_in_it(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            url, place = urldefrag(link)
            if "://" in link or link.startswith("mailto:"):
                continue
            target = (path.parent / unquote(url)).resolve() if url else path
            known = pages[target].ids if target in pages else {""}
            if not target.is_file() or unquote(place) not in known:
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_index_is_read_section_by_section():
    text = (
        "# T\n\n## A b\n\n- [One](one.md): x\n  and [more](no.md)\n- [Two](two.md)\n\n## C\n\nno\n"
    )
    assert order(text) == {"A b": [("One", "one"), ("Two", "two")]}
