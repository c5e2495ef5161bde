"""The charts of docs/reproduction.md as files of SVG, from benchmarks/results/reproduce.jsonl.

python benchmarks/reproduce_charts.py
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neural_cleanse.report import plot
from neural_cleanse.report.plot import ALARM, BAR, GOOD, SOFT, Chart, Frame, Group, Line, Point, Text
from reproduce_rows import Row
from reproduce_tables import ROOT, ROWS, of_way
from resumable import rows_in

FOLDER = ROOT / "docs" / "reproduction"
WIDTH, HEIGHT = 460.0, 250.0
FRAME = Frame(52.0, 46.0, WIDTH - 16.0, 206.0)
# The page's own style sheet is not there: colours of a chart that stands by itself.
COLOURS = {"ink": "#1c2024", "soft": "#555c63", "line": "#d5dade", "bar": "#4f6f92", "alarm": "#b42323",
           "good": "#2f7d4f", "paper": "#ffffff"}  # fmt: skip
STEPS_DRAWN = 60
LEGEND = 150.0  # points between two entries


@dataclass(frozen=True)
class Curve:
    """A named line through points (x, y), and how it is drawn."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dashes: str = ""


def drawn(
    name: str,
    curves: Sequence[Curve],
    across: str,
    x_text: Callable[[float], str],
    y_ticks: Sequence[tuple[float, str]],
) -> str:
    """A chart of its own; the first and last of `y_ticks` are the ends of the axis."""
    xs = [x for curve in curves for x, _ in curve.points]
    low, high = min(xs), max(xs)
    x_of = plot.scale(low, high, FRAME.left, FRAME.right)
    y_of = plot.scale(y_ticks[0][0], y_ticks[-1][0], FRAME.bottom, FRAME.top)
    lines, texts = plot.axis_across(
        FRAME, [(x_of(tick), x_text(tick)) for tick in plot.linear_ticks(low, high)], across
    )
    more_lines, more_texts = plot.axis_down(FRAME, [(y_of(value), text) for value, text in y_ticks])
    lines, texts, groups = [*lines, *more_lines], [*texts, *more_texts], []
    for number, curve in enumerate(curves):
        x, y = FRAME.left + LEGEND * (number % 2), 14.0 + 16.0 * (number // 2)
        spots = [(x_of(x_value), y_of(y_value)) for x_value, y_value in curve.points]
        lines += [Line(plot.joined(spots), curve.colour, 1.6, curve.dashes)]
        lines += [Line(plot.straight(x, y, x + 20, y), curve.colour, 1.6, curve.dashes)]
        texts.append(Text(x + 26.0, y + plot.DESCENT, curve.name))
        groups.append(Group([Point(*spot, "") for spot in spots], curve.colour, 1.8))
    return alone(Chart(name, WIDTH, HEIGHT, (), lines, texts, groups))


def alone(chart: Chart) -> str:
    """The chart as a file that needs no page around it."""
    style = ";".join(f"--{name}:{colour}" for name, colour in COLOURS.items())
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH:g}" height="{HEIGHT:g}" font-family="sans-serif" '
    text = str(chart.svg()).replace("<svg ", f'{head}style="{style};background:#ffffff" ', 1)
    return "\n".join(line for line in text.splitlines() if line.strip()) + "\n"


def ranks(found: Sequence[Row]) -> str:
    """Place of the infected label by size, after each of the first steps."""
    looks = (("reference", "badnets", ALARM, ""), ("default", "badnets", BAR, ""),
             ("reference", "trojan-square", GOOD, "5 2.5"), ("default", "trojan-square", SOFT, "5 2.5"))  # fmt: skip
    curves = []
    for way, model, colour, dashes in looks:
        row = of_way(found, way).get(model)
        if row is not None:
            places = row["scan"]["ranks"]["places"][:STEPS_DRAWN]
            spots = [(float(step), float(place)) for step, place in enumerate(places, 1)]
            curves.append(Curve(f"{model}, {way}", spots, colour, dashes))
    ticks = [(10.0, "10th"), (7.0, "7th"), (4.0, "4th"), (1.0, "1st")]
    return drawn("place of the infected label by size", curves, "steps", lambda tick: f"{tick:g}", ticks)


def pruning(found: Sequence[Row], place: str) -> str:
    """Accuracy and success of both triggers against the share of neurons pruned, in the paper's ranking."""
    row = of_way(found, "reference").get("badnets") or of_way(found, "default")["badnets"]
    (curve,) = (one for one in row["pruning"] if (one["place"], one["ranking"]) == (place, "difference"))
    names = (("clean accuracy", GOOD, ""), ("recovered trigger", BAR, "5 2.5"), ("original trigger", ALARM, ""))
    curves = [
        Curve(name, [(point[0], point[number]) for point in curve["points"]], colour, dashes)
        for number, (name, colour, dashes) in enumerate(names, 1)
    ]
    ticks = [(step / 5, f"{20 * step}%") for step in range(6)]
    layer = "last convolution" if place == "convolution" else "second last layer"
    return drawn(f"pruning the {layer}", curves, "share of neurons pruned", lambda tick: f"{100 * tick:g}%", ticks)


CHARTS: dict[Path, Callable[[Sequence[Row]], str]] = {
    FOLDER / "ranks.svg": ranks,
    FOLDER / "pruning-features.svg": lambda found: pruning(found, "features"),
    FOLDER / "pruning-convolution.svg": lambda found: pruning(found, "convolution"),
}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    FOLDER.mkdir(exist_ok=True)
    for path, chart in CHARTS.items():
        path.write_text(chart(rows_in(ROWS)), encoding="utf-8")
