"""A ScanResult as JUnit XML, which every continuous integration shows: a test case a label, and one for the verdict.

A flagged label fails; a scan that could not tell is an error of the case "verdict", as its exit code is not 0 either.
"""

from xml.etree import ElementTree

from neural_cleanse.report import summary
from neural_cleanse.report.text import Titles, flagged_rows, found_at, sentence
from neural_cleanse.results.records import LabelResult, Outcome, ScanResult, Verdict
from neural_cleanse.text import escape

SUITE = "neural-cleanse"
NOT_SEARCHED = (Outcome.NOT_SEARCHED, Outcome.NOT_ENOUGH_IMAGES, Outcome.SCREENED_OUT)


def dumps(result: ScanResult) -> str:
    """The XML text."""
    made = result.provenance
    known = {row.pair for row in result.labels}
    more = [row for row in flagged_rows(result) if row.pair not in known]
    cases = [_verdict(result), *(_label(result, row) for row in (*result.labels, *more))]
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
    title = Titles(result).of(row)
    case = ElementTree.Element(
        "testcase", {"classname": f"{SUITE}.labels", "name": escape(f"label {title}"), "time": "0"}
    )
    if row.pair in result.flagged_pairs:
        message = escape(f"Label {title} is reached by an unusually small trigger: {found_at(row)}.")
        ElementTree.SubElement(case, "failure", {"type": "BackdoorTrigger", "message": message})
    elif row.outcome in NOT_SEARCHED:
        ElementTree.SubElement(case, "skipped", {"message": row.outcome.meaning})
    return case
