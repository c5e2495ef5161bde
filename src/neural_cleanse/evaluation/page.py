"""Benchmark rows as one self-contained HTML page with two charts: no script, no request, every name escaped."""

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from neural_cleanse.evaluation.tables import finished, kind, misses, summary, tables

Row = Mapping[str, Any]

SMALLEST_P = 1e-10  # the left end of the axis; what lies beyond is drawn there
LEFT, RIGHT = 230.0, 790.0  # of the strip chart, in units of its view box


def html(rows: Sequence[Row]) -> str:
    """The page."""
    done = finished(rows)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("neural_cleanse.evaluation").joinpath("page.html").read_text("utf-8"))
    groups: dict[str, list[Row]] = {}
    for row in done:
        groups.setdefault(kind(row["truth"]) if row["truth"]["infected"] else "(clean)", []).append(row)
    return template.render(
        summary=summary(rows),
        strips=[{"name": name, "dots": [_dot(row) for row in group]} for name, group in sorted(groups.items())],
        decades=[{"x": _x(10.0**power), "name": f"1e{power}" if power else "1"} for power in range(-10, 1, 2)],
        alpha_x=_x(done[0]["alpha"]) if done else LEFT,
        curve=_curve(done),
        tables=tables(rows),
    )


def _dot(row: Row) -> dict[str, Any]:
    p_value = 1.0 if row["p_value"] is None else row["p_value"]
    title = f"{row['model']}: {row['verdict']} {row['flagged'] or ''}, p = {p_value:.2g}"
    return {"x": _x(p_value), "wrong": bool(misses([row])), "title": title}


def _x(p_value: float) -> float:
    share = 1 - math.log(max(p_value, SMALLEST_P)) / math.log(SMALLEST_P)
    return round(LEFT + share * (RIGHT - LEFT), 1)


def _curve(rows: Sequence[Row]) -> str:
    """The distribution of clean models' p-values, as steps from (0, 0) to (1, 1)."""
    values = sorted(row["p_value"] for row in rows if not row["truth"]["infected"] and row["p_value"] is not None)
    corners = [(0.0, 0.0)]
    for rank, value in enumerate(values, 1):
        corners += [(value, (rank - 1) / len(values)), (value, rank / len(values))]
    return " ".join(f"{40 + 240 * x:.1f},{200 - 190 * y:.1f}" for x, y in corners)
