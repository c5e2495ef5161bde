"""One-class triggers searched with all steps (`--pairs`): each pair beside what source and target explain."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from neural_cleanse.detection.kind_tester import Earlier
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.pair_choice import pair_candidates
from neural_cleanse.detection.pair_verdict import judge_pairs
from neural_cleanse.detection.pairs import CHOOSE_ASR, PairPlan, PairsFound, pair_inversion, search_pairs
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.stages import Stages, Subject
from neural_cleanse.inversion.inversion import Inversion

PART = "pairs of labels"


@dataclass(frozen=True)
class OneClassAllSteps:
    """The test of one scan. It is made also where the input is in doubt, and then decides nothing."""

    prepared: PreparedScan
    stages: Stages
    plan: PairPlan = PairPlan()

    def planned(self) -> dict[str, int]:
        """Those of pairs to all labels."""
        return {PART: self._passes_and_pairs(self._targets())[0]}

    def run(self, earlier: Earlier) -> KindFound:
        """Search pairs and judge them; of those searched, only what is flagged keeps its trigger.

        A label with a trigger from any class is no target of a pair: that trigger is the smallest from each of them.
        """
        prepared, targets = self.prepared, self._targets(earlier.decision.flagged)
        subject = Subject(prepared.classifier, prepared.images)
        report = self.stages.report(PART, *self._passes_and_pairs(targets), "pairs")
        searched = search_pairs(
            self._inversion, prepared.classifier, prepared.images, targets, self.plan, report,
            self.stages.invert(subject, report),
        )  # fmt: skip
        test, p_values = judge_pairs(
            searched.found,
            prepared.settings.alpha,
            prepared.area,
            reference=searched.reference,
            candidates=searched.candidates,
            unsearched=searched.unsearched(searched.untried),
            doubt=prepared.doubt,
        )
        rows = [*searched.found, *searched.screened, *searched.cut_off]
        test = replace(
            test,
            image_passes=sum(one.image_passes for one in rows),
            forward_passes=sum(one.forward_passes for one in rows) + searched.forward_passes,
        )
        return KindFound(
            test=test,
            flagged=tuple(one for one in rows if one.pair in test.flagged),
            subject=subject,
            notes=self._notes(searched, sorted({pair.target for pair in prepared.pairs} - set(targets))),
            searched=tuple(one if one.pair in test.flagged else replace(one, trigger=None) for one in rows),
            p_values=p_values,
            record={"pair_search": _record(searched)},
        )

    def _targets(self, taken: Sequence[int] = ()) -> list[int]:
        return [pair.target for pair in self.prepared.pairs if pair.target not in taken]

    @property
    def _inversion(self) -> Inversion:
        return pair_inversion(self.prepared.settings.loss, self.prepared.inversion)

    def _passes_and_pairs(self, targets: Sequence[int]) -> tuple[int, int]:
        """Image passes that the search takes, and of how many pairs."""
        candidates, _ = pair_candidates(self.prepared.images, targets, self.prepared.classifier.num_classes)
        most = self.plan.passes_per_label * len(targets)
        return min(len(candidates) * self._inversion.passes, most), len(candidates)

    def _notes(self, searched: PairsFound, spared: Sequence[int]) -> tuple[str, ...]:
        """What was searched and what was not, in words; `spared` are the labels to which no pair was."""
        shares = "the tests share the accepted chance (alpha), and p-values are divided by their shares"
        notes = [f"{_extent(searched)}; {shares}"]
        if words := searched.unsearched(0):
            notes.append(f"pairs were not searched: {words}")
        if spared:
            named = ", ".join(map(str, spared))
            notes.append(f"pairs to label {named} were not searched: its own trigger sends images of any class there")
        if self.prepared.images.labels is None:
            notes.append("the images have no labels: the model's own answers stand for the source of a pair")
        return tuple(notes)


def _extent(searched: PairsFound) -> str:
    """How many pairs were searched, with how many steps."""
    plan, whole = searched.plan, len(searched.found)
    said = f"pairs of labels: {whole:,} of {searched.candidates:,} were searched with {searched.steps} steps"
    if not searched.screened and not searched.untried:
        return said
    drawn = sum(one.pair in searched.reference for one in searched.found)
    never = searched.untried - len(searched.cut_off)
    said += f" ({drawn:,} of them drawn at random beforehand), {len(searched.screened):,} with {plan.first_steps} steps"
    if never:
        said += f", {never:,} not at all: pairs have {plan.passes_per_label:,} image passes a label"
    if searched.cut_off:
        said += f"; the scan's budget cut off {len(searched.cut_off):,}"
    return said


def _record(searched: PairsFound) -> dict[str, Any]:
    """How the search went, for the scan's provenance."""
    return {
        "candidates": searched.candidates,
        "all_steps": len(searched.found),
        "few_steps": len(searched.screened),
        "untried": searched.untried,
        "sources_without_enough_images": list(searched.lacking),
        "reference": sorted([pair.source, pair.target] for pair in searched.reference if pair.source is not None),
        "steps": searched.steps,
        "choose_asr": CHOOSE_ASR,
        "plan": asdict(searched.plan),
    }
