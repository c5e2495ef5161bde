"""From trigger sizes of label pairs to a verdict in words."""

import statistics
from collections.abc import Sequence

from neural_cleanse.detection.reasons import MIN_LIMIT_SHARE
from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.statistics.pairs import LEAST_DOF, PairTest, pair_outlier_test
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, Recovered, Verdict
from neural_cleanse.text import p_is

MAX_UNSEEN = 0.2  # share of pairs that would not be flagged at MIN_LIMIT_SHARE, or have no size, for a "clean"


def judge_pairs(
    found: Sequence[Recovered],
    alpha: float,
    area: int,
    *,
    reference: frozenset[LabelPair],
    candidates: int,
    unsearched: str | None = None,
    doubt: str | None = None,
) -> tuple[KindTest, dict[LabelPair, float]]:
    """The record of the test on triggers of label pairs, for images of `area` pixels; p-values by pair, over its share.

    `reference` are the pairs that make the reference, `candidates` is how many the found ones were taken from;
    `unsearched` says which pairs were not screened; a `doubt` about the input forbids a verdict.
    """
    share = SHARES[Kind.PAIRS]
    sized = [(one.pair, one.size) for one in found if one.size is not None]
    pairs, sizes = [pair for pair, _ in sized], [size for _, size in sized]
    test = pair_outlier_test(
        [pair.source for pair in pairs if pair.source is not None],
        [pair.target for pair in pairs],
        sizes,
        alpha * share,
        [pair in reference for pair in pairs],
        candidates,
    )
    known = {pair: p for pair, p in zip(pairs, test.p_values, strict=True) if p is not None}
    shared = {pair: over_share(p, share) for pair, p in known.items()}
    flagged = tuple(pairs[index] for index in test.flagged)
    if flagged:
        small = [(pairs[index], sizes[index]) for index in test.flagged]
        verdict, reason = Verdict.INFECTED, _found_pairs(small, over_share(test.p_value, share))
    else:
        verdict, reason = _found_nothing(found, test, area, unsearched)
    if doubt is not None:
        verdict, reason, flagged = Verdict.INCONCLUSIVE, f"{doubt.rstrip('.')}; {reason}", ()
    p_value = over_share(test.p_value, share) if known else None
    return KindTest(Kind.PAIRS, share, verdict, reason, p_value, flagged=flagged), shared


def _found_pairs(small: Sequence[tuple[LabelPair, float]], p_value: float) -> str:
    which = ", ".join(
        f"images of label {pair.source} go to label {pair.target} with a trigger of {size:.1f} px"
        for pair, size in small
    )
    return f"{which}, smaller than source and target explain ({p_is(p_value)})"


def _found_nothing(
    found: Sequence[Recovered], test: PairTest, area: int, unsearched: str | None
) -> tuple[Verdict, str]:
    """No pair was flagged: clean only if a backdoor would have been seen in most pairs, and all were screened."""
    limits = [limit for limit in test.limits if limit is not None]
    least = MIN_LIMIT_SHARE * area
    if not limits:
        why = (
            f"too few pairs have a trigger size to tell source and target apart ({LEAST_DOF} degrees of freedom needed)"
        )
        return Verdict.INCONCLUSIVE, f"no pair of labels could be judged: {unsearched or why}"
    unseen = len(found) - sum(limit >= least for limit in limits)
    if unseen > MAX_UNSEEN * len(found):
        return Verdict.INCONCLUSIVE, (
            f"no pair of labels was flagged, but a trigger of {least:.1f} px would not have been in {unseen} of "
            f"{len(found)} pairs"
        )
    if unsearched is not None:
        return Verdict.INCONCLUSIVE, f"no pair of labels was flagged, but {unsearched}"
    return Verdict.CLEAN, (
        "no backdoor found between two labels; half of the pairs would have been flagged under "
        f"{statistics.median(limits):.1f} px"
    )


def unsearched_words(
    lacking: Sequence[int], untried: int, candidates: int, least: int, already: Sequence[LabelPair] = ()
) -> str | None:
    """Which pairs were not screened, None when all were; `already` are those whose source is mostly answered as the
    target without any trigger, which is how a planted one may leak into clean images.
    """
    parts = []
    if lacking:
        shown = _first_ten([str(label) for label in lacking])
        are = f"labels {shown} have" if len(lacking) > 1 else f"label {shown} has"
        parts.append(f"{are} fewer than {least} images to start from: raise --samples or give more images")
    if already:
        shown = _first_ten([f"{pair.source} to {pair.target}" for pair in already])
        parts.append(
            f"{shown}: the model gives so many images of the one the label of the other, without any trigger, "
            f"that fewer than {least} are left"
        )
    if untried:
        parts.append(f"{untried:,} of {candidates:,} pairs were beyond the budget")
    return "; ".join(parts) or None


def _first_ten(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (" ..." if len(names) > 10 else "")
