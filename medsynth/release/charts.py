"""Small drawings as inline SVG: an interval beside its bar, how many copies are caught, and
training curves.

Colours come from the page's style sheet by class, so that the drawings follow light, dark and
print.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from ..finding import Finding
from .wording import interval, is_share, quantity, title

BAR_WIDTH, BAR_HEIGHT, MARGIN = 150, 18, 6
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 58, 96, 14, 34
POWER_WIDTH, POWER_HEIGHT, CAUGHT = 240, 46, 0.95
LOG_FROM = 50  # a curve that spans more than this is drawn on a logarithmic axis


@dataclass(frozen=True)
class Curve:
    """Numbers over training: `series` is {name: [(images seen, value), ...]}, `unit` labels y and
    `taken` is where the weights come from that were taken; None where that is the end."""

    title: str
    unit: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    taken: float | None = None


# Intervals --------------------------------------------------------------------------------------


def interval_bar(finding: Finding, limit: float | None = None) -> str:
    """Draw value (dot), interval (line), reference (diamond) and a rule's limit (tall stroke)."""
    if not finding.is_number:
        return ""
    low, high = _range(finding, limit)

    def x(value: float) -> float:
        return MARGIN + (BAR_WIDTH - 2 * MARGIN) * (value - low) / (high - low)

    parts = [f'<line class="axis" x1="{MARGIN}" x2="{BAR_WIDTH - MARGIN}" y1="9" y2="9"/>']
    parts.append(
        f'<line class="span" x1="{x(finding.low):.1f}" x2="{x(finding.high):.1f}" y1="9" y2="9"/>'
    )
    if limit is not None:
        parts.append(
            f'<line class="limit" x1="{x(limit):.1f}" x2="{x(limit):.1f}" y1="1" y2="17"/>'
        )
    if finding.reference is not None and math.isfinite(finding.reference):
        at = x(finding.reference)
        parts.append(f'<path class="reference" d="M{at:.1f} 4.5l4 4.5l-4 4.5l-4 -4.5z"/>')
    parts.append(f'<circle class="value" cx="{x(finding.value):.1f}" cy="9" r="3"/>')
    return _svg(BAR_WIDTH, BAR_HEIGHT, _describe(finding, limit), parts, "bar")


def _range(finding: Finding, limit: float | None) -> tuple[float, float]:
    """Return where the drawing starts and ends: at 0 unless that would hide the differences."""
    shown = [finding.value, finding.low, finding.high]
    shown += [v for v in (limit, finding.reference) if v is not None and math.isfinite(v)]
    low, high = min(shown), max(shown)
    if is_share(finding.unit) and low >= 0 and high <= 1:
        return 0.0, min(1.0, max(0.02, 1.25 * high))
    padding = 0.08 * (high - low) or max(abs(high), 1.0) * 0.1
    return (0.0 if 0 <= low <= 0.6 * high else low - padding), high + padding


def _describe(finding: Finding, limit: float | None) -> str:
    words = f"{title(finding.name)}: {quantity(finding.value, finding.unit)}, {interval(finding)}"
    if finding.reference is not None:
        words += f"; reference {quantity(finding.reference, finding.unit)}"
    return words + (f"; bar at {quantity(limit, finding.unit)}" if limit is not None else "")


# Copies caught ----------------------------------------------------------------------------------


def power_curve(finding: Finding, reach: float) -> str:
    """Draw a smallest rate's curve: the probability that copies are caught against their share of
    the images, from 0 to `reach`, with a fine line at 95 % and a dot where that is reached."""
    if not finding.curve:
        return ""
    to_x = _scale(0.0, reach, MARGIN, POWER_WIDTH - MARGIN)
    to_y = _scale(0.0, 1.0, POWER_HEIGHT - MARGIN, MARGIN)
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in finding.curve)
    ends = f'x1="{MARGIN}" x2="{POWER_WIDTH - MARGIN}"'
    parts = [
        f'<line class="{name}" {ends} y1="{y:.1f}" y2="{y:.1f}"/>'
        for name, y in (("axis", to_y(0.0)), ("grid", to_y(CAUGHT)))
    ]
    parts.append(f'<polyline class="series s0" points="{path}"/>')
    reached = {x: y for x, y in finding.curve if x == finding.value}
    parts += [
        f'<circle class="value" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3"/>'
        for x, y in reached.items()
    ]
    last = finding.curve[-1]
    words = (
        f"{title(finding.name)}: {quantity(finding.value, finding.unit)}, {interval(finding)}; "
        f"with {quantity(last[0], finding.unit)} copies caught in {quantity(last[1], 'share')}"
    )
    return _svg(POWER_WIDTH, POWER_HEIGHT, words, parts, "power")


# Curves -----------------------------------------------------------------------------------------


def curve_svg(curve: Curve) -> str:
    """Draw a curve with direct labels; points that are no number are left out."""
    series = {name: _finite(points) for name, points in curve.series.items()}
    series = {name: points for name, points in series.items() if points}
    if not series:
        return ""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    to_x = _scale(0.0, max(*xs, 1.0), LEFT, WIDTH - RIGHT)
    log = is_logarithmic(curve)
    ticks = _log_ticks(min(ys), max(ys)) if log else _ticks(min(ys), max(ys))
    low, high = min(ticks[0], min(ys)), max(ticks[-1], max(ys))
    to_y = _scale(low, high, HEIGHT - BOTTOM, TOP, log=log)
    parts = [_y_tick(value, to_y(value)) for value in ticks]
    parts += [
        _x_tick(value, to_x(value)) for value in _ticks(0.0, max(*xs, 1.0)) if value <= max(xs)
    ]
    if curve.taken is not None:
        parts.append(_taken(to_x(curve.taken)))
    ends = _spread([to_y(points[-1][1]) for points in series.values()])
    for i, (name, points) in enumerate(series.items()):
        parts.append(_line(name, [(to_x(x), to_y(y)) for x, y in points], ends[i], i))
    words = "; ".join(
        f"{name} from {quantity(points[0][1])} to {quantity(points[-1][1])}"
        for name, points in series.items()
    )
    return _svg(WIDTH, HEIGHT, f"{curve.title}: {words}", parts, "curve")


def is_logarithmic(curve: Curve) -> bool:
    """Return True if `curve_svg` draws this curve on a logarithmic axis."""
    ys = [y for points in curve.series.values() for _, y in _finite(points)]
    return bool(ys) and min(ys) > 0 and max(ys) / min(ys) > LOG_FROM


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if y is not None and math.isfinite(y)]


def _scale(low: float, high: float, start: float, end: float, *, log: bool = False):
    turn = math.log10 if log else float
    a, b = turn(low), turn(high)
    span = (b - a) or 1.0
    return lambda value: start + (end - start) * (turn(value) - a) / span


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers from at most `low` to at least `high`."""
    rough = (high - low) / 4 or abs(high) / 4 or 0.25
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return the round numbers 1, 2, 5 … between low and high, or 1, 10 … where those are many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**i for i in powers for m in (1, 2, 5) if low <= m * 10.0**i <= high]
    return fine if len(fine) <= 6 else [10.0**i for i in powers if low <= 10.0**i <= high]


def _y_tick(value: float, y: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>'
    )


def _x_tick(value: float, x: float) -> str:
    return f'<text x="{x:.1f}" y="{HEIGHT - 12}" text-anchor="middle">{_short(value)}</text>'


def _taken(x: float) -> str:
    return (
        f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{TOP - 3}" text-anchor="middle">taken</text>'
    )


def _short(value: float) -> str:
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _spread(heights: Sequence[float], gap: float = 15.0) -> list[float]:
    """Move labels down until none covers another; the order of the heights stays."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    placed = list(heights)
    for above, below in pairwise(order):
        placed[below] = max(placed[below], placed[above] + gap)
    return placed


def _line(name: str, points: list[tuple[float, float]], label_y: float, i: int) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<polyline class="series s{i % 4}" points="{path}"/>'
        f'<circle class="end s{i % 4}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
        f'<text x="{WIDTH - RIGHT + 8}" y="{label_y + 4:.1f}">{escape(name)}</text>'
    )


def _svg(width: int, height: int, label: str, parts: Sequence[str], kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
