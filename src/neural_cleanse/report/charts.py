"""The charts of the page: the size of every label, and what pruning does to accuracy and to the trigger."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from neural_cleanse.report import svg as figure
from neural_cleanse.report import text as wording
from neural_cleanse.results.records import LabelResult, ScanResult
from neural_cleanse.results.repair import TracePoint

MANY_LABELS = 43  # above, rows have no room for a name
WIDTH = 460.0  # points
ROW = 18.0
TOP = 40.0  # room for two lines over the frame
NAME_SHOWN = 14  # characters of a label beside its row
FLAGGED_NAMED = 10  # flagged labels with their name in a chart of many
LETTER = 8.5  # width of one in a name; on a phone the page enlarges it
TALL = 330.0
ROOM = 1.2  # between the outermost point and the frame
SMALLEST = 1e-2  # px: where a trigger of no size is drawn on a logarithmic axis


def sizes(result: ScanResult) -> str:
    """Size of every label on a logarithmic axis, smallest on top; empty where none has a size.

    A dashed line is the detection limit, a dotted one the median; a thin line through a point is one standard deviation
    over restarts.
    """
    rows = [bar.row for bar in wording.bars(result) if bar.row.size is not None and math.isfinite(bar.row.size)]
    if not rows:
        return ""
    flagged = result.flagged_pairs
    named = len(rows) <= MANY_LABELS
    titles = wording.Titles(result)
    groups = {
        "label": [(place, row) for place, row in enumerate(rows) if wording.pair(row) not in flagged],
        "flagged": [(place, row) for place, row in enumerate(rows) if wording.pair(row) in flagged],
    }

    def paint(axes: Any) -> None:
        _axes(axes, rows, result.detection_limit, named)
        _reference_lines(axes, result.detection_limit, statistics.median(_size(row) for row in rows))
        for gid, members in groups.items():
            _points(axes, gid, members, small=not named)
        if named:
            axes.set_yticks(range(len(rows)), names)
            axes.tick_params(axis="y", length=0)
        else:
            axes.set_ylabel("labels, smallest first")
            for line, (place, row) in enumerate(groups["flagged"][:FLAGGED_NAMED]):
                text = f"{titles.short(row, 2 * NAME_SHOWN)}, {_size(row):.1f} px"
                place_of_text = (10, 2 - 2 * ROW * line / 3)
                axes.annotate(text, (_size(row), place), place_of_text, textcoords="offset points", color=figure.ALARM)

    height = len(rows) * ROW if named else TALL
    names = [titles.short(row, NAME_SHOWN) for row in rows] if named else []
    margins = (24.0 + LETTER * max(map(len, names), default=4), 20.0, 44.0, TOP)
    notes = {gid: [_note(row, titles, gid) for _, row in members] for gid, members in groups.items() if members}
    name = f"trigger size of {len(rows)} labels in pixels, smallest first; the table holds the same numbers"
    return figure.draw(paint, size=(WIDTH, height + 44.0 + TOP), margins=margins, name=name, notes=notes)


def _axes(axes: Any, rows: Sequence[LabelResult], limit: float | None, named: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    spread = [row.log_size_sd or 0.0 for row in rows]
    values = [_size(row) * math.exp(sign * sd) for row, sd in zip(rows, spread, strict=True) for sign in (-1, 1)]
    values += [] if limit is None else [max(limit, SMALLEST)]
    low, high = min(values) / ROOM, max(values) * ROOM
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5 - (0.0 if named else 0.06 * len(rows)))
    decades = math.log10(high / low)
    axes.xaxis.set_major_locator(
        MaxNLocator(5, min_n_ticks=2)
        if decades < 1
        else LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,), numticks=20)
    )
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("trigger size, px (logarithmic)")
    axes.grid(axis="both" if named else "x", linewidth=0.6)
    axes.set_axisbelow(True)


def _reference_lines(axes: Any, limit: float | None, middle: float) -> None:
    """The detection limit and the median, each with its name on a line of its own above the frame."""
    axes.axvline(middle, color=figure.SOFT, linestyle=":", linewidth=1.2)
    _above(axes, middle, f"median {middle:.1f}", 4, figure.SOFT)
    if limit is None or limit <= 0:
        return
    axes.axvspan(axes.get_xlim()[0], limit, color=figure.ALARM, alpha=0.07, linewidth=0)
    axes.axvline(limit, color=figure.ALARM, linestyle="--", linewidth=1.4)
    _above(axes, limit, f"detection limit {limit:.1f}", 20, figure.ALARM)


def _above(axes: Any, value: float, text: str, height: float, colour: str) -> None:
    """Text over the frame at a value, towards the middle, so that it stays on the drawing."""
    low, high = axes.get_xlim()
    left = math.log(value / low) < 0.5 * math.log(high / low)
    axes.annotate(
        text, (value, 1), (0, height), xycoords=axes.get_xaxis_transform(), textcoords="offset points",
        ha="left" if left else "right", color=colour,
    )  # fmt: skip


def _points(axes: Any, gid: str, members: Sequence[tuple[int, LabelResult]], *, small: bool) -> None:
    if not members:
        return
    flagged = gid == "flagged"
    colour = figure.ALARM if flagged else figure.BAR
    spread = [(place, row, row.log_size_sd) for place, row in members if row.log_size_sd]
    if spread:
        ends = [(_size(row) * math.exp(-sd), _size(row) * math.exp(sd)) for _, row, sd in spread]
        axes.hlines(
            [place for place, _, _ in spread], [low for low, _ in ends], [high for _, high in ends],
            colors=colour, linewidths=1.5,
        )  # fmt: skip
    axes.scatter(
        [_size(row) for _, row in members], [place for place, _ in members], gid=gid, color=colour, zorder=3,
        marker="D" if flagged else "o", s=42 if flagged else 14 if small else 36, **figure.HOVER,
    )  # fmt: skip


def _note(row: LabelResult, titles: wording.Titles, gid: str) -> str:
    flagged = ", flagged" if gid == "flagged" else ""
    return f"{titles.of(row)}: {_size(row):.1f} px, {wording.p_is(row.p_value)}{flagged}"


def _size(row: LabelResult) -> float:
    assert row.size is not None, "only rows with a size are drawn"
    return max(row.size, SMALLEST)


def pruning(points: Sequence[TracePoint], name: str = "pruning") -> str:
    """Success of the trigger and clean accuracy against the share of neurons pruned; empty under two points."""
    if len(points) < 2:
        return ""
    amounts = [point.amount for point in points]
    lines = {
        "accuracy": ("clean accuracy", [point.accuracy for point in points], figure.GOOD, "-", "o"),
        "success": ("success of the trigger", [point.worst_asr for point in points], figure.ALARM, "--", "D"),
    }

    def paint(axes: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        for gid, (label, values, colour, style, marker) in lines.items():
            axes.plot(amounts, values, color=colour, linestyle=style, linewidth=1.6, marker=marker, ms=5, label=label)
            axes.scatter(amounts, values, gid=gid, color=(0.0, 0.0, 0.0, 0.0), s=20, **figure.HOVER)
        axes.set_ylim(-0.04, 1.04)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_xlabel("share of neurons pruned")
        axes.grid(linewidth=0.6)
        axes.legend(
            loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, columnspacing=6.0, frameon=False, borderaxespad=0.2
        )

    notes = {
        gid: [f"{amount:.1%} pruned: {label} {value:.1%}" for amount, value in zip(amounts, values, strict=True)]
        for gid, (label, values, *_) in lines.items()
    }
    described = f"{name}: success of the trigger and clean accuracy against the share of neurons pruned"
    return figure.draw(paint, size=(WIDTH, 240.0), margins=(52.0, 16.0, 44.0, 32.0), name=described, notes=notes)
