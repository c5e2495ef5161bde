"""What a chart consists of, and the axes around it. Positions are in points, downwards from the top left corner.

The template `chart.svg` writes it: an SVG with a `title` for each point is hovered without a script, so that the page's
Content-Security-Policy forbids scripts altogether. Colours are names of the variables in the page's style sheet.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from neural_cleanse.report.templates import render

INK, SOFT, LINE, BAR, ALARM, GOOD = "ink", "soft", "line", "bar", "alarm", "good"
FEW_TICKS = 6  # at most so many on a linear axis
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)  # between two ticks, times a power of ten
TICK = 3.5  # length of one
DESCENT = 3.5  # from the middle of a line of text to its base line


@dataclass(frozen=True)
class Shade:
    """A rectangle behind everything."""

    x: float
    y: float
    width: float
    height: float
    colour: str


@dataclass(frozen=True)
class Line:
    """A line; `path` in the SVG's own words, `dashes` lengths of dash and gap."""

    path: str
    colour: str
    width: float
    dashes: str = ""


@dataclass(frozen=True)
class Text:
    """A line of text on its base line; `anchor` start, middle or end."""

    x: float
    y: float
    text: str
    colour: str = INK
    anchor: str = "start"
    upright: bool = False


@dataclass(frozen=True)
class Point:
    """A point, and what is said when it is hovered; nothing in a legend."""

    x: float
    y: float
    note: str


@dataclass(frozen=True)
class Group:
    """Points of one look: diamonds, circles, or hollow circles."""

    points: Sequence[Point]
    colour: str
    radius: float
    diamond: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Chart:
    """A whole drawing; `name` is what a screen reader says. Later parts are drawn over earlier ones."""

    name: str
    width: float
    height: float
    shades: Sequence[Shade] = ()
    lines: Sequence[Line] = ()
    texts: Sequence[Text] = ()
    groups: Sequence[Group] = ()

    def svg(self) -> Markup:
        """The SVG element, for a page."""
        return Markup(render("chart.svg", chart=self))


@dataclass(frozen=True)
class Frame:
    """The rectangle that points lie in."""

    left: float
    top: float
    right: float
    bottom: float


def straight(x1: float, y1: float, x2: float, y2: float) -> str:
    """The path from one point to the other."""
    return joined([(x1, y1), (x2, y2)])


def joined(points: Sequence[tuple[float, float]]) -> str:
    """The path through all of the points."""
    return "M" + "L".join(f"{rounded(x)} {rounded(y)}" for x, y in points)


def rounded(value: float) -> float:
    """A position as it is written: hundredths of a point."""
    return round(value, 2)


def axis_across(frame: Frame, ticks: Sequence[tuple[float, str]], title: str) -> tuple[list[Line], list[Text]]:
    """The lower axis: its line, ticks at (x, text) with a grid line each, and a title."""
    middle = rounded((frame.left + frame.right) / 2)
    lines = [Line(straight(x, frame.top, x, frame.bottom), LINE, 0.6) for x, _ in ticks]
    lines += [Line(straight(x, frame.bottom, x, frame.bottom + TICK), SOFT, 0.8) for x, _ in ticks]
    lines.append(Line(straight(frame.left, frame.bottom, frame.right, frame.bottom), SOFT, 0.8))
    texts = [Text(rounded(x), frame.bottom + 15.0, text, anchor="middle") for x, text in ticks]
    return lines, [*texts, Text(middle, frame.bottom + 33.0, title, anchor="middle")]


def axis_down(frame: Frame, ticks: Sequence[tuple[float, str]], *, grid: bool = True) -> tuple[list[Line], list[Text]]:
    """The left axis: its line, and ticks at (y, text) with a grid line each."""
    lines = [Line(straight(frame.left, y, frame.right, y), LINE, 0.6) for y, _ in ticks if grid]
    lines.append(Line(straight(frame.left, frame.top, frame.left, frame.bottom), SOFT, 0.8))
    texts = [Text(rounded(frame.left - 6.0), rounded(y + DESCENT), text, anchor="end") for y, text in ticks]
    return lines, texts


def linear_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, at most FEW_TICKS of them; `low` is below `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / FEW_TICKS))
    step = next(factor * power for factor in (*STEPS, 20.0) if (high - low) / (factor * power) < FEW_TICKS)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 12) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis: under one decade as on a linear one, then 1, 2, 5, then powers of ten."""
    decades = math.log10(high / low)
    if decades < 1:
        return linear_ticks(low, high)
    factors = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    every = math.ceil(decades / (2 * FEW_TICKS))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, every)
    return [value for power in powers for factor in factors if low <= (value := factor * 10.0**power) <= high]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a value lies between `start` and `end`."""
    return lambda value: rounded(start + (value - low) / (high - low) * (end - start))
