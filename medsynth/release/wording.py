"""How numbers and names are written for people: the same words in reasons, cards and reports."""

from __future__ import annotations

import math

from ..finding import Finding

UNSAID = ("", "1", "none", "probability", "p", "p-value")  # add nothing to a number
ABBREVIATIONS = {
    "mse": "MSE",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "p_value": "p-value",
    "auc": "AUC",
    "split_auc": "split AUC",
    "tpr_1": "found at 1 % false alarms",
    "tpr_01": "found at 0.1 % false alarms",
    "pia": "proximal initialisation",
}


def is_share(unit: str) -> bool:
    """Return True for "share" and "share of …": numbers that are written in per cent."""
    return unit.split(" ")[0] in ("share", "proportion", "fraction")


def sign(unit: str) -> str:
    """Return the part of a unit that stands beside its number in a table: "share" (%) or "dB"."""
    return unit if is_share(unit) or len(unit) <= 3 else ""


def unit_note(unit: str) -> str:
    """Return what `sign` leaves unsaid of a unit: "of planted copies", or ""."""
    if is_share(unit):
        return unit.partition(" ")[2]
    return "" if sign(unit) or unit in UNSAID else unit


def quantity(value: float | None, unit: str = "", *, digits: int = 3) -> str:
    """Write a number with its unit; a share is written in per cent, NaN as "not a number"."""
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinity"
    if is_share(unit):
        return f"{_plain(100 * value, digits)} %"
    return _plain(value, digits) + ("" if unit in UNSAID else f" {unit}")


def pair(a: float, b: float, unit: str = "") -> tuple[str, str]:
    """Write two numbers with as many digits as it takes to tell them apart."""
    for digits in range(3, 18):
        first, second = quantity(a, unit, digits=digits), quantity(b, unit, digits=digits)
        if first != second or a == b:
            return first, second
    return repr(a), repr(b)


def interval(finding: Finding) -> str:
    """Write a finding's interval as "low to high", "exact" where it has no width."""
    if finding.low == finding.high == finding.value:
        return "exact"
    unit = finding.unit if is_share(finding.unit) else ""
    return f"{quantity(finding.low, unit)} to {quantity(finding.high, unit)}"


def title(name: str) -> str:
    """Return a finding's name as words: "memorization.copy_rate" -> "copy rate"."""
    parts = name.split(".")[1:] or [name]
    return ", ".join(map(plain, parts))


def plain(part: str) -> str:
    """Return one part of a finding's name as words: "copy_rate" -> "copy rate"."""
    return ABBREVIATIONS.get(part, part.replace("_", " "))


def full_title(name: str) -> str:
    """Return a finding's whole name as words: "Memorization, copy rate"."""
    return f"{family(name).capitalize()}, {title(name)}"


def family(name: str) -> str:
    """Return the part of a finding's name that it is grouped by."""
    return name.split(".")[0]


def count(number: int, noun: str) -> str:
    """Write a count with its noun: "1 image", "1,204 images"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _plain(value: float, digits: int) -> str:
    if value == int(value) and abs(value) < 10**7:
        return f"{int(value):,}"
    if abs(value) >= 10**digits and abs(value) < 10**7:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"
