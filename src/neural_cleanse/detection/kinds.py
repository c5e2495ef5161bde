"""Triggers that are no patch for all images: shifts in feature space and one-class triggers; with all-to-all ones.

Tests beside that of patches, each cheap: sizes of shifts over the labels; sizes of patches over all pairs of labels,
after few steps; triggers of maps of all classes (all_to_all.py). Classes that are near each other by nature have small
triggers between them, so what a test flags must be much smaller than in a student of the same classes.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.all_to_all import AllToAll
from neural_cleanse.detection.feature_space import STEPS, FeatureSpace, feature_inversion, feature_space
from neural_cleanse.detection.kinds_found import (
    SINGLE,
    SINGLE_STUDENTS,
    Ended,
    KindFound,
    Searched,
    Theirs,
    charged,
    mean_ratio,
    named,
    not_made,
    planted_pairs,
    record_of,
    share_of_student,
)
from neural_cleanse.detection.pair_choice import pair_candidates
from neural_cleanse.detection.pairs import LEAST_LABELS, LEAST_TARGETS, pair_inversion
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.reasons import p_text
from neural_cleanse.detection.shares import SHARES
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.outlier import FEATURES, outlier_test
from neural_cleanse.detection.statistics.pairs import pair_outlier_test
from neural_cleanse.detection.teaching import Teaching, called, name_of
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import LabelPair, Outcome, Verdict

MOST_LABELS = 100  # above which shifts are not searched
PAIR_STEPS = 60  # of patches between two labels: 10 labels then take as much again as their own triggers
MIN_SIZED = 0.8  # share of labels that a shift must work for
MIN_PAIRS_SIZED = 0.3  # of pairs: few steps reach the near ones
PARTS = {Kind.FEATURE: "shifts of features", Kind.PAIRS: "one-class patches"}
EXPECTED_SHARE = 0.8  # of the network's work that its tail takes, until it is known
ALONE = 0.4  # of the median size of shifts: clean networks have .46 and more, so that what is smaller needs no student


@dataclass
class KindTests:
    """The tests of one scan, made one after the other; `taken` are the labels that have a patch trigger already."""

    prepared: PreparedScan
    stages: Stages
    teaching: Teaching
    taken: tuple[int, ...] = ()

    def plan(self) -> None:
        """Announce the searches that will be made, as far as is known before the labels have been searched."""
        if not self._wanted:
            return
        if self.prepared.num_labels <= MOST_LABELS:
            one = EXPECTED_SHARE * STEPS * self.prepared.inversion.batch_size
            self.stages.work.plan(PARTS[Kind.FEATURE], round(one * len(self.prepared.pairs)))
            for part, passes in self._maps.planned(EXPECTED_SHARE).items():
                self.stages.work.plan(part, passes)
        inversion = self._pair_inversion
        pairs = self._candidates(inversion.batch_size)
        if not isinstance(pairs, str) and not self.prepared.settings.pairs:
            self.stages.work.plan(PARTS[Kind.PAIRS], inversion.passes * len(pairs))

    @property
    def _wanted(self) -> bool:
        return self.prepared.settings.beyond_patches and self.prepared.doubt is None

    def run(self) -> tuple[KindFound, ...]:
        """All of them; one that cannot be made says why."""
        if not self._wanted:
            return ()
        space = self._space()
        shifts, maps = self.features(space), self._maps.run(space)
        if self.prepared.settings.pairs:  # searched with all steps
            return shifts, *maps
        explained = frozenset(pair for one in maps for pair in one.test.mapped)
        return shifts, self.patch_pairs(explained), *maps

    @property
    def _maps(self) -> AllToAll:
        return AllToAll(self.prepared, self.stages, self.teaching)

    def _space(self) -> FeatureSpace | str:
        if self.prepared.num_labels > MOST_LABELS:
            return f"over {MOST_LABELS} labels"
        try:
            return feature_space(self.prepared.classifier, self.prepared.images)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return Ended().reason

    def features(self, space: FeatureSpace | str) -> KindFound:
        """One shift of activations for images of every class."""
        kind = Kind.FEATURE
        if isinstance(space, str):
            return self._not_made(kind, space)
        subject = Subject(space.classifier, space.images, kind.value, space.share)
        searched = self._search(kind, feature_inversion(self.prepared.inversion, space), self.prepared.pairs, subject)
        if isinstance(searched, Ended):
            return self._not_made(kind, searched.reason, searched)
        sized, count = searched.sized, len(searched.found)
        if len(sized) < MIN_SIZED * count:
            return self._not_made(kind, f"no shift works for {count - len(sized)} of {count} labels", searched)
        sizes = [size for _, size in sized]
        test = outlier_test(sizes, self.prepared.settings.alpha * SHARES[kind], FEATURES)
        p_values = {pair: p for (pair, _), p in zip(sized, test.p_values, strict=True)}
        small = [sized[index][0] for index in test.flagged] if test.tail_holds is not False else []
        least = max((dict(sized)[pair] for pair in small), default=0.0) / statistics.median(sizes)
        return self._judged(kind, searched, test.p_value, p_values, small, alone=least <= ALONE)

    def patch_pairs(self, explained: Collection[LabelPair] = ()) -> KindFound:
        """A patch for images of one class; a pair that an all-to-all map explains is none of its own."""
        kind, inversion = Kind.PAIRS, self._pair_inversion
        subject = Subject(self.prepared.classifier, self.prepared.images, kind.value)
        candidates = self._candidates(inversion.batch_size)
        if isinstance(candidates, str):
            return self._not_made(kind, candidates)
        searched = self._search(kind, inversion, candidates, subject)
        if isinstance(searched, Ended):
            return self._not_made(kind, searched.reason, searched)
        sized = searched.sized
        if len(sized) < MIN_PAIRS_SIZED * len(candidates):
            why = f"no trigger works for {len(candidates) - len(sized)} of {len(candidates)} pairs"
            return self._not_made(kind, why, searched)
        ends = [pair.source for pair, _ in sized if pair.source is not None], [pair.target for pair, _ in sized]
        level = self.prepared.settings.alpha * SHARES[kind]
        test = pair_outlier_test(*ends, [size for _, size in sized], level, candidates=len(candidates))
        p_values = {pair: p for (pair, _), p in zip(sized, test.p_values, strict=True) if p is not None}
        small = [pair for index in test.flagged if (pair := sized[index][0]) not in explained]
        return self._judged(kind, searched, test.p_value, p_values, small)

    @property
    def _pair_inversion(self) -> Inversion:
        return replace(
            pair_inversion(self.prepared.settings.loss),
            steps=PAIR_STEPS,
            temperature=self.prepared.inversion.temperature,
            precision=self.prepared.inversion.precision,
        )

    def _candidates(self, batch_size: int) -> list[LabelPair] | str:
        """The pairs that are searched, or why none are."""
        prepared = self.prepared
        targets = [pair.target for pair in prepared.pairs if pair.target not in self.taken]
        candidates, lacking = pair_candidates(prepared.images, targets, prepared.classifier.num_classes)
        if prepared.num_labels < LEAST_LABELS or len(targets) < LEAST_TARGETS or not candidates:
            return "too few labels or images"
        if lacking:
            return f"{len(lacking)} labels have too few images to start from"
        if len(candidates) * PAIR_STEPS * batch_size > prepared.inversion.passes * len(prepared.pairs):
            return f"{len(candidates):,} pairs of labels take too long"
        return candidates

    def _judged(
        self,
        kind: Kind,
        searched: Searched,
        p_value: float,
        p_values: Mapping[LabelPair, float],
        small: Sequence[LabelPair],
        *,
        alone: bool = False,
    ) -> KindFound:
        """The test's record, once what it flagged has been compared with a student; `alone` needs none."""
        sizes, test = dict(searched.sized), record_of(kind, searched, p_value, p_values)
        if not small:
            return KindFound(test)
        single = kind is Kind.PAIRS
        theirs = Theirs() if alone else self._over_students(kind, searched, small, SINGLE_STUDENTS if single else 1)
        ratios, which = theirs.ratios, named(small, sizes, kind)
        test = charged(test, theirs)
        if ratios is None and not alone:
            why = f"{which} stands out (p = {p_text(test.p_value or 1.0)}), but there is no student to compare it with"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        planted = planted_pairs(small, ratios)
        if not planted and kind is Kind.FEATURE:  # classes by themselves have none so small
            why = f"{which} stands out (p = {p_text(test.p_value or 1.0)}), but as much in a student network"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        if not planted:
            return KindFound(replace(test, reason=f"{which} belongs to the classes: it is as small in a student"))
        if single and ratios is not None and min(ratios[pair] for pair in planted) > SINGLE:
            part = share_of_student([ratios[pair] for pair in planted])
            why = f"{which} stands out (p = {p_text(test.p_value or 1.0)}), at {part} of the size in student networks"
            return KindFound(
                replace(test, verdict=Verdict.INCONCLUSIVE, reason=f"{why}: a pair alone takes {SINGLE:.0%}")
            )
        reason = f"{named(planted, sizes, kind)} (p = {p_text(test.p_value or 1.0)})"
        if ratios is not None:
            reason += f", {share_of_student([ratios[pair] for pair in planted])} of the size in a student network"
        flagged = tuple(one for one in searched.found if one.pair in planted)
        test = replace(test, verdict=Verdict.INFECTED, reason=reason, flagged=tuple(planted))
        return KindFound(test, flagged, searched.subject)

    def _over_students(self, kind: Kind, searched: Searched, small: Sequence[LabelPair], count: int) -> Theirs:
        """The geometric mean of the ratios to so many students, as far as good ones can be had."""
        heard = list[Theirs]()
        for number in range(count):
            heard.append(self._over_student(kind, searched, small, number))
            if heard[-1].ratios is None:
                break
        made = [one.ratios for one in heard if one.ratios is not None]
        ratios = {pair: mean_ratio([each[pair] for each in made]) for pair in small} if made else None
        return Theirs(ratios, sum(one.image_passes for one in heard), sum(one.forward_passes for one in heard))

    def _over_student(self, kind: Kind, searched: Searched, small: Sequence[LabelPair], number: int) -> Theirs:
        """Sizes over those in the student; a pair for which it has none counts as very small."""
        student = self.teaching.good_student(self.stages, number)
        if student is None:
            return Theirs()
        part = f"{name_of(number)}-{kind.value}"
        try:
            subject = self.teaching.subject(student, part, behind_cut=kind is Kind.FEATURE)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return Theirs()
        if isinstance(subject, str):
            return Theirs()
        theirs = self._search(kind, searched.inversion, small, subject, f" of {called(number)}")
        if isinstance(theirs, Ended):
            return Theirs(None, theirs.image_passes, theirs.forward_passes)
        sizes, others = dict(searched.sized), dict(theirs.sized)
        ratios = {pair: sizes[pair] / others[pair] if pair in others else 0.0 for pair in small}
        return Theirs(ratios, theirs.image_passes, theirs.forward_passes)

    def _search(
        self, kind: Kind, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, whose: str = ""
    ) -> Searched | Ended:
        """The search of all pairs, unless a budget ends it."""
        if self.stages.spent():
            return Ended()
        planned, unit = (
            round(subject.weight * inversion.passes * len(pairs)),
            "labels" if kind is Kind.FEATURE else "pairs",
        )
        report = self.stages.report(PARTS[kind] + whose, planned, len(pairs), unit)
        found = {one.pair: one for one in self.stages.invert(subject, report)(inversion, pairs)}
        searched = Searched(tuple(found[pair] for pair in sorted(found)), subject, inversion)
        done = sum(one.outcome is not Outcome.NOT_SEARCHED for one in searched.found)
        if done == len(pairs):
            return searched
        why = f"the budget was spent after {done:,} of {len(pairs):,} {unit}"
        return Ended(searched.image_passes, searched.forward_passes, why)

    def _not_made(self, kind: Kind, why: str, searched: Searched | Ended | None = None) -> KindFound:
        """The record of a test that could not be made; no more work is planned for it."""
        if searched is None:
            self.stages.work.plan(PARTS[kind], 0)
        return not_made(kind, why, searched)
