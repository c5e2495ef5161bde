"""What the parts of a scan come to: one result, with evidence against whom it flags."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.combined import patch_test
from neural_cleanse.detection.evidence import evidence_of
from neural_cleanse.detection.kinds_found import KindFound
from neural_cleanse.detection.prepare import PreparedScan
from neural_cleanse.detection.progress import BudgetTracker
from neural_cleanse.detection.spent import budget_notes
from neural_cleanse.detection.student_test import Compared
from neural_cleanse.detection.teaching import Teaching
from neural_cleanse.detection.verdict import Decision
from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.records import Evidence, KindTest, LabelResult, Recovered, Refined, ScanResult

HURRIED_IMAGES = 32  # that evidence is gathered on where no time is left


@dataclass(frozen=True)
class Parts:
    """What a scan has gathered: `found` are its patches, `compared` is what a student said of them."""

    prepared: PreparedScan
    found: tuple[Recovered, ...]
    decision: Decision
    provenance: Provenance
    compared: Compared
    kinds: Sequence[KindFound]
    teaching: Teaching
    tracker: BudgetTracker

    @property
    def other_passes(self) -> int:
        """Image passes beside those of the search for patches."""
        return (
            self.teaching.image_passes + self.compared.image_passes + sum(one.test.image_passes for one in self.kinds)
        )

    @property
    def other_forward_passes(self) -> int:
        """The same of forward passes alone."""
        return (
            self.teaching.forward_passes
            + self.compared.forward_passes
            + sum(one.test.forward_passes for one in self.kinds)
        )

    @property
    def tests(self) -> tuple[KindTest, ...]:
        """The record of every test."""
        passes = sum(one.image_passes for one in self.found) + self.compared.image_passes
        forward = sum(one.forward_passes for one in self.found) + self.compared.forward_passes
        patches = patch_test(self.compared.decision, self.prepared.share, passes, forward)
        return patches, *(one.test for one in self.kinds)


def answer(parts: Parts, began: float) -> ScanResult:
    """The result of a scan that began at that moment (time.monotonic)."""
    others = {pair for one in parts.kinds if one.flagged for pair in one.test.flagged}
    others -= {*parts.compared.decision.flagged_pairs}
    by_patch = {*parts.decision.flagged_pairs} - others
    flagged = [one.shown for one in parts.found if one.pair in by_patch]
    of_kinds = [one for one in parts.kinds if one.flagged]
    shown = _shown(parts)
    evidence, notes = _evidence(parts, of_kinds, flagged)
    notes += tuple(note for one in parts.kinds for note in one.notes)
    records = {name: value for one in parts.kinds for name, value in one.record.items()}
    notes += budget_notes(parts.prepared, parts.tracker, parts.found)
    return ScanResult(
        verdict=parts.decision.verdict,
        reason=parts.decision.reason,
        flagged=parts.decision.flagged,
        p_value=parts.decision.p_value,
        alpha=parts.prepared.settings.alpha,
        level=parts.decision.level,
        detection_limit=parts.decision.detection_limit,
        below_limit=parts.decision.below_limit,
        image_passes=sum(recovered.image_passes for recovered in parts.found) + parts.other_passes,
        forward_passes=sum(one.forward_passes for one in parts.found)
        + parts.prepared.forward_passes
        + parts.other_forward_passes,
        wall_s=time.monotonic() - began,
        image_shape=parts.prepared.classifier.input_shape,
        labels=_rows(shown, parts),
        paper_rule=parts.decision.paper_rule,
        provenance=parts.provenance.joined(records, notes),
        cut_off=parts.tracker.truncated,
        evidence=evidence,
        tests=parts.tests,
        student_test=parts.compared.student_test,
        triggers={
            recovered.pair: {name: tensor.detach().cpu().clone() for name, tensor in trigger.tensors().items()}
            for recovered in shown
            if (trigger := recovered.shown.trigger) is not None
        },
    )


def _evidence(
    parts: Parts, kinds: Sequence[KindFound], patches: Sequence[Recovered]
) -> tuple[tuple[Evidence, ...], tuple[str, ...]]:
    """Evidence against all that is flagged; on few images, which a note says, where there is no time for all."""
    prepared, found, hurried = parts.prepared, list[Evidence](), False
    images = prepared.images
    for kind, classifier, data, one in _to_show(parts, kinds, patches):
        try:
            found.append(evidence_of(classifier, data, images.images, one, kind))
        except OutOfTime:
            hurried = parts.tracker.truncated = True
            unbound = classifier.changed(deadline=None)
            found.append(evidence_of(unbound, data, images.images, one, kind, most=HURRIED_IMAGES))
    said = f"the budget was spent before the evidence was gathered: some is on {HURRIED_IMAGES} images"
    return tuple(found), (said,) * hurried


def _to_show(
    parts: Parts, kinds: Sequence[KindFound], patches: Sequence[Recovered]
) -> Iterator[tuple[Kind, Classifier, ScanImages, Recovered]]:
    """What is flagged, with the network and images that show it: patches for all images first, one a label pair."""
    prepared = parts.prepared
    by_margin = {pair for one in parts.kinds if one.test.kind is Kind.MARGIN for pair in one.test.flagged}
    by_margin -= {*parts.compared.decision.flagged_pairs}
    for one in patches:
        shown_as = Kind.MARGIN if one.pair in by_margin else Kind.PATCH
        yield shown_as, prepared.classifier, prepared.images, one
    known = {one.pair for one in patches}
    mapped = {pair for kind in kinds for pair in kind.test.mapped}
    for kind in kinds:
        new = [one for one in kind.flagged if one.pair not in known and (kind.test.mapped or one.pair not in mapped)]
        known |= {one.pair for one in new}
        if kind.subject is not None:
            yield from ((kind.test.kind, kind.subject.classifier, kind.subject.images, one) for one in new)


def _shown(parts: Parts) -> tuple[Recovered, ...]:
    """One record a row of the table: of a pair that a map explains, the map's, which comes last."""
    rows = [*parts.found, *(one for kind in parts.kinds for one in kind.rows)]
    return tuple({one.pair: one for one in rows}.values())


def _rows(shown: Sequence[Recovered], parts: Parts) -> tuple[LabelResult, ...]:
    decision, names = parts.decision, parts.prepared.names
    p_values = {**decision.p_values, **{pair: p for one in parts.kinds for pair, p in one.p_values.items()}}
    return tuple(
        LabelResult(
            target=recovered.pair.target,
            source=recovered.pair.source,
            name=names[recovered.pair.target] if names and recovered.pair.target < len(names) else None,
            size=recovered.size,
            log_size_sd=recovered.log_size_sd,
            anomaly_index=decision.anomaly_index.get(recovered.pair),
            p_value=p_values.get(recovered.pair),
            asr=recovered.asr,
            asr_interval=_interval(recovered),
            outcome=recovered.outcome,
            image_passes=recovered.image_passes,
            refined=None if recovered.refined is None else _refined(recovered.refined),
        )
        for recovered in shown
    )


def _refined(whole: Recovered) -> Refined:
    assert whole.size is not None, "a search without a size refines nothing"
    return Refined(whole.size, whole.log_size_sd, whole.asr, _interval(whole), whole.outcome)


def _interval(recovered: Recovered) -> tuple[float, float] | None:
    return clopper_pearson(recovered.hits, recovered.trials) if recovered.trials else None
