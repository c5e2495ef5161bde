"""A matplotlib figure as an SVG element of the page: no script, the page's own colours, a note on every point.

An SVG with a `title` for each point can be hovered without a script, so that the page's Content-Security-Policy can
forbid scripts altogether, whatever a hostile label is called. The only part of the package that needs matplotlib.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
# Colours of the drawing, each of which stands for a variable of the page's style sheet.
INK, SOFT, LINE, BAR, ALARM, GOOD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line", BAR: "bar", ALARM: "alarm", GOOD: "good"}
POINTS_PER_INCH = 72
FONT_SIZE = 10  # points; the page enlarges it where the drawing shrinks
HOVER = {"edgecolors": (0.0, 0.0, 0.0, 0.0), "linewidths": 8, "clip_on": False}  # an unseen rim, easier to point at
STYLE: Any = {
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": FONT_SIZE,
    "grid.color": LINE,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,  # a label may be called $x$
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
}


def draw(
    paint: Callable[[Any], None],
    *,
    size: tuple[float, float],
    margins: tuple[float, float, float, float],
    name: str,
    notes: Mapping[str, Sequence[str]],
) -> str:
    """The SVG element that `paint` makes of a pair of axes.

    `size` is width and height and `margins` are left, right, bottom and top, in points; `name` is what a screen reader
    says; `notes` holds, for each group of points by its gid, what hovering each of them shows.
    """
    import matplotlib
    from matplotlib.figure import Figure

    (width, height), (left, right, bottom, top) = size, margins
    stream = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's fonts draw the text, not matplotlib's
        matplotlib.rcdefaults()  # whatever the user's own style is
        matplotlib.rcParams.update(STYLE | {"svg.hashsalt": name})
        figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH), facecolor="none")
        paint(
            figure.add_axes(
                (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
            )
        )
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _for_page(stream.getvalue(), name, notes)


def _for_page(text: str, name: str, notes: Mapping[str, Sequence[str]]) -> str:
    """The drawing without what only a file of its own needs, with notes, a name and the page's colours."""
    root = ElementTree.fromstring(text)
    for gid, lines in notes.items():
        _annotate(root, gid, lines)
    prefix = "c" + hashlib.sha256(name.encode()).hexdigest()[:6]  # names are to differ between drawings of a page
    used = {link.removeprefix("#") for node in root.iter() if (link := node.attrib.get(LINK))}
    used |= {part for node in root.iter() for part in re.findall(r"url\(#([^)]+)\)", node.attrib.get("clip-path", ""))}
    for node in list(root.iter()):
        node.tag = node.tag.removeprefix(SVG)
        node.text = node.text if node.text and node.text.strip() else None
        node.tail = None
        _rename(node, used, prefix)
        if "d" in node.attrib:
            node.set("d", " ".join(node.get("d", "").split()))
        if "style" in node.attrib:
            node.set("style", _style(node.get("style", "")))
        for child in [child for child in node if child.tag.removeprefix(SVG) in ("style", "metadata")]:
            node.remove(child)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib.update({"viewBox": box, "role": "img", "aria-label": name})
    return ElementTree.tostring(root, encoding="unicode")


def _annotate(root: ElementTree.Element, gid: str, lines: Sequence[str]) -> None:
    group = next(node for node in root.iter(f"{SVG}g") if node.get("id") == gid)
    points = list(group.iter(f"{SVG}use"))
    drawn = points or list(group.iter(f"{SVG}path"))  # few points are drawn one by one
    for point, line in zip(drawn, lines, strict=True):
        ElementTree.SubElement(point, f"{SVG}title").text = line


def _rename(node: ElementTree.Element, used: set[str], prefix: str) -> None:
    identity, link = node.attrib.pop("id", None), node.attrib.pop(LINK, None)
    if identity in used:
        node.set("id", f"{prefix}{identity}")
    if link is not None:
        node.set("href", f"#{prefix}{link.removeprefix('#')}")
    if "clip-path" in node.attrib:
        node.set("clip-path", node.get("clip-path", "").replace("url(#", f"url(#{prefix}"))


def _style(text: str) -> str:
    """Placeholders become variables; the font is the page's."""
    kept = [part.strip() for part in text.split(";") if not part.strip().startswith("font-family")]
    joined = ";".join(re.sub(r":\s+", ":", part) for part in kept if part)
    for colour, variable in VARIABLES.items():
        joined = joined.replace(colour, f"var(--{variable})")
    return joined.replace(f"font-size:{FONT_SIZE}px", "").strip(";")
