"""Which label pairs are searched for a trigger that works from one class alone, in which order, with how much effort.

A scan of N labels has N (N - 1) pairs from one class to another. Within a budget of image passes that grows as N:

1. All of them with all steps, where the budget allows it (up to 13 labels).
2. Else `reference` pairs, drawn at random before anything was searched, every label being as often a source as a
   target, get all steps: they are the reference. The others get a few steps each, in the order of how near their source
   comes to their target on clean images, beyond what source and target explain (K-Arm, Shen et al., ICML 2021, screens
   by logits too), as far as the budget goes. The finalists, the pairs whose size after those steps lies furthest under
   what source and target explain, get all steps.

Every choice is of pairs, never of the reference, and the test (statistics/pairs.py) counts all pairs that there were.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neural_cleanse.classifier import Classifier
from neural_cleanse.deadline import OutOfTime
from neural_cleanse.detection.pair_choice import balanced_draw, by_nearness, furthest_under, pair_candidates
from neural_cleanse.detection.pair_verdict import unsearched_words
from neural_cleanse.detection.progress import Part
from neural_cleanse.errors import SettingsError
from neural_cleanse.inversion.batching import MIN_IMAGES, Invert
from neural_cleanse.inversion.cost import BatchCost
from neural_cleanse.inversion.inversion import Inversion
from neural_cleanse.inversion.presets import preset
from neural_cleanse.inversion.sampling import ScanImages
from neural_cleanse.metrics import Told
from neural_cleanse.results.records import LabelPair, Outcome, Recovered

CHOOSE_ASR = 0.9  # of one class there are a few dozen images to choose on: two that fail must not reject a trigger
LEAST_LABELS, LEAST_TARGETS = 4, 2  # three labels have 6 pairs and 5 effects: nothing is left to tell an outlier by


@dataclass(frozen=True)
class PairPlan:
    """The budget in image passes a label, and how it is spent where it does not reach for all pairs."""

    passes_per_label: int = 12_000  # four times what the label's own trigger takes at most
    reference_per_label: int = 4
    finalists_per_label: int = 1
    first_steps: int = 40


@dataclass(frozen=True)
class PairsFound:
    """What a search over pairs came to, and how each pair was treated.

    `found` holds pairs that got all steps, then those with too few images; `screened` those that got a few steps and
    were no finalists, `cut_off` those that a spent budget left. `candidates` counts all pairs that could have been
    searched, `untried` those of them that no budget reached to the end; `lacking` are the classes with too few images
    to be a source. `forward_passes` are those that put the pairs in their order.
    """

    found: tuple[Recovered, ...]
    screened: tuple[Recovered, ...]
    cut_off: tuple[Recovered, ...]
    reference: frozenset[LabelPair]
    candidates: int
    untried: int
    lacking: tuple[int, ...]
    steps: int
    plan: PairPlan
    forward_passes: int = 0

    def unsearched(self, untried: int) -> str | None:
        """Which pairs were not screened, in words; `untried` of them for want of a budget."""
        everything = (*self.found, *self.screened)
        already = [one.pair for one in everything if one.outcome is Outcome.NOT_ENOUGH_IMAGES]
        return unsearched_words(self.lacking, untried, self.candidates, MIN_IMAGES, already)


def check_pairs(num_classes: int, num_targets: int) -> None:
    """Raises SettingsError where a search over pairs could say nothing."""
    if num_classes < LEAST_LABELS or num_targets < LEAST_TARGETS:
        raise SettingsError(
            f"A search over pairs of labels needs {LEAST_LABELS} labels, {LEAST_TARGETS} of them as targets; the model "
            f"has {num_classes}, the scan {num_targets}: source and target alone explain every size.",
            cure="Scan without --pairs." if num_classes < LEAST_LABELS else "Scan more labels, or without --pairs.",
        )


def pair_inversion(loss: str, usual: Inversion | None = None) -> Inversion:
    """The search of a pair: one restart with smaller steps, since few images make sizes noisy.

    It sees logits as the `usual` search of the scan does, and computes with the same numbers.
    """
    calm = replace(preset("default", loss), learning_rate=0.2, cost=BatchCost(quick_memory=0.7))
    calm = replace(calm, restarts=1, race=(), spread=0, choose_asr=CHOOSE_ASR, allow_chance=False)
    return calm if usual is None else replace(calm, temperature=usual.temperature, precision=usual.precision)


def search_pairs(
    inversion: Inversion,
    classifier: Classifier,
    images: ScanImages,
    targets: Sequence[int],
    plan: PairPlan,
    report: Part,
    invert: Invert,
) -> PairsFound:
    """Search pairs to `targets` from every class that has enough images; `report` is told of each."""
    candidates, lacking = pair_candidates(images, targets, classifier.num_classes)
    budget, whole = plan.passes_per_label * len(targets), inversion.passes
    if len(candidates) * whole <= budget:
        found, cut_off = _run(inversion, candidates, report, invert)
        every = frozenset(candidates)
        return PairsFound(
            found=found, screened=(), cut_off=cut_off, reference=every, candidates=len(every), untried=len(cut_off),
            lacking=lacking, steps=inversion.steps, plan=plan,
        )  # fmt: skip
    reference = balanced_draw(candidates, plan.reference_per_label, images.seed)
    finalists = plan.finalists_per_label * len(targets)
    first, passed = replace(inversion, steps=plan.first_steps), list[int]()
    rest = [pair for pair in _ordered(classifier, images, candidates, passed.append) if pair not in reference]
    tried = rest[: max(0, budget - (len(reference) + finalists) * whole) // first.passes]
    found, cut_off = _run(inversion, sorted(reference), report, invert)
    screened, without_look = _run(first, tried, report, invert)
    chosen = set(furthest_under(screened, finalists))
    seen = {one.pair: one for one in screened}
    last, without_end = _run(inversion, sorted(chosen), report, invert)
    screened = tuple(_screened(one) for one in screened if one.pair not in chosen)
    cut_off += (*without_look, *(one.after(seen[one.pair]) for one in without_end))
    found += tuple(one.after(seen[one.pair]) for one in last)
    untried = len(rest) - len(tried) + len(cut_off)
    return PairsFound(
        found=found, screened=screened, cut_off=cut_off, reference=reference, candidates=len(candidates),
        untried=untried, lacking=lacking, steps=inversion.steps, plan=plan, forward_passes=sum(passed),
    )  # fmt: skip


def _ordered(classifier: Classifier, images: ScanImages, pairs: Sequence[LabelPair], told: Told) -> list[LabelPair]:
    """By nearness; as they come where no time is left, for none will be searched."""
    try:
        return by_nearness(classifier, images, pairs, told)
    except OutOfTime:
        return list(pairs)


def _screened(one: Recovered) -> Recovered:
    if one.outcome is Outcome.NOT_ENOUGH_IMAGES:
        return one
    return replace(one, trigger=None, size=None, hits=0, trials=0, outcome=Outcome.SCREENED_OUT)


def _run(
    inversion: Inversion, pairs: Sequence[LabelPair], report: Part, invert: Invert
) -> tuple[tuple[Recovered, ...], tuple[Recovered, ...]]:
    """The pairs that came to their end, and those that a spent budget cut off, each in order."""
    found = {pair: Recovered.skipped(pair, Outcome.NOT_SEARCHED) for pair in pairs}
    for recovered in invert(inversion, pairs):
        found[recovered.pair] = recovered
        report.finish(recovered)
    in_order = [found[pair] for pair in sorted(found)]
    ended = tuple(one for one in in_order if one.outcome is not Outcome.NOT_SEARCHED)
    return ended, tuple(one for one in in_order if one.outcome is Outcome.NOT_SEARCHED)
