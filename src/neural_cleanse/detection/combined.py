"""One verdict of all tests: found by any, clean where none of those made found anything."""

from collections.abc import Sequence
from dataclasses import replace

from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.statistics.outlier import SCREEN_CLEAR_P
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, Verdict
from neural_cleanse.text import p_is


def patch_test(decision: Decision, share: float, image_passes: int, forward_passes: int) -> KindTest:
    """The record of the test on patches, whose sizes are in the result's own table."""
    return KindTest(
        Kind.PATCH, share, decision.verdict, decision.reason, decision.p_value, flagged=decision.flagged_pairs,
        image_passes=image_passes, forward_passes=forward_passes,
    )  # fmt: skip


def combine_kinds(decision: Decision, found: Sequence[KindFound], doubt: str | None) -> Decision:
    """The decision on patches with the other tests' findings; a `doubt` about the input forbids any."""
    tests = [one.test for one in found]
    if not tests:
        return decision
    p_values = [p for p in (decision.p_value, *(test.p_value for test in tests)) if p is not None]
    sizes_clear = decision.p_value is not None and decision.p_value >= SCREEN_CLEAR_P
    decision = replace(decision, p_value=min(p_values, default=None))
    said = looked_for(tests)
    if doubt is not None:
        return replace(decision, reason=f"{decision.reason}. {said}")
    hits = [test for test in tests if test.verdict is Verdict.INFECTED]
    unclear = [test.reason for test in tests if test.verdict is Verdict.INCONCLUSIVE]
    flagged = tuple(dict.fromkeys((*decision.flagged_pairs, *(pair for test in hits for pair in test.flagged))))
    if hits:
        reasons = [test.reason for test in hits]
        if decision.verdict is Verdict.INFECTED:
            reasons.insert(0, decision.reason)
        else:
            reasons.append(f"of patches for images of any class: {decision.reason}")
        return replace(
            decision, verdict=Verdict.INFECTED, reason=f"{'; '.join(reasons)}. {said}", flagged_pairs=flagged
        )  # fmt: skip
    margins = next((test for test in tests if test.kind is Kind.MARGIN), None)
    if not unclear and decision.but_for_limit and sizes_clear and margins is not None and _clears(margins):
        reason = f"{decision.reason}; but no label stands out by its largest margin ({p_is(margins.p_value)})"
        return replace(decision, verdict=Verdict.CLEAN, reason=f"{reason}. {said}")
    if unclear:
        reasons = unclear if decision.verdict is Verdict.CLEAN else [decision.reason, *unclear]
        verdict = decision.verdict if decision.verdict is Verdict.INFECTED else Verdict.INCONCLUSIVE
        return replace(decision, verdict=verdict, reason=f"{'; '.join(reasons)}. {said}")
    return replace(decision, reason=f"{decision.reason}. {said}")


def _clears(margins: KindTest) -> bool:
    """Whether the test of margins, which knows no size, finds nothing far from it: it may speak where sizes cannot."""
    return margins.verdict is Verdict.CLEAN and margins.p_value is not None and margins.p_value >= SCREEN_CLEAR_P


def looked_for(tests: Sequence[KindTest]) -> str:
    """Which kinds of trigger were looked for, and which not, in words."""
    made = [Kind.PATCH.meaning, *(test.kind.meaning for test in tests if test.verdict is not None)]
    lacking = [f"{test.kind.meaning} ({test.reason})" for test in tests if test.verdict is None]
    said = f"Looked for: {', '.join(made)}"
    return f"{said}; not for: {', '.join(lacking)}" if lacking else said
