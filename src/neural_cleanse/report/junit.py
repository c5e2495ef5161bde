"""A ScanResult as JUnit XML, which every continuous integration shows: a test case a label, and one for the verdict.

A flagged label fails; a scan that could not tell is an error of the case "verdict", as its exit code is not 0 either.
"""

from xml.etree import ElementTree

from neural_cleanse.report import summary
from neural_cleanse.report.text import Flagged, Titles, flagged, sentence
from neural_cleanse.results.records import LabelResult, Outcome, ScanResult, Verdict
from neural_cleanse.text import escape

SUITE = "neural-cleanse"
NOT_SEARCHED = (Outcome.NOT_SEARCHED, Outcome.NOT_ENOUGH_IMAGES, Outcome.SCREENED_OUT)


def dumps(result: ScanResult) -> str:
    """The XML text."""
    made = result.provenance
    found = flagged(result)
    alone = {one.pairs[0]: one for one in found if not one.is_map}
    rows = (*result.label_rows, *result.pair_rows)
    known = {row.pair for row in rows}
    more = [one for one in found if one.is_map or one.pairs[0] not in known]
    labels = [_failed(alone[row.pair]) if row.pair in alone else _label(result, row) for row in rows]
    cases = [_verdict(result), *labels, *map(_failed, more)]
    counts = {
        "tests": len(cases),
        **{f"{name}s": sum(case.find(name) is not None for case in cases) for name in ("failure", "error")},
        "skipped": sum(case.find("skipped") is not None for case in cases),
        "time": f"{result.wall_s:.3f}",
    }
    attributes = {name: str(value) for name, value in counts.items()}
    suite = ElementTree.Element("testsuite", {"name": escape(str(made.model.get("path") or "model")), **attributes})
    if made.date is not None and summary.date(made.date) is not None:
        suite.set("timestamp", made.date)
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(result):
        ElementTree.SubElement(properties, "property", {"name": name, "value": escape(value)})
    suite.extend(cases)
    whole = ElementTree.Element("testsuites", {"name": SUITE, **attributes})
    whole.append(suite)
    ElementTree.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def _properties(result: ScanResult) -> list[tuple[str, str]]:
    model, versions = result.provenance.model, result.provenance.versions
    rows = [
        ("verdict", result.verdict.value),
        ("p_value", result.p_value),
        ("alpha", result.alpha),
        ("detection_limit", result.detection_limit),
        ("sha256", model.get("sha256")),
        ("version", versions.get("neural-cleanse")),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _verdict(result: ScanResult) -> ElementTree.Element:
    case = ElementTree.Element("testcase", {"classname": SUITE, "name": "verdict", "time": f"{result.wall_s:.3f}"})
    if result.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "error", {"type": "CouldNotTell", "message": escape(sentence(result))})
    return case


def _label(result: ScanResult, row: LabelResult) -> ElementTree.Element:
    case = _case(f"label {Titles(result).of(row)}")
    if row.outcome in NOT_SEARCHED:
        ElementTree.SubElement(case, "skipped", {"message": row.outcome.meaning})
    return case


def _failed(one: Flagged) -> ElementTree.Element:
    """A label or pair that was flagged; all pairs of a map are one case."""
    case = _case(one.heading if one.is_map else f"label {one.title}")
    message = escape(f"{one.statement}: {one.compared}.")
    ElementTree.SubElement(case, "failure", {"type": "BackdoorTrigger", "message": message})
    return case


def _case(name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": f"{SUITE}.labels", "name": escape(name), "time": "0"})
