"""Both reports in a real browser: colours, widths, keyboard, print, requests, size and time."""

import re
import time
from pathlib import Path

import chromium
import numpy as np
import pytest
from made_up import PROTOCOL, judged, make_cohort, make_findings

from medsynth import protocol
from medsynth.release.charts import Curve
from medsynth.release.pictures import encode_png
from medsynth.release.report import (
    PrivateReport,
    PublicReport,
    private_report,
    public_report,
)
from medsynth.release.sheets import contact_sheets, spread

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium here")

LARGEST_PAGE = 12 * 2**20  # bytes, of colour noise at 256 px, which is the worst that can come
SLOWEST_S = 30.0  # to load, on a machine that does ten other things
CONTRAST = """
(() => {
  const lum = c => { const l = c.map(v => { v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
  const rgb = s => s.match(/[\\d.]+/g).map(Number);
  const paper = e => { for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; }
    return [255, 255, 255]; };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest('svg') || e.matches('.skip')) continue;
    const a = lum(rgb(getComputedStyle(e).color).slice(0, 3)), b = lum(paper(e).slice(0, 3));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)}`);
  }
  return bad;
})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """The private and the public page of the made-up study, as files."""
    folder = tmp_path_factory.mktemp("pages")
    cohort = make_cohort(60)
    study = judged(protocol.parse(PROTOCOL), cohort, make_findings())
    (folder / "images").mkdir()
    for record, image in zip(cohort.records, cohort.pixels, strict=True):
        path = folder / "images" / f"{record.id}.png"
        path.write_bytes(encode_png(image, synthetic=True))
    common = {name: study[name] for name in ("protocol", "verdict", "findings", "split")}
    panel = contact_sheets(
        "Synthetic images", list(cohort.pixels), of=60, what="as drawn", synthetic=True
    )
    curve = Curve("Denoiser: loss", "loss", {"loss": [(1, 2.0), (5, 0.5)]})
    made = {
        "private": private_report(PrivateReport(**common, panels=[panel], curves=[curve])),
        "public": public_report(PublicReport(**common, images=folder / "images")),
    }
    for name, html in made.items():
        (folder / f"{name}.html").write_text(html)
    return {name: folder / f"{name}.html" for name in made}


BOTH = pytest.mark.parametrize("name", ["private", "public"])


@BOTH
@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read_in_light_and_dark(browser, pages, name, dark):
    browser.open(pages[name], dark=dark)
    assert browser.ask(CONTRAST) == []
    paper = browser.ask("getComputedStyle(document.documentElement).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == dark


@BOTH
@pytest.mark.parametrize("width", [320, 390, 1000])
def test_a_page_fits_a_phone_and_nothing_sticks_out(browser, pages, name, width):
    browser.open(pages[name], width=width)
    assert browser.ask("document.documentElement.scrollWidth") <= width


def test_the_private_page_looks_other_than_the_public_one_and_says_so_all_the_way(browser, pages):
    colours, banners = [], []
    for name in ("private", "public"):
        browser.open(pages[name])
        colours.append(browser.ask("getComputedStyle(document.documentElement).backgroundColor"))
        browser.ask("window.scrollTo(0, document.body.scrollHeight)")
        top = "document.querySelector('.banner').getBoundingClientRect().top"
        assert browser.ask(top) == 0  # still in sight at the end of the page
        banners.append(browser.ask("document.querySelector('.banner').innerText"))
    assert colours[0] != colours[1]
    assert banners == ["This page shows patients: keep it inside the hospital.",
                       "Every image on this page is synthetic. Not for clinical use."]  # fmt: skip


@BOTH
def test_a_keyboard_gets_past_the_head_and_into_every_table(browser, pages, name):
    browser.open(pages[name])
    browser.press("Tab", 9)
    box = browser.ask("(r => [r.left, r.top])(document.activeElement.getBoundingClientRect())")
    assert browser.ask("document.activeElement.className") == "skip"
    assert min(box) >= 0  # it shows itself
    browser.press("Enter", 13)
    assert browser.ask("document.activeElement.id") == "main"
    browser.press("Tab", 9)
    focused = "document.activeElement"
    assert browser.ask(f"{focused}.closest('main') !== null")
    assert browser.ask(f"getComputedStyle({focused}).outlineStyle") == "solid"
    loose = "[...document.querySelectorAll('.scroll')].filter(e => e.tabIndex !== 0).length"
    assert browser.ask(loose) == 0


@BOTH
def test_a_screen_reader_finds_landmarks_tables_and_pictures_by_name(browser, pages, name):
    browser.open(pages[name])
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    nodes = [
        (n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]
    ]
    roles = {role for role, _ in nodes}
    assert {"main", "navigation", "banner", "contentinfo", "complementary"} <= roles
    for role, words in nodes:
        if role in ("table", "image", "region", "link", "heading"):
            assert words, role


@BOTH
def test_a_page_asks_nobody_for_anything(browser, pages, name):
    browser.asked.clear()
    browser.open(pages[name])
    outside = [url for url in browser.asked if not url.startswith(("data:", "file:"))]
    assert outside == []
    assert [url for url in browser.asked if url.startswith("file:")] == [pages[name].as_uri()]
    blocked = browser.ask("fetch('http://127.0.0.1:9/').then(() => 'sent', error => String(error))")
    assert "Failed to fetch" in blocked  # and could not, if it wanted to: its policy forbids it
    assert (
        browser.ask("""new Promise(done => {
        document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));
        const image = new Image(); image.src = 'http://127.0.0.1:9/x.png';
        document.body.append(image); })""")
        == "img-src"
    )


@BOTH
def test_a_page_prints_on_few_sheets_with_its_warning_on_each(browser, pages, name):
    browser.open(pages[name], dark=True)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF-")
    assert 4 <= len(re.findall(rb"/Type /Page\b", pdf)) <= 16
    browser.send("Emulation.setEmulatedMedia", media="print")
    assert browser.ask("getComputedStyle(document.documentElement).backgroundColor") == (
        "rgb(255, 255, 255)")  # fmt: skip
    assert browser.ask(CONTRAST) == []
    browser.send("Emulation.setEmulatedMedia", media="")
    said = "SHOWS PATIENTS: KEEP INSIDE" if name == "private" else "Synthetic images; not for"
    assert f'@top-center {{ font-size: 8pt; content: "{said}' in pages[name].read_text()


def test_a_page_of_a_hundred_thousand_images_is_as_small_and_quick_as_of_a_thousand(
    browser, pages, tmp_path
):
    """The worst case: large colour images that are all noise, which no PNG makes smaller."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 255, (384, 256, 256, 3), np.uint8)
    study = judged(protocol.parse(PROTOCOL), make_cohort(4), make_findings())
    common = {name: study[name] for name in ("protocol", "verdict", "findings", "split")}
    sizes = []
    for images in (1_000, 100_000):
        assert len(spread(images, 384)) == 384
        panel = contact_sheets(
            "Synthetic images", list(noise), of=images, what="as drawn", synthetic=True
        )
        page = tmp_path / f"{images}.html"
        page.write_text(private_report(PrivateReport(**common, panels=[panel])))
        assert f"of {images:,} images" in page.read_text()
        started = time.monotonic()
        browser.open(page)
        assert time.monotonic() - started < SLOWEST_S
        sizes.append(page.stat().st_size)
        shown = "document.querySelectorAll('details').length"
        assert browser.ask(shown) == 7
    assert max(sizes) < LARGEST_PAGE
    assert abs(sizes[0] - sizes[1]) < 100
