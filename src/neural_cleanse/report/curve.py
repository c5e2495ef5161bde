"""The pruning curve as an SVG picture: success of the trigger and clean accuracy against the share that is pruned."""

from collections.abc import Sequence

from neural_cleanse.records import TracePoint

WIDTH, HEIGHT, MARGIN = 480, 200, 36


def curve(points: Sequence[TracePoint]) -> str:
    """The SVG element; empty where there are fewer than two points. Colours are those of the page."""
    if len(points) < 2:
        return ""
    bottom, right = HEIGHT - MARGIN, WIDTH - MARGIN
    most = max(point.amount for point in points)

    def line(values: Sequence[float], colour: str) -> str:
        places = (
            f"{MARGIN + (WIDTH - 2 * MARGIN) * point.amount / most:.1f},{bottom - (bottom - MARGIN) * value:.1f}"
            for point, value in zip(points, values, strict=True)
        )
        return f'<polyline points="{" ".join(places)}" fill="none" stroke="var(--{colour})" stroke-width="2"/>'

    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="success of the trigger and clean accuracy against '
        f'the share of pruned neurons" style="max-width: 30rem; width: 100%">'
        f'<path d="M{MARGIN} {MARGIN}V{bottom}H{right}" fill="none" stroke="var(--line)"/>'
        + line([point.accuracy for point in points], "good")
        + line([point.worst_asr for point in points], "alarm")
        + _text(4, MARGIN + 4, "100 %")
        + _text(4, bottom + 4, "0 %")
        + _text(right - 110, HEIGHT - 8, f"pruned, up to {most:.0%}")
        + _text(MARGIN + 8, HEIGHT - 8, "accuracy", "good")
        + _text(MARGIN + 90, HEIGHT - 8, "success of the trigger", "alarm")
        + "</svg>"
    )


def _text(x: int, y: int, text: str, colour: str = "soft") -> str:
    return f'<text x="{x}" y="{y}" font-size="12" fill="var(--{colour})">{text}</text>'
