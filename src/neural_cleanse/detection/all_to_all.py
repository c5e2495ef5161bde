"""All-to-all triggers: one trigger that sends every class to a target of its own, in pixels and in feature space.

A trigger and its map of classes are searched for together, from random maps. What no random map of this network comes
near, and no student has either, was planted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.behind_cut import EXPECTED_SHARE, BehindCut
from neural_cleanse.detection.feature_space import FeatureSpace, feature_inversion
from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound, Unfinished, charged, not_made
from neural_cleanse.detection.pairs import pair_inversion
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.shares import SHARES, over_share
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.detection.statistics.maps import LEAST_ASR, LEAST_GAIN, MapTest, map_test, strength
from neural_cleanse.detection.statistics.means import geometric_mean
from neural_cleanse.detection.teaching import NO_GOOD_STUDENT, Teaching, called, name_of
from neural_cleanse.inversion.batching import Meter
from neural_cleanse.inversion.class_maps import LEAST_CLASSES, Followed, MappedImages, MapSearch, random_maps
from neural_cleanse.inversion.sampling import ScanImages, Split
from neural_cleanse.memory_errors import out_of_memory
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindRow, KindTest, LabelPair, Outcome, Recovered, Verdict
from neural_cleanse.text import p_is
from neural_cleanse.triggers.base import SMALLEST_SIZE

LEARNT, RANDOM = 2, 5  # maps that are looked for, and random ones that they are compared with
WORTH_MORE = LEAST_GAIN - 1  # log units over the first random map from which on the others are searched for
LEAST_IMAGES = 4  # of a class to search with
LEAST_PART = 0.8  # of the labels that must take part
LEAST_AGREEMENT = 0.5  # of a student, whose map is compared with random maps of its own
MOST_LABELS = 100  # above which each label has too few images
PARTS = {Kind.ALL_TO_ALL: "all-to-all patches", Kind.FEATURE_ALL_TO_ALL: "all-to-all shifts of features"}


@dataclass(frozen=True)
class _Searched:
    """The maps found in one network, the strongest first, and what random ones came to; what the search took."""

    found: tuple[Followed, ...]
    random: tuple[Followed, ...]
    classes: tuple[int, ...]
    subject: Subject
    passes: int

    @property
    def test(self) -> MapTest:
        return map_test([strength_of(one) for one in self.found], [strength_of(one) for one in self.random])

    @property
    def best(self) -> Followed:
        return self.found[0]

    @property
    def stands_out(self) -> bool:
        """Whether the best map is none that a clean network has."""
        return len(self.random) == RANDOM and self.test.gain >= LEAST_GAIN and self.best.asr >= LEAST_ASR

    @property
    def rows(self) -> tuple[Recovered, ...]:
        """One record a pair of the best map, all with the same trigger; none of a class without test images."""
        best = self.best
        return tuple(
            replace(
                Recovered.skipped(LabelPair(target, source), Outcome.CONVERGED), trigger=best.trigger, size=best.size,
                hits=hits, trials=trials,
            )
            for source, target, hits, trials in zip(self.classes, best.targets, best.hits, best.trials, strict=True)
            if trials
        )  # fmt: skip

    @property
    def image_passes(self) -> int:
        """In passes of the whole network."""
        return round(self.subject.weight * self.passes)

    @property
    def forward_passes(self) -> int:
        """Those of measuring."""
        return round(self.subject.weight * sum(one.forward_passes for one in (*self.found, *self.random)))


@dataclass(frozen=True)
class AllToAll:
    """The test of one scan: of patches, or of shifts of activations."""

    kind: Kind
    prepared: PreparedScan
    stages: Stages
    teaching: Teaching
    behind: BehindCut

    @property
    def possible(self) -> bool:
        """Whether the number of labels allows it."""
        return LEAST_CLASSES <= self.prepared.num_labels <= MOST_LABELS

    def planned(self) -> dict[str, int]:
        """Those of the maps that are looked for."""
        share = EXPECTED_SHARE if self._behind_cut else 1.0
        return {PARTS[self.kind]: round(share * LEARNT * self._search_of(None).passes) if self.possible else 0}

    def run(self, _: Earlier) -> KindFound:
        """The maps found in the suspect, beside random ones and those of a student."""
        space = self.behind.space() if self._behind_cut else None
        if isinstance(space, str):
            return self._left_out(space)
        subject = Subject(self.prepared.classifier, self.prepared.images)
        if space is not None:
            subject = Subject(space.classifier, space.images, weight=space.share)
        classes = classes_of(subject.images, self.prepared.classifier.num_classes)
        if not self.possible or len(classes) < max(LEAST_CLASSES, LEAST_PART * self.prepared.num_labels):
            return self._left_out("too few or too many labels, or too few images of them")
        search = self._search_of(space)
        if self.stages.batch_limit.images < search.inversion.batch_size:
            return self._left_out("memory does not hold enough images at once")
        searched = self._searched(subject, search, classes)
        if isinstance(searched, Unfinished):
            return self._left_out(searched.reason, searched)
        return self._judged(searched, search)

    @property
    def _behind_cut(self) -> bool:
        return self.kind is Kind.FEATURE_ALL_TO_ALL

    def _left_out(self, why: str, ended: Unfinished | None = None) -> KindFound:
        if ended is None:
            self.stages.work.plan(PARTS[self.kind], 0)
        return not_made(self.kind, why, ended)

    def _search_of(self, space: FeatureSpace | None) -> MapSearch:
        if space is not None:
            return MapSearch.of(feature_inversion(self.prepared.inversion, space), self.prepared.num_labels)
        calm = pair_inversion(self.prepared.settings.loss, self.prepared.inversion)
        return MapSearch.of(calm, self.prepared.num_labels)

    def _searched(
        self, subject: Subject, search: MapSearch, classes: Sequence[int], whose: str = ""
    ) -> _Searched | Unfinished:
        """The maps found, and, where one of them might be planted, random ones."""
        tracker, seed = self.stages.tracker, self.prepared.settings.seed
        if self.stages.spent():
            return Unfinished()
        one = search.passes * subject.weight
        part = PARTS[self.kind] + whose
        report = self.stages.report(part, round(LEARNT * one), LEARNT, "maps")
        meter, images = self.stages.meter(subject, report), MappedImages.among(subject.images, classes)
        try:
            found = search.learn(subject.classifier, images, LEARNT, seed, meter)
            found = tuple(sorted(found, key=strength_of, reverse=True))
            random: tuple[Followed, ...] = ()
            if len(found) == LEARNT and found[0].asr >= LEAST_ASR:
                self.stages.work.plan(part, round((LEARNT + RANDOM) * one))
                random = self._random(search, subject, images, found[0], meter)
        except OutOfTime:
            tracker.truncated = True
            return Unfinished(round(report.done))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            return Unfinished(round(report.done), reason="memory ran out")
        if tracker.truncated:
            return Unfinished(round(report.done), reason="the budget was spent before it was over")
        taken = (len(found) + len(random)) * search.passes
        return _Searched(found, random, tuple(classes), subject, taken)

    def _random(
        self, search: MapSearch, subject: Subject, images: MappedImages, best: Followed, meter: Meter
    ) -> tuple[Followed, ...]:
        """Random maps; the first alone where the best is not much stronger than that, as in clean networks."""
        seed = self.prepared.settings.seed
        first, *others = random_maps(images.classes, RANDOM, seed + 1)
        found = search.follow(subject.classifier, images, [first], seed, meter)
        if not found or strength_of(best) - strength_of(found[0]) < WORTH_MORE:
            return found
        return found + search.follow(subject.classifier, images, others, seed, meter)

    def _judged(self, searched: _Searched, search: MapSearch) -> KindFound:
        kind, share = self.kind, SHARES[self.kind]
        p_value = over_share(searched.test.p_value, share) if searched.stands_out else 1.0
        test = KindTest(
            kind, share, Verdict.CLEAN, f"no {kind.singular} stands out", p_value,
            image_passes=searched.image_passes, forward_passes=searched.forward_passes,
        )  # fmt: skip
        if p_value > self.prepared.settings.alpha:
            return KindFound(test)
        theirs = self._in_a_student(search, searched.classes)
        test, said = charged(test, theirs), f"{self._named(searched)} ({p_is(p_value)})"
        if isinstance(theirs, Unfinished):
            return KindFound(replace(test, verdict=Verdict.INCONCLUSIVE, reason=f"{said}; but {theirs.reason}"))
        if theirs.stands_out:
            reason = f"{said} belongs to the classes: a student network has one too"
            return KindFound(replace(test, p_value=1.0, reason=reason))
        rows = searched.rows
        pairs = tuple(one.pair for one in rows)
        test = replace(
            test,
            verdict=Verdict.INFECTED,
            reason=f"{said}; a student network has none",
            flagged=pairs,
            mapped=pairs,
            rows=tuple(KindRow(one.pair.target, one.pair.source, one.size, p_value) for one in rows),
            usual_size=_usual(searched),
        )
        return KindFound(test, rows, searched.subject)

    def _in_a_student(self, search: MapSearch, classes: Sequence[int]) -> _Searched | Unfinished:
        """What the same search finds in a student, or why none was made there."""
        student = self.teaching.good_student(self.stages, least=LEAST_AGREEMENT)
        if student is None:
            return Unfinished(reason=NO_GOOD_STUDENT)
        part = f"{name_of(0)}-{self.kind.value}"
        try:
            subject = self.teaching.subject(student, part, behind_cut=self._behind_cut)
        except OutOfTime:
            self.stages.tracker.truncated = True
            return Unfinished(reason="the budget was spent before it was looked for in a student network")
        if isinstance(subject, str):
            return Unfinished(reason=subject)
        return self._searched(subject, search, classes, f" of {called(0)}")

    def _named(self, searched: _Searched) -> str:
        best, pairs = searched.best, [one.pair for one in searched.rows]
        unit = "" if self._behind_cut else " px"
        count = self.prepared.classifier.num_classes
        steps = {((pair.target - (pair.source or 0)) % count) for pair in pairs}
        if len(steps) == 1:
            which = f"every label to the one {steps.pop()} further on"
        else:
            which = ", ".join(f"{pair.source} to {pair.target}" for pair in pairs)
        return (
            f"{self.kind.singular}: {which}, with one trigger of size {best.size:.1f}{unit} on {best.asr:.0%} of the "
            f"images (random maps: {_usual(searched):.1f}{unit}, {max(one.asr for one in searched.random):.0%} at most)"
        )


def classes_of(images: ScanImages, num_classes: int) -> list[int]:
    """The classes that have images enough to search with."""
    rows = images.parts[Split.OPTIMISE]
    given = images.given[rows]
    right = given[given == images.answers[rows]].long()
    counts = torch.bincount(right, minlength=num_classes)
    return [label for label in range(num_classes) if counts[label] >= LEAST_IMAGES]


def strength_of(one: Followed) -> float:
    """Of a trigger over all classes."""
    return strength(sum(one.hits), sum(one.trials), one.size)


def _usual(searched: _Searched) -> float:
    return geometric_mean((one.size for one in searched.random), SMALLEST_SIZE)
