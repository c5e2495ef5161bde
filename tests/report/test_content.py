"""What a report says beside its numbers follows from the record, and weak evidence is named."""

import dataclasses
from typing import Any

import pytest
from made_scans import many, pairs, result

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.report import content as account
from neural_cleanse.report.findings import findings
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.results.records import BelowLimit, Outcome, Refined, ScanResult, SourceRate, Verdict


def strong() -> ScanResult:
    """A scan whose evidence has nothing weak."""
    return changed(result(("a",) * 12), {}, tuple(SourceRate(source, 40, 40) for source in range(1, 5)))


def changed(scan: ScanResult, row: dict[str, Any], rates: tuple[SourceRate, ...] | None = None) -> ScanResult:
    evidence = scan.evidence[0] if rates is None else dataclasses.replace(scan.evidence[0], by_source=rates)
    first = dataclasses.replace(scan.labels[0], **row)
    return dataclasses.replace(scan, labels=(first, *scan.labels[1:]), evidence=(evidence,))


def weak(scan: ScanResult) -> tuple[str, ...]:
    return findings(scan)[0].weak


def test_nothing_is_weak_where_all_is_well() -> None:
    assert weak(strong()) == ()


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"p_value": 0.005}, "p = 0.005 is near alpha, 0.01"),
        ({"log_size_sd": 0.5}, "factor of 1.65"),
        ({"log_size_sd": None}, "One search only"),
        ({"outcome": Outcome.STEP_LIMIT}, "still shrinking"),
    ],
)
def test_what_is_weak_in_the_row_is_said(row: dict[str, Any], said: str) -> None:
    (line,) = weak(changed(strong(), row))
    assert said in line


def test_a_trigger_that_was_refined_is_said_to_be_further_on() -> None:
    whole = Refined(15.5, 0.05, 0.987, (0.95, 0.99), Outcome.STEP_LIMIT)
    scan = changed(strong(), {"outcome": Outcome.REFINED, "size": 40.0, "refined": whole})
    assert len(weak(scan)) == 1 and "still shrinking" in weak(scan)[0]  # of the trigger that is shown, not of screening
    for text in (html(scan), markdown(scan)):
        assert "40.0 px, p " in text and "98.7%" in text
        assert "was searched further after it was flagged, to 15.5 px" in text
    assert "after screening" in account.limit(scan) and "shaded part would have been flagged" in html(scan)
    clear = dataclasses.replace(
        scan, verdict=Verdict.CLEAN, flagged=(), evidence=(), below_limit=BelowLimit.SEARCHED_ON
    )
    assert "shaded part would have been searched on" in html(clear)
    assert "shaded part would have been flagged" in html(strong())
    assert "1 screening, then all steps" in " ".join(account.checked(scan))


def test_few_labels_to_compare_with_are_weak() -> None:
    scan = strong()
    few = dataclasses.replace(scan, labels=scan.labels[:6])
    assert weak(few) == ("Only 6 labels have a trigger size to compare with.",)


def test_few_images_and_resisting_classes_are_said() -> None:
    lines = weak(result())
    assert "Only 9 labels" in lines[0]
    assert "measured on 9 images only" in lines[1]
    assert "seldom works on images of 2" in lines[2]
    assert "(0 of 5)" in lines[2]
    many_classes = weak(changed(strong(), {}, tuple(SourceRate(source, 1, 10) for source in range(1, 9))))
    assert "and 3 more classes" in many_classes[0]


def test_intervals_by_class_are_exact() -> None:
    for source, rate in zip(findings(result())[0].sources, result().evidence[0].by_source, strict=True):
        assert (source.low, source.high) == clopper_pearson(rate.hits, rate.trials)


def test_what_was_checked_counts_how_each_label_ended() -> None:
    text = " ".join(account.checked(many()))
    assert "1,270 settled; 13 without a trigger" in text


def test_labels_that_were_not_searched_are_named_among_what_was_not_checked() -> None:
    scan = result()
    made = dataclasses.replace(scan.provenance, model={"num_classes": 12})
    assert (
        account.not_checked(dataclasses.replace(scan, provenance=made))[0] == "2 labels of the model were not searched."
    )
    assert account.FROM_ONE_CLASS in account.not_checked(scan)
    assert account.FROM_ONE_CLASS not in account.not_checked(pairs())


def test_without_a_limit_or_a_p_value_that_is_said() -> None:
    bare = dataclasses.replace(result(), detection_limit=None, p_value=None)
    assert account.limit(bare).startswith("None:")
    assert account.sureness(bare).startswith("No p-value:")
    assert account.limit(result()).startswith("12.2 px, 19.1% of the image")
    assert account.sureness(result()).startswith("p < 1e-12:")
