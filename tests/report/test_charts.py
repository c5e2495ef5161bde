"""The drawings say what they should, in the page's colours, whatever the labels are called."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest
from made_scans import HOSTILE, many, pairs, repaired, result

from neural_cleanse.report import charts, plot
from neural_cleanse.report.text import Titles
from neural_cleanse.results.records import ScanResult

COLOURS = (plot.INK, plot.SOFT, plot.LINE, plot.BAR, plot.ALARM, plot.GOOD)


def drawn(text: str) -> ElementTree.Element:
    """The drawing, which stands in a page and has no name space of its own."""
    root = ElementTree.fromstring(text)
    assert root.tag == "svg"
    return root


def notes(text: str) -> list[str]:
    return [node.text or "" for node in drawn(text).iter("title")]


def places(text: str, note: str) -> list[tuple[float, float]]:
    """Where the points are whose notes contain this."""
    points = [node for node in drawn(text).iter() if (title := node.find("title")) is not None and note in title.text]
    return [place(node) for node in points]


def place(node: ElementTree.Element) -> tuple[float, float]:
    """The middle of a circle, or of a diamond."""
    if node.tag == "circle":
        return float(node.get("cx", "nan")), float(node.get("cy", "nan"))
    x, y = node.get("d", "").partition("m")[0].removeprefix("M").split()
    return float(x), float(y)


def test_every_label_with_a_size_is_a_point_that_says_its_numbers() -> None:
    found = notes(charts.sizes(result()))
    assert len(found) == len(HOSTILE) - 1
    assert found[-1] == "0 <script>alert(1)</script>: 4.5 px, p < 1e-12, flagged"
    assert '1 "><img src=https://evil.example/x onerr…: 71.0 px, p = 0.75' in found


def test_points_lie_by_size_with_the_smallest_on_top() -> None:
    whole = charts.sizes(result(("a", "b", "c", "d", "e")))
    (flagged,) = places(whole, "flagged")
    others = places(whole, "p = 0.75")
    assert all(flagged[0] < x and flagged[1] < y for x, y in others)
    assert others == sorted(others)


def test_names_are_text_and_never_markup_or_formulas() -> None:
    names = ("<script>alert(1)</script>", "$\\frac{1}{2}$", "\u202eabc", "日本", "a", "b", "c")
    root = drawn(charts.sizes(result(names)))
    texts = ["".join(node.itertext()) for node in root.iter("text")]
    assert "1 $\\frac{1}{2…" in texts
    assert "3 日本" in texts
    assert "2 \N{REPLACEMENT CHARACTER}abc" in texts
    assert {node.tag for node in root.iter()} <= {"svg", "g", "path", "rect", "circle", "text", "title"}


def test_the_limit_and_the_median_are_drawn_where_they_are_known() -> None:
    with_both = charts.sizes(result())
    assert "detection limit 12.2" in with_both
    assert "median 74.0" in with_both
    without = charts.sizes(dataclasses.replace(result(), detection_limit=None))
    assert "detection limit" not in without
    assert "median 74.0" in without


@pytest.mark.parametrize("made", [result(), pairs(), many(200)])
def test_colours_are_the_pages_own(made: ScanResult) -> None:
    text = charts.sizes(made)
    assert "var(--alarm)" in text
    assert "var(--bar)" in text
    assert not re.findall(r"#[0-9a-f]{3,6}\b|rgb", text.split(">", 1)[1].partition("<title>")[0])
    colours = {found for style in re.findall(r'(?:fill|stroke):([^;"]+)', text) for found in [style]}
    assert colours <= {"none", "transparent", *(f"var(--{name})" for name in COLOURS)}


def test_pairs_keep_their_numbers_when_names_are_long() -> None:
    text = charts.sizes(pairs())
    assert "3 -&gt; 8" in text
    assert "9 -&gt; 7" in text
    assert len(notes(text)) == 18


def test_of_a_thousand_labels_only_the_flagged_one_is_named() -> None:
    text = charts.sizes(many())
    assert len(notes(text)) == 1283 - 13
    names = ["".join(node.itertext()) for node in drawn(text).iter("text")]
    assert "77 person 77, 9.0 px" in names
    assert not [name for name in names if "person 5" in name]
    assert len(text) < 500_000


def test_where_nothing_has_a_size_nothing_is_drawn() -> None:
    bare = result()
    none = tuple(dataclasses.replace(row, size=None) for row in bare.labels)
    assert charts.sizes(dataclasses.replace(bare, labels=none)) == ""


@pytest.mark.parametrize("sizes", [(0.0, 50.0), (50.0, 50.0), (1e-9, 1e9), (5e-324, 1e308)])
def test_odd_sizes_are_drawn_all_the_same(sizes: tuple[float, float]) -> None:
    bare = result(("a", "b"))
    rows = tuple(dataclasses.replace(row, size=size) for row, size in zip(bare.labels, sizes, strict=True))
    assert len(notes(charts.sizes(dataclasses.replace(bare, labels=rows, detection_limit=0.0)))) == 2


def test_the_same_scan_is_drawn_the_same() -> None:
    assert charts.sizes(result()) == charts.sizes(result())


def test_a_logarithmic_axis_has_round_ticks_few_enough_to_read() -> None:
    assert plot.logarithmic_ticks(4.0, 120.0) == [5, 10, 20, 50, 100]
    assert plot.logarithmic_ticks(40.0, 65.0) == [40, 45, 50, 55, 60, 65]
    assert plot.logarithmic_ticks(0.5, 2e4) == [1, 10, 100, 1000, 10_000]
    for low, high in ((1e-2, 1e12), (9.9, 10.1), (1.0, 999.0), (0.011, 0.013)):
        found = plot.logarithmic_ticks(low, high)
        assert 2 <= len(found) <= 12 and found == sorted(set(found)) and low <= found[0] and found[-1] <= high


def test_ticks_stand_where_points_of_their_value_are() -> None:
    bare = result(("a", "b", "c"))
    rows = tuple(dataclasses.replace(row, size=size) for row, size in zip(bare.labels, (5.0, 50.0, 20.0), strict=True))
    text = charts.sizes(dataclasses.replace(bare, labels=rows))
    ticks = {node.text: float(node.get("x", "nan")) for node in drawn(text).iter("text")}
    for size, (x, _) in ((size, places(text, f": {size}.0 px")[0]) for size in (5, 20, 50)):
        assert ticks[str(size)] == pytest.approx(x)


def test_the_pruning_curve_holds_every_try_twice() -> None:
    trace = repaired().rounds[0].trace
    text = charts.pruning(trace)
    found = notes(text)
    assert len(found) == 2 * len(trace)
    assert found[1] == "10.0% pruned: clean accuracy 97.0%"
    assert "10.0% pruned: success of the trigger 75.0%" in found
    assert charts.pruning(trace[:1]) == ""


def test_drawings_have_no_names_that_could_clash_on_a_page() -> None:
    assert " id=" not in charts.sizes(result()) + charts.pruning(repaired().rounds[0].trace)


def test_tries_of_one_amount_are_drawn_too() -> None:
    trace = tuple(dataclasses.replace(point, amount=0.25) for point in repaired().rounds[0].trace)
    assert len({x for x, _ in places(charts.pruning(trace), "clean accuracy")}) == 1


def test_every_variable_of_the_drawing_is_one_of_the_pages() -> None:
    from importlib.resources import files

    page = files("neural_cleanse.report").joinpath("report.css").read_text("utf-8")
    for variable in COLOURS:
        assert page.count(f"--{variable}:") >= 2, "in light and in dark"


def test_a_short_name_is_left_whole() -> None:
    titles = Titles(pairs())
    assert titles.short(pairs().labels[0], 40) == titles.of(pairs().labels[0])
