"""Shifts of activations for images of every class: one that stands out must be smaller than in a student."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.detection.behind_cut import EXPECTED_SHARE, BehindCut
from neural_cleanse.detection.feature_space import STEPS, FeatureSpace, feature_inversion
from neural_cleanse.detection.kind_search import PARTS, KindSearch
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import (
    KindFound,
    Searched,
    StudentRatios,
    Unfinished,
    charged,
    named,
    record_of,
    share_of_student,
)
from neural_cleanse.detection.reasons import heavy_tailed
from neural_cleanse.detection.shares import SHARES
from neural_cleanse.detection.stages import Subject
from neural_cleanse.detection.statistics.outlier import FEATURES, outlier_test
from neural_cleanse.detection.teaching import NO_GOOD_STUDENT
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Verdict
from neural_cleanse.text import p_is, stand

MIN_SIZED = 0.8  # share of labels that a shift must work for
CONFIRMED = 0.5  # of the size in a student at most; natural ones have .6 and more
ALONE_RATIO = (
    0.4  # of the median size of shifts: clean networks have .46 and more, so that what is smaller needs no student
)


@dataclass(frozen=True)
class FeatureTest:
    """The test of one scan."""

    search: KindSearch
    behind: BehindCut

    def planned(self) -> dict[str, int]:
        """Those of one shift a label."""
        if not self.behind.possible:
            return {}
        prepared = self.search.prepared
        passes = round(EXPECTED_SHARE * STEPS * prepared.inversion.batch_size) * len(prepared.pairs)
        return {PARTS[self.search.kind]: passes}

    def run(self, _: Earlier) -> KindFound:
        """One shift a label, searched behind the network's cut; being the first there, it pays for the cut."""
        found = self._of_shifts(self.behind.space())
        return replace(found, test=charged(found.test, Unfinished(forward_passes=self.behind.forward_passes)))

    def _of_shifts(self, space: FeatureSpace | str) -> KindFound:
        if isinstance(space, str):
            return self.search.not_made(space)
        prepared = self.search.prepared
        subject = Subject(space.classifier, space.images, Kind.FEATURE.value, space.share)
        searched = self.search.run(feature_inversion(prepared.inversion, space), prepared.pairs, subject)
        if isinstance(searched, Unfinished):
            return self.search.not_made(searched.reason, searched)
        sized, count = searched.sized, len(searched.found)
        if len(sized) < MIN_SIZED * count:
            return self.search.not_made(f"no shift works for {count - len(sized)} of {count} labels", searched)
        sizes = [size for _, size in sized]
        test = outlier_test(sizes, prepared.settings.alpha * SHARES[Kind.FEATURE], FEATURES)
        p_values = {pair: p for (pair, _), p in zip(sized, test.p_values, strict=True)}
        small = [sized[index][0] for index in test.flagged]
        if test.tail_holds is False:
            made = record_of(Kind.FEATURE, searched, test.p_value, p_values)
            reason = heavy_tailed(named(small, dict(sized), Kind.FEATURE), made.p_value, test.tail_p_value)
            return KindFound(replace(made, verdict=Verdict.INCONCLUSIVE, reason=reason))
        least = min((dict(sized)[pair] for pair in small), default=0.0) / statistics.median(sizes)
        return self._judged(searched, test.p_value, p_values, small, alone=least <= ALONE_RATIO)

    def _judged(
        self,
        searched: Searched,
        p_value: float,
        p_values: Mapping[LabelPair, float],
        small: Sequence[LabelPair],
        *,
        alone: bool,
    ) -> KindFound:
        """The test's record, once what it flagged has been compared with a student; `alone` needs none."""
        sizes, test = dict(searched.sized), record_of(Kind.FEATURE, searched, p_value, p_values)
        if not small:
            return KindFound(test)
        theirs = StudentRatios() if alone else self.search.over_student(searched, small, 0)
        ratios, test = theirs.ratios, charged(test, theirs)
        stands_out = f"{named(small, sizes, Kind.FEATURE)} {stand(small)} out ({p_is(test.p_value)})"
        if ratios is None and not alone:
            why = f"{stands_out}, but {NO_GOOD_STUDENT}"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        planted = [pair for pair in small if ratios is None or ratios[pair] <= CONFIRMED]
        if not planted:  # classes by themselves have none so small
            why = f"{stands_out}, but takes more than {CONFIRMED:.0%} of its size in a student network"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        reason = f"{named(planted, sizes, Kind.FEATURE)}, {p_is(test.p_value)}"
        if ratios is not None:
            reason += (
                f", {share_of_student([ratios[pair] for pair in planted])} of the size that a student network needs"
            )
        flagged = tuple(one for one in searched.found if one.pair in planted)
        test = replace(test, verdict=Verdict.INFECTED, reason=reason, flagged=tuple(planted))
        return KindFound(test, flagged, searched.subject)
