"""One-class triggers: a patch that sends images of one class to one label.

Classes that are near each other by nature have small patches between them, in one network more than in another after
few steps; after more steps they are as large in students of the same classes, and a planted one is not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from neural_cleanse.detection.pair_choice import pair_candidates
from neural_cleanse.detection.pairs import LEAST_LABELS, LEAST_TARGETS, pair_inversion
from neural_cleanse.detection.shares import SHARES
from neural_cleanse.detection.stages import Subject
from neural_cleanse.detection.statistics.one_class import NATURAL, PLANTED, pair_p
from neural_cleanse.detection.statistics.pairs import pair_outlier_test
from neural_cleanse.detection.teaching import MOST_STUDENTS, NO_GOOD_STUDENT
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import KindTest, LabelPair, Verdict
from neural_cleanse.text import p_is, stand

# Steps and images a step of all pairs, and of those that stand out, in the suspect and in its students. For as many
# image passes, more steps with fewer images tell far more.
FEW_STEPS, FEW_IMAGES = 75, 2
MORE_STEPS, MORE_IMAGES = 200, 4
STANDS_OUT = 0.02  # p-value among the pairs up to which a pair is compared with students
MOST_COMPARED = 3  # pairs
MIN_SIZED = 0.3  # share of pairs for which a trigger works: few steps reach the near ones


@dataclass(frozen=True)
class OneClass:
    """The test of one scan."""

    search: KindSearch

    def planned(self) -> dict[str, int]:
        """Those of few steps for all pairs."""
        pairs = self._candidates()
        return {PARTS[self.search.kind]: 0 if isinstance(pairs, str) else self._few.passes * len(pairs)}

    def run(self, earlier: Earlier) -> KindFound:
        """Search all pairs to labels without a patch of their own; one that an all-to-all map explains is none."""
        prepared, explained = self.search.prepared, earlier.mapped
        subject = Subject(prepared.classifier, prepared.images, Kind.PAIRS.value)
        candidates = self._candidates(earlier.decision.flagged)
        if isinstance(candidates, str):
            return self.search.not_made(candidates)
        searched = self.search.run(self._few, candidates, subject)
        if isinstance(searched, Unfinished):
            return self.search.not_made(searched.reason, searched)
        lacking = len(candidates) - len(searched.sized)
        if len(candidates) - lacking < MIN_SIZED * len(candidates):
            return self.search.not_made(f"no trigger works for {lacking} of {len(candidates)} pairs", searched)
        sized = searched.ended_at  # after few steps they say more than the smallest that worked, on two images
        ends = [pair.source for pair, _ in sized if pair.source is not None], [pair.target for pair, _ in sized]
        test = pair_outlier_test(*ends, [size for _, size in sized], STANDS_OUT, candidates=len(candidates))
        p_values = {pair: p for (pair, _), p in zip(sized, test.p_values, strict=True) if p is not None}
        small = [pair for index in test.flagged if (pair := sized[index][0]) not in explained]
        p_values |= {pair: 1.0 for pair in p_values if pair in explained}
        return self._judged(searched, p_values, small[:MOST_COMPARED])

    @property
    def _few(self) -> Inversion:
        return replace(self._calm, steps=FEW_STEPS, batch_size=FEW_IMAGES)

    @property
    def _more(self) -> Inversion:
        return replace(self._calm, steps=MORE_STEPS, batch_size=MORE_IMAGES)

    @property
    def _usual(self) -> Inversion:
        """The search of a label that bounds this one: with the default restarts where the scan has fewer."""
        usual = self.search.prepared.inversion
        return replace(usual, restarts=max(usual.restarts, Inversion.restarts))

    @property
    def _calm(self) -> Inversion:
        return pair_inversion(self.search.prepared.settings.loss, self.search.prepared.inversion)

    def _candidates(self, taken: Sequence[int] = ()) -> list[LabelPair] | str:
        """The pairs to labels that are not `taken` which are searched, or why none are."""
        prepared = self.search.prepared
        targets = [pair.target for pair in prepared.pairs if pair.target not in taken]
        candidates, lacking = pair_candidates(prepared.images, targets, prepared.classifier.num_classes)
        if prepared.num_labels < LEAST_LABELS or len(targets) < LEAST_TARGETS or not candidates:
            return "too few labels or images"
        if lacking:
            return f"{len(lacking)} labels have too few images to start from"
        if len(candidates) * self._few.passes > self._usual.passes * len(prepared.pairs):
            return f"{len(candidates):,} pairs of labels take too long"
        return candidates

    def _judged(self, searched: Searched, p_values: Mapping[LabelPair, float], small: Sequence[LabelPair]) -> KindFound:
        """The test's record, once the pairs that stand out have been compared with students."""
        test = record_of(Kind.PAIRS, searched, min(p_values.values(), default=1.0), p_values)
        if not small:
            return KindFound(test)
        longer = self._longer(searched, small)
        theirs, notes = (StudentRatios(), ()) if isinstance(longer, Unfinished) else self._over_students(longer)
        test = charged(charged(test, longer), theirs)
        return replace(self._compared(test, searched, p_values, small, longer, theirs), notes=notes)

    def _compared(
        self,
        test: KindTest,
        searched: Searched,
        p_values: Mapping[LabelPair, float],
        small: Sequence[LabelPair],
        longer: Searched | Unfinished,
        theirs: StudentRatios,
    ) -> KindFound:
        """What stands out, beside students."""
        share, alpha = SHARES[Kind.PAIRS], self.search.prepared.settings.alpha
        clear = [pair for pair in small if p_values[pair] <= alpha * share]  # without students too
        if isinstance(longer, Unfinished):
            return KindFound(_left_open(test, searched, clear, f"but {longer.reason}"))
        if theirs.ratios is None:
            return KindFound(_left_open(test, searched, clear, f"but {NO_GOOD_STUDENT}"))
        ratios = theirs.ratios
        known = {pair: pair_p(p_values[pair], ratios[pair]) if pair in ratios else 1.0 for pair in small}
        planted = [pair for pair in ratios if ratios[pair] <= PLANTED and known[pair] <= alpha * share]
        unlikely = [pair for pair in small if pair in clear or known[pair] <= alpha * share]
        between = [pair for pair in unlikely if PLANTED < ratios.get(pair, 1.0) < NATURAL]
        if between and not planted:
            part = share_of_student([ratios[pair] for pair in between])
            why = f"but takes {part} of its size in student networks, and is flagged only up to {PLANTED:.0%}"
            return KindFound(_left_open(test, searched, between, why))
        said = {**p_values, **{pair: 1.0 if ratios.get(pair, 1.0) >= NATURAL else p for pair, p in known.items()}}
        test = charged(charged(record_of(Kind.PAIRS, searched, min(said.values()), said), longer), theirs)
        if not planted:
            return KindFound(_natural(test, searched, clear, ratios))
        reason = (
            f"{named(planted, dict(longer.sized), Kind.PAIRS)}, {p_is(test.p_value)}, "
            f"{share_of_student([ratios[pair] for pair in planted])} of the size that student networks need"
        )
        test = replace(test, verdict=Verdict.INFECTED, reason=reason, flagged=tuple(planted))
        return KindFound(test, tuple(one for one in longer.found if one.pair in planted), searched.subject)

    def _longer(self, searched: Searched, small: Sequence[LabelPair]) -> Searched | Unfinished:
        """The pairs that stand out, with more steps."""
        subject = replace(searched.subject, part=f"{Kind.PAIRS.value}-longer")
        return self.search.run(self._more, small, subject, " that stand out")

    def _over_students(self, longer: Searched) -> tuple[StudentRatios, tuple[str, ...]]:
        """The largest of the ratios to the students decides; one is enough where it has as small ones.

        The notes say where some were wanted and not there.
        """
        pairs, heard = [pair for pair, _ in longer.sized], list[StudentRatios]()
        for number in range(MOST_STUDENTS if pairs else 0):
            heard.append(self.search.over_student(longer, pairs, number))
            ratios = heard[-1].ratios
            if ratios is None or min(ratios.values()) >= NATURAL:
                break
        made = [one.ratios for one in heard if one.ratios is not None]
        alone = {pair: max(each[pair] for each in made) for pair in pairs} if made else None
        theirs = StudentRatios(
            {} if not pairs else alone,
            sum(one.image_passes for one in heard),
            sum(one.forward_passes for one in heard),
        )
        if not made or len(made) == len(heard):
            return theirs, ()
        why = "the budget was spent" if self.search.stages.tracker.truncated else "no other could be compared with"
        return theirs, (f"{Kind.PAIRS.meaning}: {len(made)} of {MOST_STUDENTS} student networks decided, {why}",)


def _left_open(test: KindTest, searched: Searched, pairs: Sequence[LabelPair], why: str) -> KindTest:
    """Nothing is decided of pairs that stand out clearly; where none does, the test found nothing."""
    if not pairs:
        return test
    which = named(pairs, dict(searched.ended_at), Kind.PAIRS)
    reason = f"{which} {stand(pairs)} out ({p_is(test.p_value)}), {why}"
    return replace(test, verdict=Verdict.INCONCLUSIVE, reason=reason)


def _natural(
    test: KindTest, searched: Searched, pairs: Sequence[LabelPair], ratios: Mapping[LabelPair, float]
) -> KindTest:
    """The same where students have as small ones, or where more steps left no trigger to compare with theirs."""
    if not pairs:
        return test
    which = named(pairs, dict(searched.ended_at), Kind.PAIRS)
    if any(pair in ratios for pair in pairs):
        return replace(test, reason=f"a student has {which} as small: this belongs to the classes")
    return replace(test, reason=f"{which} is no trigger: with more steps and images none works")
