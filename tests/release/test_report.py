import base64
import itertools
import re
import shutil
import tempfile
from dataclasses import fields, replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import judged, make_cohort, make_findings

import medsynth.release
from medsynth import protocol
from medsynth.errors import RefusedError
from medsynth.finding import Finding, read_findings, read_verdict
from medsynth.pictures import grid_png
from medsynth.release.attackers import answers
from medsynth.release.charts import Curve, curve_svg, interval_bar, power_curve
from medsynth.release.pictures import MADE_BY_A_MODEL, encode_png
from medsynth.release.report import (
    PrivateReport,
    PublicReport,
    private_report,
    public_report,
)
from medsynth.release.sheets import Panel

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}
CURVE = Curve("Autoencoder", "loss", {"training": [(1, 2.0), (5, 0.5)], "validation": [(5, 0.6)]})


class Page(HTMLParser):
    """Collects tags and text, and fails on tags that do not close."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def private(study, **changes):
    data = {"panels": [Panel("Nearest neighbours", "Synthetic, real.", picture())],
            "curves": [CURVE]}  # fmt: skip
    data |= {key: study[key] for key in ("protocol", "verdict", "findings", "split")} | changes
    return private_report(PrivateReport(**data))


@cache
def images() -> Path:
    """The images' folder of a release of the made-up study."""
    folder = Path(tempfile.mkdtemp())
    for record, image in zip((cohort := make_cohort()).records, cohort.pixels, strict=True):
        (folder / f"{record.id}.png").write_bytes(encode_png(image, synthetic=True))
    return folder


def public(study, **changes):
    data = {key: study[key] for key in ("protocol", "verdict", "findings", "split")}
    return public_report(PublicReport(**(data | {"images": images()} | changes)))


def picture():
    return grid_png(np.zeros((2, 8, 8, 1), np.uint8), columns=2)


@pytest.mark.parametrize("build", [private, public])
def test_a_page_holds_all_it_shows_and_asks_for_nothing(study, build):
    html = build(study)
    page = Page(html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "video", "form")
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
    assert "url(" not in html
    assert "@import" not in html
    assert "http://" not in html
    assert "https://" not in html
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize("build", [private, public])
def test_a_page_can_be_read_by_a_screen_reader(study, build):
    page = Page(build(study))
    assert next(a for t, a in page.tags if t == "html")["lang"] == "en"
    assert all(a.get("alt") for t, a in page.tags if t == "img")
    assert all(a.get("scope") in ("col", "row") for t, a in page.tags if t == "th")
    assert all(a.get("aria-label") or a.get("aria-hidden") for t, a in page.tags if t == "svg")
    levels = [int(t[1]) for t, _ in page.tags if re.fullmatch("h[1-6]", t)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_only_the_private_page_warns_that_it_must_not_leave(study):
    inside, outside = private(study), public(study)
    for words in ("shows patients: keep it inside the hospital", "must not leave the hospital"):
        assert words in Page(inside).words()
        assert words not in Page(outside).words()
    assert "<title>INSIDE ONLY, shows patients · Passed" in inside
    assert "<title>Passed" in outside
    assert '<html lang="en" class="private">' in inside
    assert '<html lang="en" class="public">' in outside


def test_the_verdict_comes_before_everything_else(study):
    headings = re.findall(r"<h2[^>]*>(?:<svg.*?</svg>)?\s*(.*?)</h2>", private(study))
    assert headings[0] == "Passed"
    assert headings.index("Rule by rule") < headings.index("Pictures") < headings.index("Training")
    assert headings.index("Training") < headings.index("Findings")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "Passed"),
        ({"copy_rate": {"high": 0.6}}, "Inconclusive"),
        ({"copy_rate": {"value": 0.5, "high": 0.6}}, "Refused"),
    ],
)
def test_the_verdict_is_said_in_words_and_with_every_reason(with_findings, changes, word):
    study = with_findings(**changes)
    text = Page(private(study)).words()
    assert f" {word} " in text
    for reason in study["verdict"].reasons:
        assert reason.partition(": ")[2] in text


def test_every_finding_and_every_rule_is_shown(study):
    text = Page(public(study)).words().replace(" ", "")
    for name in study["findings"]:
        assert name in text
    for item in study["verdict"].judgements:
        assert item.finding in text


def test_no_type_of_the_public_page_can_hold_a_picture():
    assert {field.name for field in fields(PublicReport)} == {
        "protocol", "verdict", "findings", "split", "images", "masks", "curves"}  # fmt: skip


def test_a_public_page_that_would_show_one_unmarked_image_is_refused(study, tmp_path):
    for path in images().glob("*.png"):
        shutil.copy(path, tmp_path)
    public(study, images=tmp_path)
    (tmp_path / "syn-000009.png").write_bytes(picture())
    with pytest.raises(RefusedError, match="marked as synthetic"):
        public(study, images=tmp_path)


def test_the_public_page_is_made_of_nothing_but_the_released_files(released, study):
    """Its pixels are those of the folder: from the folder alone it comes out byte for byte."""
    again = PublicReport(
        protocol=protocol.load(released / "protocol.yaml"),
        verdict=read_verdict(released / "verdict.json"),
        findings=read_findings(released / "findings.jsonl"),
        split=study["split"],
        images=released / "images",
    )
    assert public_report(again) == (released / "report.html").read_text()
    shown = re.findall(r"data:image/png;base64,([^\"]+)", (released / "report.html").read_text())
    assert all(MADE_BY_A_MODEL.encode() in base64.b64decode(png) for png in shown)


def test_every_attack_is_answered_or_said_to_be_unmeasured(study):
    text = Page(public(study)).words()
    found, rest = text.split("What was not measured")[-2:]
    unmeasured = rest.split("What may not be concluded")[0]
    for answer in answers(study["findings"]):
        question = answer.attack.question
        assert (question in found) == answer.measured
        assert (question in unmeasured) == (not answer.measured)


def test_an_attack_that_was_not_shown_to_work_is_no_evidence(study):
    findings = {
        name: found for name, found in study["findings"].items()
        if not name.startswith("memorization.recall")
    }  # fmt: skip
    text = Page(private(judged(study["protocol"], study["cohort"], findings))).words()
    assert "measured, and not shown to work" in text
    assert "nothing says that this attack finds what is there" in text
    assert "not shown to work" not in Page(private(study)).words()


def test_what_a_person_wrote_is_text_and_never_markup(study):
    card = study["protocol"].card.model_copy(update={"title": "<script>alert(1)</script>"})
    html = public(study, protocol=study["protocol"].model_copy(update={"card": card}))
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_a_finding_that_is_no_number_is_shown_as_such(study):
    nan = float("nan")
    name = "fidelity.frechet"
    broken = replace(study["findings"][name], value=nan, low=nan, high=nan)
    html = private(judged(study["protocol"], study["cohort"], make_findings() | {name: broken}))
    assert "not a number" in html


def test_text_stands_out_from_the_paper_in_light_and_dark():
    css = (Path(medsynth.release.__file__).parent / "templates" / "style.css").read_text()
    light, dark = (
        [
            dict(re.findall(r"--([\w-]+): (#\w{6})", rule))
            for rule in re.findall(r"{([^{}]*)}", part)
        ]
        for part in css.split("@media")[:2]
    )
    for public_, private_ in ((light[0], light[0] | light[1]), (dark[0], dark[0] | dark[1])):
        assert public_["paper"] != private_["paper"]
        for palette in (public_, private_):
            for name in ("ink", "soft", "passed", "refused", "inconclusive", "waived", "accent"):
                for paper in ("paper", "tint"):
                    assert contrast(palette[name], palette[paper]) >= 4.5, (name, paper)
            assert contrast(palette["banner-ink"], palette["banner-paper"]) >= 4.5


def contrast(a: str, b: str) -> float:
    """The contrast of two colours after WCAG 2.2: 1 none, 21 black on white."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# Drawings ---------------------------------------------------------------------------------------


def numbers(svg: str, pattern: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, svg)]


def test_an_interval_is_drawn_in_the_order_of_its_numbers(study):
    svg = interval_bar(study["findings"]["fidelity.precision"], 0.4)
    low, high = re.search(r'class="span" x1="([\d.]+)" x2="([\d.]+)"', svg).groups()
    (value,) = numbers(svg, r'cx="([\d.]+)"')
    (limit,) = numbers(svg, r'class="limit" x1="([\d.]+)"')
    (reference,) = numbers(svg, r'class="reference" d="M([\d.]+)')
    assert 0 < limit < float(low) < value < float(high) < reference < 150


@pytest.mark.parametrize("name", sorted(make_findings()))
@pytest.mark.parametrize("limit", [None, -3.0, 0.0, 1.0, 1e5])
def test_a_drawing_never_leaves_its_frame(name, limit):
    svg = interval_bar(make_findings()[name], limit)
    places = numbers(svg, r'(?:x1|x2|cx)="([-\d.]+)"')
    assert min(places) >= 0
    assert max(places) <= 150


def test_a_curve_goes_down_where_its_numbers_do():
    svg = curve_svg(CURVE)
    points = re.search(r'points="([^"]+)"', svg).group(1).split()
    (x0, y0), (x1, y1) = (tuple(map(float, point.split(","))) for point in points)
    assert x0 < x1
    assert y0 < y1  # down the page


@pytest.mark.parametrize(
    "series",
    [
        {"a": [(0, 1.0)]},
        {"a": [(0, 0.0), (10, 0.0)]},
        {"a": [(1, 1e-9), (2, 1e9)]},
        {"a": [(1, -5.0), (2, 5.0)]},
        {"a": [(1, float("nan")), (2, 5.0), (3, None)]},
    ],
)
def test_a_curve_of_any_numbers_stays_in_its_frame(series):
    svg = curve_svg(Curve("c", "loss", series))
    for points in re.findall(r'points="([^"]+)"', svg):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 640
            assert 0 <= y <= 220


def test_a_curve_without_a_number_is_not_drawn():
    assert curve_svg(Curve("c", "loss", {"a": [(1, float("nan"))], "b": []})) == ""


def test_names_in_a_drawing_are_text():
    assert "<b>" not in curve_svg(Curve("<b>", "loss", {"<b>": [(1, 1.0), (2, 2.0)]}))


def grouped():
    """The made-up findings, two groups of patients and a quarantine."""
    rows = [
        Finding(
            f"memorization.p_value.{name}", p, p, p, 300, "probability", "higher is better", "m"
        )
        for name, p in (("sex.F", 0.62), ("sex.M", 0.031))
    ]
    rows.append(
        Finding("memorization.quarantined", 0.01, 0.002, 0.03, 300, "share of synthetic images",
                "lower is better", "conformal", 0.005, "innocent images")
    )  # fmt: skip
    return make_findings() | {row.name: row for row in rows}


def test_groups_have_a_table_of_their_own(study):
    given = judged(study["protocol"], study["cohort"], grouped())
    for page in (public(given), private(given)):
        text = Page(page).words()
        table = text.split("Groups of patients, each tested by itself")[1]
        assert re.search(r"sex F memorization\. ?p_ ?value\. ?sex\. ?F 0\.62", table)
        assert "0.031" in table
    assert "Groups of patients" not in public(study)


def test_the_page_says_what_was_quarantined(study):
    given = judged(study["protocol"], study["cohort"], grouped())
    text = Page(public(given)).words()
    assert "3 of 300 images were quarantined" in text
    assert "at most 0.5 % would be. 297 images remain." in text
    assert "quarantined" not in Page(public(study)).words()


def smallest(change: str, value: float, curve=()) -> Finding:
    return Finding(
        f"memorization.smallest_rate.{change}",
        value,
        min(value, 0.01),
        max(value, 0.05),
        300,
        "share of synthetic images",
        "lower is better",
        "made up",
        curve=curve,
    )


@pytest.mark.parametrize("page", [private, public])
def test_kinds_of_copies_have_a_table_the_worst_seen_first(study, page):
    rows = [
        smallest("exact", 0.02, ((0.01, 0.3), (0.02, 0.97))),
        smallest("crop", 1.0, ((0.01, 0.1), (0.1, 0.4))),
    ]
    text = page(study, findings=study["findings"] | {row.name: row for row in rows})
    table = text[text.index("How few copies the test") :]
    assert table.index("crop") < table.index("exact")
    assert "not seen" in table
    assert sum(tag == "svg" and a.get("class") == "power" for tag, a in Page(text).tags) == 2


def test_the_curve_of_caught_copies_marks_where_it_is_reached():
    reached = power_curve(smallest("exact", 0.02, ((0.01, 0.3), (0.02, 0.97))), 0.1)
    assert reached.count("<circle") == 1
    assert power_curve(smallest("crop", 1.0, ((0.01, 0.1),)), 0.1).count("<circle") == 0
    assert power_curve(smallest("crop", 1.0), 0.1) == ""
