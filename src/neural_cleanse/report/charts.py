"""The charts of the page: the size of every label, and what pruning does to accuracy and to the trigger."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from neural_cleanse.report import plot
from neural_cleanse.report.content import student_sizes
from neural_cleanse.report.plot import ALARM, BAR, GOOD, SOFT, Chart, Frame, Group, Line, Point, Shade, Text
from neural_cleanse.report.text import Titles, bars
from neural_cleanse.results.records import LabelResult, ScanResult
from neural_cleanse.results.repair import TracePoint
from neural_cleanse.text import p_is

MOST_NAMED = 43  # above, rows have no room for a name
WIDTH = 460.0  # points
ROW = 18.0
TOP = 40.0  # space for two lines over the frame
BELOW = 44.0  # and for the axis and its title under it
NAME_SHOWN = 14  # characters of a label beside its row
FLAGGED_NAMED = 10  # flagged labels with their name in a chart of many
LETTER = 8.5  # width of one in a name; on a phone the page enlarges it
TALL = 330.0
MARGIN = 1.2  # factor between the outermost point and the frame
SMALLEST, LARGEST = 1e-2, 1e12  # px: where a trigger of no size, or of an absurd one, is drawn on a logarithmic axis

Row = tuple[float, LabelResult]  # y, and what is drawn there


def sizes(result: ScanResult) -> Markup:
    """Size of every label on a logarithmic axis, smallest on top; empty where none has a size.

    A dashed line is the detection limit, a dotted one the median; a thin line through a point is one standard deviation
    over restarts; hollow points are the same labels in the student, where there is one.
    """
    rows = [bar.row for bar in bars(result) if bar.row.size is not None and math.isfinite(bar.row.size)]
    if not rows:
        return Markup()
    named = len(rows) <= MOST_NAMED
    titles = Titles(result)
    names = [titles.short(row, NAME_SHOWN) for row in rows] if named else []
    height = len(rows) * ROW if named else TALL
    left = 24.0 + LETTER * max(map(len, names), default=4)
    frame = Frame(left, TOP, WIDTH - 20.0, TOP + height)
    student = student_sizes(result)
    ends = [] if result.detection_limit is None else [result.detection_limit]
    low, high = _limits(rows, [*ends, *student.values()])
    across = plot.scale(math.log(low), math.log(high), frame.left, frame.right)
    first = 0.5 if named else 0.5 + 0.06 * len(rows)  # space for names over the first of many points
    down = plot.scale(-first, len(rows) - 0.5, frame.top, frame.bottom)
    placed = [(down(number), row) for number, row in enumerate(rows)]

    def x_of(value: float) -> float:
        return across(math.log(_drawable(value)))

    lines, texts = plot.axis_across(
        frame,
        [(x_of(tick), f"{tick:g}") for tick in plot.logarithmic_ticks(low, high)],
        "trigger size, px (logarithmic)",
    )
    if named:
        y_ticks = [(y, name) for (y, _), name in zip(placed, names, strict=True)]
    else:
        y_ticks = [(down(tick), f"{tick:g}") for tick in plot.linear_ticks(0.0, float(len(rows)))]
    more_lines, more_texts = plot.axis_down(frame, y_ticks, grid=named)
    if not named:
        y = plot.rounded((frame.top + frame.bottom) / 2)
        more_texts.append(Text(12.0, y, "labels, smallest first", anchor="middle", upright=True))
    shades, limits, limit_texts = _reference_lines(frame, x_of, result.detection_limit, rows)
    flagged = [(y, row) for y, row in placed if row.pair in result.flagged_pairs]
    others = [(y, row) for y, row in placed if row.pair not in result.flagged_pairs]
    return Chart(
        name=f"trigger size of {len(rows)} labels in pixels, smallest first; the table holds the same numbers",
        width=WIDTH,
        height=height + BELOW + TOP,
        shades=shades,
        lines=[*lines, *more_lines, *limits, *_deviations(others, x_of, BAR), *_deviations(flagged, x_of, ALARM)],
        texts=[*texts, *more_texts, *limit_texts, *([] if named else _names(flagged, x_of, titles))],
        groups=[
            *_in_student(placed, student, x_of, titles, 3.6 if named else 2.0),
            Group([_point(y, row, x_of, titles) for y, row in others], BAR, 3.2 if named else 2.0),
            Group([_point(y, row, x_of, titles, ", flagged") for y, row in flagged], ALARM, 4.6, diamond=True),
        ],
    ).svg()


def _limits(rows: Sequence[LabelResult], more: Sequence[float]) -> tuple[float, float]:
    """Ends of the axis in pixels: all points, their deviations, and whatever more is drawn lie between them."""
    values = [_drawable(end) for row in rows for end in _deviation(row)] + [_drawable(value) for value in more]
    return min(values) / MARGIN, max(values) * MARGIN


def _deviation(row: LabelResult) -> tuple[float, float]:
    """One standard deviation below and above, in pixels."""
    factor = math.exp(min(row.log_size_sd or 0.0, 20.0))
    return _size(row) / factor, _size(row) * factor


def _drawable(value: float) -> float:
    return min(max(value, SMALLEST), LARGEST)


def _size(row: LabelResult) -> float:
    assert row.size is not None, "only rows with a size are drawn"
    return _drawable(row.size)


def _reference_lines(
    frame: Frame, x_of: Callable[[float], float], limit: float | None, rows: Sequence[LabelResult]
) -> tuple[list[Shade], list[Line], list[Text]]:
    """The detection limit and the median, each with its name on a line of its own above the frame."""
    middle = statistics.median(_size(row) for row in rows)
    lines = [Line(plot.straight(x_of(middle), frame.top, x_of(middle), frame.bottom), SOFT, 1.2, "1.2 2")]
    texts = [_above(frame, x_of(middle), f"median {middle:.1f}", 4.0, SOFT)]
    if limit is None or limit <= 0:
        return [], lines, texts
    x = x_of(limit)
    shade = Shade(frame.left, frame.top, plot.rounded(x - frame.left), frame.bottom - frame.top, ALARM)
    lines.append(Line(plot.straight(x, frame.top, x, frame.bottom), ALARM, 1.4, "5 2.5"))
    return [shade], lines, [*texts, _above(frame, x, f"detection limit {limit:.1f}", 20.0, ALARM)]


def _above(frame: Frame, x: float, text: str, height: float, colour: str) -> Text:
    """Text over the frame, towards the middle, so that it stays on the drawing."""
    left = x < (frame.left + frame.right) / 2
    return Text(x, frame.top - height, text, colour, "start" if left else "end")


def _deviations(rows: Sequence[Row], x_of: Callable[[float], float], colour: str) -> list[Line]:
    """A line through each point that has a standard deviation, all of them one path."""
    ends = [(y, _deviation(row)) for y, row in rows if row.log_size_sd]
    path = "".join(plot.straight(x_of(low), y, x_of(high), y) for y, (low, high) in ends)
    return [Line(path, colour, 1.5)] if path else []


def _names(flagged: Sequence[Row], x_of: Callable[[float], float], titles: Titles) -> list[Text]:
    """Names of the first flagged labels beside their points, each a bit higher than the last."""
    return [
        Text(
            x_of(_size(row)) + 10.0,
            plot.rounded(y - 2.0 + 2 * ROW * number / 3),
            f"{titles.short(row, 2 * NAME_SHOWN)}, {_size(row):.1f} px",
            ALARM,
        )
        for number, (y, row) in enumerate(flagged[:FLAGGED_NAMED])
    ]


def _point(y: float, row: LabelResult, x_of: Callable[[float], float], titles: Titles, remark: str = "") -> Point:
    return Point(x_of(_size(row)), y, f"{titles.of(row)}: {_size(row):.1f} px, {p_is(row.p_value)}{remark}")


def _in_student(
    placed: Sequence[Row],
    student: Mapping[int, float],
    x_of: Callable[[float], float],
    titles: Titles,
    radius: float,
) -> list[Group]:
    """The size of each label in the student, in the row of the label."""
    points = [
        Point(x_of(size), y, f"{titles.of(row)} in the student: {size:.1f} px")
        for y, row in placed
        if row.source is None and (size := student.get(row.target)) is not None
    ]
    return [Group(points, SOFT, radius, hollow=True)] if points else []


def pruning(points: Sequence[TracePoint], name: str = "pruning") -> Markup:
    """Success of the trigger and clean accuracy against the share of neurons pruned; empty under two points."""
    if len(points) < 2:
        return Markup()
    amounts = [point.amount for point in points]
    frame = Frame(52.0, 32.0, WIDTH - 16.0, 196.0)
    border = 0.05 * (max(amounts) - min(amounts)) or 0.05
    low, high = min(amounts) - border, max(amounts) + border
    x_of = plot.scale(low, high, frame.left, frame.right)
    y_of = plot.scale(1.04, -0.04, frame.top, frame.bottom)
    lines, texts = plot.axis_across(
        frame,
        [(x_of(tick), f"{100 * tick:g}%") for tick in plot.linear_ticks(low, high) if tick >= 0],
        "share of neurons pruned",
    )
    more_lines, more_texts = plot.axis_down(frame, [(y_of(tick / 5), f"{20 * tick}%") for tick in range(6)])
    lines, texts, groups = [*lines, *more_lines], [*texts, *more_texts], []
    curves = (
        ("clean accuracy", [point.accuracy for point in points], GOOD, "", False, frame.left + 8.0),
        ("success of the trigger", [point.worst_asr for point in points], ALARM, "5 2.5", True, frame.left + 172.0),
    )
    for label, values, colour, dashes, diamond, x in curves:
        places = [(x_of(amount), y_of(value)) for amount, value in zip(amounts, values, strict=True)]
        notes = [f"{amount:.1%} pruned: {label} {value:.1%}" for amount, value in zip(amounts, values, strict=True)]
        lines += [
            Line(plot.joined(places), colour, 1.6, dashes),
            Line(plot.straight(x, 20, x + 20, 20), colour, 1.6, dashes),
        ]
        texts.append(Text(x + 28.0, 20.0 + plot.DESCENT, label))
        drawn = [Point(x + 10.0, 20.0, ""), *(Point(*place, note) for place, note in zip(places, notes, strict=True))]
        groups.append(Group(drawn, colour, 4.0 if diamond else 2.8, diamond))
    described = f"{name}: success of the trigger and clean accuracy against the share of neurons pruned"
    return Chart(name=described, width=WIDTH, height=240.0, shades=(), lines=lines, texts=texts, groups=groups).svg()
