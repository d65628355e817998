"""Geometry of the page's charts: from points and counts to SVG coordinates. Pure; the template draws."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dpojob_trainer.report.history import Points, smoothed, thinned
from dpojob_trainer.report.words import number

WIDTH, HEIGHT = 460.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 24.0, 26.0
MAX_POINTS = 320
# As many places answer to the pointer; more would only make the page larger.
MAX_HOVERS = 96
SMOOTHED_FROM = 60
TICKS = 4


@dataclass(frozen=True)
class Curve:
    """What is drawn as one line: its label, its style (a CSS class), its points, and whether each gets a dot."""

    label: str
    style: str
    points: Points
    dots: bool = False


@dataclass(frozen=True)
class Tick:
    """A label of an axis at a coordinate."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A drawn curve: the smoothed path, and behind it the raw one if they differ."""

    label: str
    style: str
    path: str
    raw: str | None
    dots: list[tuple[float, float]]
    last: str


@dataclass(frozen=True)
class Hover:
    """A column of the chart that shows the values at its step while the pointer is in it."""

    left: float
    width: float
    at: float
    text: str
    dots: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Chart:
    """One chart with everything placed."""

    title: str
    description: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    guide: Tick | None
    hovers: list[Hover]


@dataclass(frozen=True)
class Scale:
    """A linear map from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def chart(title: str, description: str, curves: Sequence[Curve], guide: float | None = None) -> Chart | None:
    """Place curves in one chart; None if there is nothing to draw. `guide` is a value with a line of its own."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    values = [y for curve in curves for _, y in curve.points] + ([guide] if guide is not None else [])
    steps = [x for curve in curves for x, _ in curve.points]
    marks = nice_ticks(min(values), max(values), TICKS)
    x = Scale(*widened(min(steps), max(steps)), LEFT, WIDTH - RIGHT)
    y = Scale(*widened(min(*values, marks[0]), max(*values, marks[-1])), HEIGHT - BOTTOM, TOP)
    return Chart(
        title=title,
        description=description,
        lines=[line(curve, x, y) for curve in curves],
        x_ticks=[Tick(x(mark), number(mark)) for mark in whole_ticks(x.low, x.high)],
        y_ticks=[Tick(y(mark), number(mark)) for mark in marks],
        guide=None if guide is None else Tick(y(guide), number(guide)),
        hovers=hovers(curves, x, y),
    )


def line(curve: Curve, x: Scale, y: Scale) -> Line:
    """Draw one curve; a noisy one as its moving mean with the raw values behind it."""
    noisy = not curve.dots and len(curve.points) >= SMOOTHED_FROM
    shown = smoothed(curve.points, max(3, len(curve.points) // 25)) if noisy else curve.points
    single = len(curve.points) == 1
    return Line(
        label=curve.label,
        style=curve.style,
        path=path(thinned(shown, MAX_POINTS), x, y),
        raw=path(thinned(curve.points, MAX_POINTS), x, y) if noisy else None,
        dots=[(x(at), y(value)) for at, value in curve.points] if curve.dots or single else [],
        last=number(curve.points[-1][1]),
    )


def path(points: Points, x: Scale, y: Scale) -> str:
    """Return the SVG path through points."""
    return "M" + "L".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)


def hovers(curves: Sequence[Curve], x: Scale, y: Scale) -> list[Hover]:
    """Return the columns that answer to the pointer, each with the values of the curves that have its step."""
    values: list[dict[float, float]] = [dict(curve.points) for curve in curves]
    steps = sorted({step for found in values for step in found})
    stride = -(-len(steps) // MAX_HOVERS)
    # A step with an evaluation is never left out, however many steps there are.
    marked = {step for curve in curves if curve.dots for step, _ in curve.points}
    kept = [
        step for at, step in enumerate(steps) if at % stride == 0 or step in marked or at == len(steps) - 1
    ]
    edges = [
        x.start - 4,
        *((x(one) + x(two)) / 2 for one, two in pairwise(kept)),
        x.end + 4,
    ]
    return [hover(step, curves, values, (edges[at], edges[at + 1]), (x, y)) for at, step in enumerate(kept)]


def hover(
    step: float,
    curves: Sequence[Curve],
    values: Sequence[Mapping[float, float]],
    edges: tuple[float, float],
    scales: tuple[Scale, Scale],
) -> Hover:
    """Return one column."""
    x, y = scales
    here = [(curve, found[step]) for curve, found in zip(curves, values, strict=True) if step in found]
    words = [f"step {number(step)}", *(f"{curve.label} {number(value)}" for curve, value in here)]
    return Hover(
        left=edges[0],
        width=edges[1] - edges[0],
        at=x(step),
        text=" · ".join(words),
        dots=[(x(step), y(value), curve.style) for curve, value in here],
    )


def widened(low: float, high: float) -> tuple[float, float]:
    """Return a range that is not empty."""
    if high > low:
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, low + margin


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Return about `count` round values that cover a range (Heckbert 1990, "Nice numbers for graph labels")."""
    low, high = widened(low, high)
    step = nice((high - low) / count)
    first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(at * step, 12) for at in range(first, final + 1)]


def nice(span: float) -> float:
    """Return 1, 2, 2.5 or 5 times a power of ten that is not below `span`."""
    power = float(10 ** math.floor(math.log10(span)))
    return next((power * base for base in (1, 2, 2.5, 5) if power * base >= span * (1 - 1e-9)), power * 10)


def whole_ticks(low: float, high: float) -> list[float]:
    """Return round whole steps within a range."""
    step = max(1.0, nice((high - low) / 5))
    step = math.ceil(step)
    return [float(at) for at in range(math.ceil(low / step) * step, math.floor(high) + 1, step)]


@dataclass(frozen=True)
class Bar:
    """One bar of the histogram."""

    left: float
    top: float
    width: float
    height: float
    style: str
    text: str


@dataclass(frozen=True)
class Histogram:
    """Lengths of prompts and completions, in tokens: bars side by side for each range of lengths."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: float


SIDES = ("prompt", "chosen", "rejected")
WIDE = 940.0
# Three bars share four fifths of their range's width.
BAR = 0.8 / len(SIDES)


def histogram(lengths: Mapping[str, Mapping[str, object]]) -> Histogram | None:
    """Place the data report's length histograms; None without any."""
    counts = {side: bins_of(lengths[side]) for side in SIDES if side in lengths}
    bounds = sorted({bound for found in counts.values() for bound in found})
    most = max((count for found in counts.values() for count in found.values()), default=0)
    if not most:
        return None
    marks = [mark for mark in nice_ticks(0, most, TICKS) if mark == int(mark)]
    y = Scale(0, max(most, marks[-1]), HEIGHT - BOTTOM, TOP)
    slot = (WIDE - LEFT - RIGHT) / len(bounds)
    bars = [
        bar(
            side,
            LEFT + (at + 0.1) * slot + place * slot * BAR,
            slot * BAR,
            bound,
            counts[side][bound],
            y,
        )
        for at, bound in enumerate(bounds)
        for place, side in enumerate(SIDES)
        if counts.get(side, {}).get(bound, 0)
    ]
    every = -(-len(bounds) // 12)
    labels = [
        Tick(LEFT + (at + 0.5) * slot, f"≤ {number(bound)}")
        for at, bound in enumerate(bounds)
        if at % every == 0
    ]
    return Histogram(bars, labels, [Tick(y(mark), number(mark)) for mark in marks], WIDE)


def bar(side: str, left: float, width: float, bound: int, count: int, y: Scale) -> Bar:
    """Place one bar."""
    return Bar(
        left=left,
        top=y(count),
        width=max(width - 1.5, 1.0),
        height=y.start - y(count),
        style=side,
        text=f"{side}: {count:,} with up to {bound:,} tokens",
    )


def bins_of(stats: Mapping[str, object]) -> dict[int, int]:
    """Return counts by upper bound of the data report's bins."""
    found = stats.get("bins")
    return {int(one["upTo"]): int(one["count"]) for one in found} if isinstance(found, list) else {}
