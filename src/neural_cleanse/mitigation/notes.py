"""What a repair says beside its figures: why there was nothing to do, and what weakens the answer."""

from collections.abc import Sequence

from neural_cleanse.choices import Labels
from neural_cleanse.detection.baseline import baseline_record
from neural_cleanse.errors import SettingsError
from neural_cleanse.mitigation.base import Backdoor
from neural_cleanse.mitigation.evaluation import FEW_DECIDE
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import ScanResult, Verdict

Chosen = str | tuple[int, ...]  # labels: one of the names of Labels, or numbers


def check_chosen(labels: object) -> None:
    """Raise SettingsError unless these are labels that can be repaired."""
    if isinstance(labels, str) and labels in tuple(Labels):
        return
    if isinstance(labels, tuple) and labels and all(type(label) is int and label >= 0 for label in labels):
        return
    raise SettingsError(
        f"Labels are flagged, all, or numbers of labels from 0, not {labels!r:.80}.", cure='Write "all", or (3, 7).'
    )


def of_labels(labels: Chosen, result: ScanResult) -> tuple[int, ...] | None:
    """The labels whose triggers are repaired; None for every one."""
    if isinstance(labels, tuple):
        return labels
    return None if labels == Labels.ALL else result.flagged


def expect_triggers(labels: Chosen, found: Sequence[Backdoor]) -> None:
    """Raise SettingsError where a label was named of which the scan has no trigger."""
    known = {backdoor.pair.target for backdoor in found}
    missing = [] if isinstance(labels, str) else [label for label in labels if label not in known]
    if missing:
        raise SettingsError(
            f"The scan has no trigger for label {', '.join(map(str, missing[:10]))}.",
            cure="Name labels that have a size in the scan's report, or scan those first.",
        )


def nothing_to_repair(labels: Chosen, result: ScanResult, found: Sequence[Backdoor], max_asr: float) -> str:
    """Why nothing was tried, in a clause; where the scan could not tell, what to do instead."""
    if found:
        works = f"more often than {max_asr:.1%} on the images that decide"
        return f"no trigger of the scan works {works}, before anything is done: there is nothing to repair"
    if labels != Labels.FLAGGED:
        return "the scan has no trigger for any label: there is nothing to repair"
    if result.verdict is Verdict.CLEAN:
        return "the scan flagged no label: there is nothing to repair"
    return (
        f"the scan could not tell ({result.reason}) and flagged no label, so that none was repaired: scan again as its "
        f"report proposes, or name the labels to repair all the same ({_options(result)})"
    )


def _options(result: ScanResult) -> str:
    """What names the label that looks most suspicious by the tests that were left open, else by its size; or all."""
    left_open = [test for test in result.tests if test.verdict is Verdict.INCONCLUSIVE]
    by_test = [row for test in left_open for row in (result.label_rows if test.kind is Kind.PATCH else test.rows)]
    for rows in (by_test, result.label_rows):
        known = [row for row in rows if row.source is None and row.pair in result.triggers]
        ranked = [(row.p_value, row.target) for row in known if row.p_value is not None]
        if ranked:
            return f"--labels {min(ranked)[1]}, or --labels all"
    return "--labels all"


def few_images(deciding: int) -> list[str]:
    """A note where few images decide."""
    if deciding >= FEW_DECIDE:
        return []
    return [f"only {deciding} images decide: the attacker's own trigger may survive; give more images"]


def baseline_notes(result: ScanResult, baseline: ScanResult | None) -> tuple[str, ...]:
    """What is said where the scan that was given and the new one are not compared with the same baseline."""
    theirs = result.provenance.settings.get("baseline")
    if baseline is None:
        if theirs is None:
            return ()
        return (
            "the scan was compared with a baseline and the new scan is not, so the two are not judged alike: give the "
            "baseline's scan to repair too (--baseline)",
        )
    if theirs is None:
        return ("the new scan is compared with a baseline, the scan that was given was not",)
    same = theirs == baseline_record(baseline)
    return () if same else ("the new scan is compared with another baseline than the scan that was given",)


def how(rounds: int, given: Sequence[Backdoor] | None) -> tuple[str, ...]:
    """Notes on what was done, in so many rounds: with which triggers, if not with the recovered ones."""
    start = ("every round started from the model as it came",) if rounds > 1 else ()
    if given is None or not rounds:
        return start
    return (*start, f"for comparison: {len(given)} given triggers in the place of the recovered ones")
