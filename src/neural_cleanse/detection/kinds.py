"""Triggers that are no patch for all images: shifts in feature space, one-class triggers, all-to-all ones.

Three tests beside that of patches, each cheap: sizes of shifts over the labels; sizes of patches over all pairs of
labels, after few steps; sizes of shifts over all pairs. Classes that are near each other by nature have small triggers
between them, so what a test flags must be much smaller than in a student of the same classes.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from neural_cleanse.detection.feature_space import FeatureSpace, feature_inversion, feature_space
from neural_cleanse.detection.pair_choice import pair_candidates
from neural_cleanse.detection.pairs import CHOOSE_ASR, LEAST_LABELS, LEAST_TARGETS, pair_inversion
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.reasons import p_text
from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.maps import map_test
from neural_cleanse.detection.statistics.outlier import FEATURES, outlier_test
from neural_cleanse.detection.statistics.pairs import pair_outlier_test
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.inversion.batching import Tick
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.records import Kind, KindRow, KindTest, LabelPair, Outcome, Recovered, Verdict

MOST_LABELS = 100  # above which shifts are not searched
PAIR_STEPS = 60  # of patches between two labels: 10 labels then take as much again as their own triggers
MIN_SIZED = 0.8  # share of labels that a shift must work for
MIN_PAIRS_SIZED = 0.3  # of pairs in feature space: few steps reach the near ones
# Mean log size of an all-to-all map, source and target taken out, in patches and in feature space: -.64 and -.39 at
# least in clean networks; -.79 to -1.4 and -.55 to -1.1 planted.
MAP_MEAN = {Kind.PAIRS: -0.7, Kind.FEATURE_PAIRS: -0.5}
CONFIRMED = 0.5  # of the size in a student; natural ones have .6 and more
LEAST_RATIO = 0.01
NAMED = {
    Kind.FEATURE: "feature-space trigger",
    Kind.PAIRS: "trigger between two labels",
    Kind.FEATURE_PAIRS: "all-to-all feature-space trigger",
}
ALONE = 0.5  # of the median size of shifts: clean networks have .66 and more, so that what is smaller needs no student


@dataclass(frozen=True)
class Searched:
    """What one kind's search came to."""

    found: tuple[Recovered, ...]
    subject: Subject
    inversion: Inversion

    @property
    def sized(self) -> list[tuple[LabelPair, float]]:
        """Pairs with a size."""
        return [(one.pair, one.size) for one in self.found if one.size is not None]

    @property
    def image_passes(self) -> int:
        """In passes of the whole network."""
        return round(self.subject.weight * sum(one.image_passes for one in self.found))

    @property
    def forward_passes(self) -> int:
        """The same of forward passes alone."""
        return round(self.subject.weight * sum(one.forward_passes for one in self.found))


@dataclass(frozen=True)
class Ended:
    """A search that a spent budget ended, or did not let begin."""

    image_passes: int = 0
    reason: str = "the budget was spent"


@dataclass(frozen=True)
class KindFound:
    """A test, and the triggers of what it flagged, with what they are triggers of."""

    test: KindTest
    flagged: tuple[Recovered, ...] = ()
    subject: Subject | None = None


@dataclass
class KindTests:
    """The tests of one scan, made one after the other; `taken` are the labels that have a patch trigger already."""

    prepared: PreparedScan
    stages: Stages
    teaching: Teaching
    taken: tuple[int, ...] = ()

    def run(self) -> tuple[KindFound, ...]:
        """All of them; one that cannot be made says why."""
        if not self.prepared.settings.beyond_patches or self.prepared.doubt is not None:
            return ()
        space: FeatureSpace | str = f"over {MOST_LABELS} labels"
        if self.prepared.num_labels <= MOST_LABELS:
            space = feature_space(self.prepared.classifier, self.prepared.images)
        pairs = () if self.prepared.settings.pairs else (self.patch_pairs(),)  # else searched with all steps
        return self.features(space), *pairs, self.feature_pairs(space)

    def features(self, space: FeatureSpace | str) -> KindFound:
        """One shift of activations for images of every class."""
        kind = Kind.FEATURE
        if isinstance(space, str):
            return _not_made(kind, space)
        subject = Subject(space.classifier, space.images, kind.value, space.share)
        searched = self._search(feature_inversion(self.prepared.inversion, space), self.prepared.pairs, subject)
        if isinstance(searched, Ended):
            return _not_made(kind, searched.reason, searched)
        sized, count = searched.sized, len(searched.found)
        if len(sized) < MIN_SIZED * count:
            return _not_made(kind, f"no shift works for {count - len(sized)} of {count} labels", searched)
        sizes = [size for _, size in sized]
        test = outlier_test(sizes, self.prepared.settings.alpha * SHARES[kind], FEATURES)
        p_values = {pair: p for (pair, _), p in zip(sized, test.p_values, strict=True)}
        small = [sized[index][0] for index in test.flagged] if test.tail_holds is not False else []
        least = max((dict(sized)[pair] for pair in small), default=0.0) / statistics.median(sizes)
        return self._judged(kind, searched, test.p_value, p_values, small, alone=least <= ALONE)

    def patch_pairs(self) -> KindFound:
        """A patch for images of one class, and a map of such patches."""
        subject = Subject(self.prepared.classifier, self.prepared.images, Kind.PAIRS.value)
        inversion = replace(
            pair_inversion(self.prepared.settings.loss),
            steps=PAIR_STEPS,
            temperature=self.prepared.inversion.temperature,
            precision=self.prepared.inversion.precision,
        )
        return self._pairs(Kind.PAIRS, inversion, subject)

    def feature_pairs(self, space: FeatureSpace | str) -> KindFound:
        """A map of shifts of activations."""
        kind = Kind.FEATURE_PAIRS
        if isinstance(space, str):
            return _not_made(kind, space)
        inversion = replace(feature_inversion(self.prepared.inversion, space, pairs=True), choose_asr=CHOOSE_ASR)
        return self._pairs(kind, inversion, Subject(space.classifier, space.images, kind.value, space.share))

    def _pairs(self, kind: Kind, inversion: Inversion, subject: Subject) -> KindFound:
        targets = [pair.target for pair in self.prepared.pairs if pair.target not in self.taken]
        candidates, lacking = pair_candidates(subject.images, targets, self.prepared.classifier.num_classes)
        budget = self.prepared.inversion.passes * len(self.prepared.pairs)
        if self.prepared.num_labels < LEAST_LABELS or len(targets) < LEAST_TARGETS or not candidates:
            return _not_made(kind, "too few labels or images")
        if lacking:
            return _not_made(kind, f"{len(lacking)} labels have too few images to start from")
        if len(candidates) * PAIR_STEPS * inversion.batch_size > budget:
            return _not_made(kind, f"{len(candidates):,} pairs of labels take too long")
        searched = self._search(inversion, candidates, subject)
        if isinstance(searched, Ended):
            return _not_made(kind, searched.reason, searched)
        sized = searched.sized
        if len(sized) < MIN_PAIRS_SIZED * len(candidates):
            why = f"no trigger works for {len(candidates) - len(sized)} of {len(candidates)} pairs"
            return _not_made(kind, why, searched)
        return self._judged_pairs(kind, searched, len(candidates))

    def _judged_pairs(self, kind: Kind, searched: Searched, candidates: int) -> KindFound:
        """Two questions for patches, a map and a pair by itself; the map alone in feature space."""
        sized, level = searched.sized, self.prepared.settings.alpha * SHARES[kind]
        ends = [pair.source for pair, _ in sized if pair.source is not None], [pair.target for pair, _ in sized]
        sizes = [size for _, size in sized]
        mapped = map_test(*ends, sizes, self.prepared.settings.seed, level)
        map_p = mapped.p_value if mapped.mean <= MAP_MEAN[kind] else 1.0
        p_value, p_values, small = map_p, dict[LabelPair, float](), list[LabelPair]()
        if kind is Kind.PAIRS:
            test = pair_outlier_test(*ends, sizes, level / 2, candidates=candidates)
            p_values = {pair: 2 * p for (pair, _), p in zip(sized, test.p_values, strict=True) if p is not None}
            small = [sized[index][0] for index in test.flagged]
            map_p, p_value = 2 * map_p, 2 * min(map_p, test.p_value)
        by_map = map_p <= level
        if by_map:
            known = dict(sized)
            small = [pair for s, t in mapped.pairs if (pair := LabelPair(t, s)) in known]
        return self._judged(kind, searched, p_value, p_values, small, mapped=by_map)

    def _judged(
        self,
        kind: Kind,
        searched: Searched,
        p_value: float,
        p_values: Mapping[LabelPair, float],
        small: Sequence[LabelPair],
        *,
        mapped: bool = False,
        alone: bool = False,
    ) -> KindFound:
        """The test's record, once what it flagged has been compared with a student; `alone` needs none."""
        share, sizes = SHARES[kind], dict(searched.sized)
        rows = tuple(
            KindRow(one.pair.target, one.pair.source, one.size, _shared(p_values.get(one.pair), share))
            for one in searched.found
        )
        test = KindTest(
            kind, share, Verdict.CLEAN, f"no {NAMED[kind]} stands out", over_share(p_value, share), rows=rows,
            image_passes=searched.image_passes, forward_passes=searched.forward_passes,
        )  # fmt: skip
        if not small:
            return KindFound(test)
        ratios, passes = (None, 0) if alone else self._over_student(kind, searched, small)
        which = _named(small, sizes, kind)
        test = replace(test, image_passes=test.image_passes + passes)
        if ratios is None and not alone:
            why = f"{which} stands out (p = {p_text(test.p_value or 1.0)}), but there is no student to compare it with"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        planted = _planted(small, ratios, mapped=mapped)
        if not planted and kind is Kind.FEATURE:  # classes by themselves have none so small
            why = f"{which} stands out (p = {p_text(test.p_value or 1.0)}), but as much in a student network"
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=why))
        if not planted:
            return KindFound(replace(test, reason=f"{which} belongs to the classes: it is as small in a student"))
        reason = f"{_named(planted, sizes, kind)} (p = {p_text(test.p_value or 1.0)})"
        if ratios is not None:
            reason += f", {_share_of_student([ratios[pair] for pair in planted])} of the size in a student network"
        flagged = tuple(one for one in searched.found if one.pair in planted)
        test = replace(
            test, verdict=Verdict.INFECTED, reason=reason, flagged=tuple(planted), mapped=tuple(planted) * mapped
        )
        return KindFound(test, flagged, searched.subject)

    def _over_student(
        self, kind: Kind, searched: Searched, small: Sequence[LabelPair]
    ) -> tuple[dict[LabelPair, float] | None, int]:
        """Sizes over those in the student, None without one; a pair for which it has none counts as very small."""
        teaching = self.teaching
        report = self.stages.report(teaching.planned() + searched.inversion.passes * len(small), len(small))
        student = teaching.good_student(report.tick)
        if student is None:
            return None, 0
        images = teaching.images_of(student.classifier)
        subject = Subject(student.classifier, images, f"student-{kind.value}")
        if kind in (Kind.FEATURE, Kind.FEATURE_PAIRS):
            space = feature_space(student.classifier, images)
            if isinstance(space, str):
                return None, 0
            subject = Subject(space.classifier, space.images, f"student-{kind.value}", space.share)
        theirs = self._search(searched.inversion, small, subject, report.tick)
        if isinstance(theirs, Ended):
            return None, theirs.image_passes
        sizes, others = dict(searched.sized), dict(theirs.sized)
        return {pair: sizes[pair] / others[pair] if pair in others else 0.0 for pair in small}, theirs.image_passes

    def _search(
        self, inversion: Inversion, pairs: Sequence[LabelPair], subject: Subject, tick: Tick | None = None
    ) -> Searched | Ended:
        """The search of all pairs, unless a budget ends it."""
        if self.stages.tracker.truncated or self.stages.tracker.spent:
            return Ended()
        if tick is None:
            planned = round(subject.weight * inversion.passes * len(pairs))
            tick = self.stages.report(planned, len(pairs)).tick
        found = {one.pair: one for one in self.stages.invert(subject, tick)(inversion, pairs)}
        if len(found) < len(pairs) or any(one.outcome is Outcome.NOT_SEARCHED for one in found.values()):
            return Ended(round(subject.weight * sum(one.image_passes for one in found.values())))
        return Searched(tuple(found[pair] for pair in sorted(found)), subject, inversion)


def _not_made(kind: Kind, why: str, searched: Searched | Ended | None = None) -> KindFound:
    passes = 0 if searched is None else searched.image_passes
    return KindFound(KindTest(kind, SHARES[kind], None, why, image_passes=passes))


def _planted(small: Sequence[LabelPair], ratios: Mapping[LabelPair, float] | None, *, mapped: bool) -> list[LabelPair]:
    """Those that are much smaller than in the student; of a map none unless their geometric mean is so too."""
    if ratios is None:
        return list(small)
    if mapped:
        mean = statistics.fmean(math.log(max(ratio, LEAST_RATIO)) for ratio in ratios.values())
        if mean > math.log(CONFIRMED):
            return []
    return [pair for pair in small if ratios[pair] <= CONFIRMED]


def _shared(p_value: float | None, share: float) -> float | None:
    return None if p_value is None else over_share(p_value, share)


def _share_of_student(ratios: Sequence[float]) -> str:
    middle = math.exp(statistics.fmean(math.log(max(ratio, LEAST_RATIO)) for ratio in ratios))
    return f"{middle:.0%}"


def _named(pairs: Sequence[LabelPair], sizes: Mapping[LabelPair, float], kind: Kind) -> str:
    """What was found, in words."""
    sized = {pair: f"{sizes[pair]:.1f} px" if kind is Kind.PAIRS else f"size {sizes[pair]:.1f}" for pair in pairs}
    said = [
        f"{f'images of any class to label {pair.target}' if pair.source is None else f'{pair.source} to {pair.target}'}"
        f" ({sized[pair]})"
        for pair in pairs
    ]
    return f"{NAMED[kind]}{'s' if len(pairs) > 1 else ''}: {', '.join(said)}"
