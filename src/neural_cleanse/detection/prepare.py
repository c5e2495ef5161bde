"""All that is settled before the first step of a scan: what is searched, how, on which images, and against what."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from neural_cleanse.choices import Preset
from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.baseline import baseline_entry, sizes_of
from neural_cleanse.detection.first_look import FirstLook, first_look
from neural_cleanse.detection.input_check import check_labels, check_shape
from neural_cleanse.detection.pairs import check_pairs
from neural_cleanse.detection.plans import EarlyDecision, FullSweep, InRounds, Search, Sequential, plan
from neural_cleanse.detection.progress import FORWARD, Budget, ImageCounter, Work
from neural_cleanse.detection.provenance import RunInfo, provenance_of
from neural_cleanse.detection.settings import STUDENT_IMAGES, ScanSettings
from neural_cleanse.detection.shares import SHARES
from neural_cleanse.detection.unused_outputs import EXPECTED_STEPS, to_ask, unused_named, unused_outputs
from neural_cleanse.detection.verdict import MIN_LABELS, Baseline, Decision, decide
from neural_cleanse.errors import SettingsError
from neural_cleanse.images import ImageSet, balanced
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.memory import BatchLimit, batch_images, fit_to_memory
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import predict
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.provenance import Provenance
from neural_cleanse.results.records import LabelPair, Outcome, Recovered, ScanResult, Verdict
from neural_cleanse.text import ranges

PATCHES = "patches"  # the part of the search for them
STEP_SHARE = 0.01  # of a time limit that one step may take, where it takes over STEP_S
STEP_S = 1.0
BACK = 2  # times a forward pass takes the way back


@dataclass(frozen=True)
class PreparedScan:
    """All that is settled before the first step: what is searched, how, on which images, and against what.

    `others` are images given that the scan does not use: a student may learn from them. `left_out` are outputs that
    nothing brings about.
    """

    classifier: Classifier
    settings: ScanSettings
    pairs: tuple[LabelPair, ...]
    names: tuple[str, ...] | None
    images: ScanImages
    others: UInt8[Tensor, "n c h w"]
    doubt: str | None
    baseline_sizes: Mapping[LabelPair, float] | None
    inversion: Inversion
    search: Search
    batch_limit: BatchLimit
    provenance: Provenance
    forward_passes: int
    left_out: tuple[int, ...] = ()

    @property
    def num_labels(self) -> int:
        """How many labels a verdict speaks of: all but the outputs left out."""
        return self.classifier.num_classes - len(self.left_out)

    @property
    def planned(self) -> int:
        """Image passes of the search for patches, at most or about."""
        return self.search.passes(self.inversion, len(self.pairs))

    @property
    def share(self) -> float:
        """The share of alpha of the test on patches."""
        alone = not self.settings.beyond_patches and not self.settings.pairs
        return 1.0 if alone else SHARES[Kind.PATCH]

    def decide(self, found: Sequence[Recovered], looks: int = 1) -> Decision:
        """The verdict on what was found; labels given up early make no reference, else all had the same effort.

        `looks` is how often the labels were searched and judged, this time included.
        """
        return self.decide_over(None if self.baseline_sizes is None else Baseline(self.baseline_sizes), found, looks)

    def decide_over(self, baseline: Baseline | None, found: Sequence[Recovered], looks: int = 1) -> Decision:
        """The verdict on sizes relative to those of a baseline, or of students."""
        given_up = any(one.outcome is Outcome.FIRST_PASS for one in found)
        decision = decide(
            found,
            self.settings.alpha,
            self.area,
            num_classes=self.num_labels,
            baseline=baseline,
            reference=self.search.reference_pairs(self.pairs, self.settings.seed) if given_up else None,
            share=self.share / looks,
        )
        if self.doubt is not None:
            decision = decision.in_doubt(self.doubt)
        screened = any(one.outcome is Outcome.SCREENED for one in found)
        if screened and decision.verdict is Verdict.CLEAN and self.settings.preset != Preset.DEFAULT:
            why = (
                "nothing stands out, but the budget ended before all steps: what fewer of this preset tell is not known"
            )
            decision = replace(decision, verdict=Verdict.INCONCLUSIVE, reason=why)
        if not self.left_out:
            return decision
        return replace(decision, reason=f"{decision.reason}; left out: {unused_named(self.left_out)}")

    def rule(self, screened: Sequence[Recovered]) -> EarlyDecision:
        """What screening settles."""
        decision = self.decide(screened)
        return EarlyDecision(decision.verdict is Verdict.CLEAN, decision.flagged_pairs)

    @property
    def area(self) -> int:
        """Pixels of an image."""
        return self.classifier.input_shape[1] * self.classifier.input_shape[2]


def prepare(
    classifier: Classifier,
    data: ImageSet,
    settings: ScanSettings,
    work: Work,
    *,
    run_info: RunInfo = RunInfo(),
    search: Search | None = None,
    baseline: ScanResult | None = None,
    inversion: Inversion | None = None,
) -> PreparedScan:
    """Check what is given, draw the images, and choose how to search. Raises as `scan` does."""
    check_shape(data, classifier.input_shape)
    check_labels(data, classifier.num_classes)
    pairs = _pairs(settings.labels, classifier.num_classes)
    inversion = inversion or preset(settings.preset, settings.loss, settings.restarts)
    inversion = replace(inversion, precision=settings.precision)
    about = search or plan(settings.plan, len(pairs), settings.preset)
    work.num_labels = len(pairs)
    work.plan(PATCHES, about.passes(inversion, len(pairs)))
    unbound, classifier = classifier, classifier.changed(deadline=work.tracker.deadline)
    sampled, others, sampling, answered = _sample(classifier, data, settings, work)
    look = first_look(classifier, sampled, settings, work)
    checked, images = look.checked, look.images
    if settings.preset == Preset.DEFAULT:  # the other is the authors' to the letter
        inversion = replace(inversion, temperature=look.temperature)
    present = frozenset(() if data.labels is None else data.labels.unique().tolist())
    left_out, tried = _left_out(classifier, images, present | frozenset(settings.labels or ()), settings.seed, work)
    pairs = tuple(pair for pair in pairs if pair.target not in left_out)
    work.num_labels, work.warnings = len(pairs), checked.warnings
    names, sha256 = run_info.label_names or data.names, run_info.model.get("sha256")
    baseline_sizes = None if baseline is None else sizes_of(baseline, classifier, pairs, names, sha256)
    num_labels = classifier.num_classes - len(left_out)
    if settings.pairs:
        check_pairs(num_labels, len(pairs))
    no_verdict = checked.doubt is not None or len(pairs) < num_labels or len(pairs) <= MIN_LABELS
    search = search or _plan(settings, len(pairs), over_baseline=baseline_sizes is not None, no_verdict=no_verdict)
    at_once = _at_once(classifier, inversion, len(pairs), settings, look)
    held, of_baseline = baseline_entry(baseline, asdict(settings))
    held |= _described(settings, inversion, search, left_out) | {"execution": _execution(classifier, at_once)}
    notes = (*run_info.notes, *sampling, *checked.warnings, *_changed(classifier, inversion), *of_baseline)
    provenance = provenance_of(classifier, sampled, held, run_info, accuracy=checked.accuracy, notes=notes)
    batch_limit = fit_to_memory(unbound, inversion, at_once, settings.memory)
    return PreparedScan(
        classifier=classifier,
        settings=settings,
        pairs=pairs,
        names=names,
        images=images,
        others=others,
        doubt=checked.doubt,
        baseline_sizes=baseline_sizes,
        inversion=inversion,
        search=search,
        batch_limit=batch_limit,
        provenance=provenance,
        forward_passes=answered + look.forward_passes + tried,
        left_out=left_out,
    )


def _described(settings: ScanSettings, inversion: Inversion, search: Search, left_out: Sequence[int]) -> dict[str, Any]:
    """The settings as plain values for the record, and what they came to."""
    came_to = {"inversion": inversion.describe(), "search": search.describe()}
    return asdict(settings) | came_to | ({"unused_outputs": list(left_out)} if left_out else {})


def _left_out(
    classifier: Classifier, images: ScanImages, labels: frozenset[int], seed: int, work: Work
) -> tuple[tuple[int, ...], int]:
    """The outputs that nothing brings about, and the images passed to find out."""
    asked = to_ask(classifier, images, labels)
    if not asked or work.tracker.exhausted:
        return (), 0
    planned = EXPECTED_STEPS * len(asked)
    report = work.begin("outputs that no image has", planned, len(asked), "outputs")
    return unused_outputs(classifier, images, labels, seed, report.reached)


def _at_once(
    classifier: Classifier, inversion: Inversion, num_pairs: int, settings: ScanSettings, look: FirstLook
) -> int:
    """Images in one pass: fewer where there is a time limit that a step of so many would overrun."""
    usual = batch_images(classifier.device, inversion, num_pairs, settings.batch_images)
    if settings.max_seconds is None or look.seconds_an_image == 0:
        return usual
    longest = max(STEP_S, STEP_SHARE * settings.max_seconds)
    least = inversion.batch_size * inversion.restarts
    return min(usual, max(least, int(longest / ((1 + BACK) * look.seconds_an_image))))


def _execution(classifier: Classifier, at_once: int) -> dict[str, Any]:
    """How the scan runs on this machine, for the record."""
    return {
        "batch_images": at_once,
        "threads": torch.get_num_threads(),
        "memory_format": str(classifier.memory_format).removeprefix("torch."),
    }


def _plan(settings: ScanSettings, num_labels: int, *, over_baseline: bool, no_verdict: bool) -> Search:
    """The plan by name; over a baseline all labels get the same effort, as the baseline's did.

    Where nothing can be settled, because labels are left out, labels are too few to compare or the input is in doubt,
    screening would be for nothing.
    """
    if over_baseline and settings.plan in ("auto", "full"):
        return FullSweep()
    if over_baseline:
        raise SettingsError(
            f"A baseline needs the plan full, not {settings.plan}.", cure="Leave --plan out, or pass --plan full."
        )
    found = plan(settings.plan, num_labels, settings.preset)
    if settings.preset != Preset.DEFAULT and isinstance(found, FullSweep) and settings.budget != Budget():
        return InRounds()
    return FullSweep() if settings.plan == "auto" and no_verdict and isinstance(found, Sequential) else found


def _changed(classifier: Classifier, inversion: Inversion) -> list[str]:
    """Reported, since it may have been done to hide something, or be a wrong scale of the input."""
    said = []
    if classifier.rounds:
        said.append("the model rounds what it is given: the search's gradient passes that as if it were not there")
    if inversion.temperature != 1:
        kind, by = "sharp" if inversion.temperature > 1 else "flat", f"{inversion.temperature:.3g}"
        said.append(
            f"the model's logits are unusually {kind}: in the search they were divided by {by}, which changes no "
            "answer (the scale of its last layer, or of its input, may be wrong)"
        )
    return said


def _pairs(labels: Sequence[int] | None, num_classes: int) -> tuple[LabelPair, ...]:
    if labels is None:
        return tuple(LabelPair(target) for target in range(num_classes))
    outside = sorted({label for label in labels if not 0 <= label < num_classes})
    if outside or not labels:
        raise SettingsError(
            f"The model has the labels 0 to {num_classes - 1}, not {ranges(outside) if outside else 'none'}.",
            cure=f"Choose among 0 to {num_classes - 1}, or leave --labels out.",
        )
    return tuple(LabelPair(target) for target in sorted(set(labels)))


def _sample(
    classifier: Classifier, data: ImageSet, settings: ScanSettings, work: Work
) -> tuple[ImageSet, UInt8[Tensor, "n c h w"], tuple[str, ...], int]:
    """At most `samples` different images, balanced by label or by the model's own answers; others; what was done; and
    how many images the model answered for it."""
    different, notes, answered = data.distinct(), [], 0
    if len(different) < len(data):
        # The same image in two splits would let it confirm what it chose.
        notes.append(f"{len(data) - len(different)} images are repetitions of others and were left out")
    if different.labels is None:
        notes.append("the images have no labels: they were balanced by the model's own answers")
        classes, answered = _answers(classifier, different, work)
    else:
        classes = different.labels
    rows = balanced(classes, settings.samples, settings.seed)
    left = torch.ones(len(different), dtype=torch.bool)
    left[rows] = False
    return different.take(rows), different.images[left][: STUDENT_IMAGES * settings.samples], tuple(notes), answered


def _answers(classifier: Classifier, data: ImageSet, work: Work) -> tuple[Int[Tensor, " n"], int]:
    """The model's answers to unlabelled images, all alike where there is no time for them; and how many it gave."""
    count = len(data)
    told = ImageCounter(
        work.begin("labelling the images by the model's answers", round(FORWARD * count), count, "images")
    )
    try:
        return predict(classifier, data.images, told), told.images
    except OutOfTime:
        return torch.zeros(count, dtype=torch.long), told.images
