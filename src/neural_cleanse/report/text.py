"""The words and numbers that terminal and page share. Label names come from hostile files and are sanitized here."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from neural_cleanse.distributions import clopper_pearson
from neural_cleanse.results.kind import Kind
from neural_cleanse.results.records import (
    Evidence,
    KindRow,
    LabelPair,
    LabelResult,
    Outcome,
    Refined,
    ScanResult,
    Verdict,
)
from neural_cleanse.results.thresholds import LOW_ACCURACY
from neural_cleanse.text import escape, p_is, sanitize, truncate

HEADLINE = {
    Verdict.INFECTED: "Backdoor found",
    Verdict.CLEAN: "Nothing found",
    Verdict.INCONCLUSIVE: "Could not tell",
}


def label_title(target: int, name: str | None) -> str:
    """The class index, and its name where that says more."""
    return str(target) if name is None or name == str(target) else f"{target} {sanitize(name)}"


class Titles:
    """What labels and label pairs are called, by the names that the result holds."""

    def __init__(self, result: ScanResult) -> None:
        self._names = {row.target: row.name for row in result.labels}

    def label(self, label: int) -> str:
        """A class, as it is said of an image."""
        return label_title(label, self._names.get(label))

    def pair(self, pair: LabelPair) -> str:
        """The target, or source -> target."""
        target = self.label(pair.target)
        return target if pair.source is None else f"{self.label(pair.source)} -> {target}"

    def short(self, row: LabelResult, length: int) -> str:
        """A row in so many characters: pairs lose their names before they lose a number."""
        whole = self.of(row)
        if len(whole) > length and row.source is not None:
            return f"{row.source} -> {row.target}"
        return truncate(whole, length)

    def of(self, row: LabelResult) -> str:
        """A row of the table."""
        return self.pair(row.pair)


NAMED = 3  # pairs of a map in a sentence
MAPPED = (Kind.ALL_TO_ALL, Kind.FEATURE_ALL_TO_ALL)


@dataclass(frozen=True)
class Flagged:
    """What was flagged: one label or pair of labels, or all pairs of a map, along which one trigger sends its classes.

    `row` has its size, p-value and success; for a map the success is over the images of all its classes, and target and
    source are those of the first pair. `by_margin`: the margin that inputs reach flagged it, the patch only shows it.
    """

    row: LabelResult
    pairs: tuple[LabelPair, ...]
    title: str
    by_margin: bool = False

    @property
    def is_map(self) -> bool:
        """Whether one trigger sends every class to another label."""
        return len(self.pairs) > 1

    @property
    def heading(self) -> str:
        """What it is called."""
        return f"{len(self.pairs)} classes, each to another label" if self.is_map else f"Label {self.title}"

    @property
    def compared(self) -> str:
        """What was compared, with its p-value; of one flagged by its margin the patch says nothing."""
        p = p_is(self.row.p_value)
        if self.by_margin:
            return f"its largest margin stands out, {p}; the smallest patch for it has {number(self.row.size)} px"
        return p if self.row.size is None else f"{number(self.row.size)} px, {p}"

    @property
    def statement(self) -> str:
        """What is wrong, in a clause."""
        if self.is_map:
            return f"One unusually small trigger sends {len(self.pairs)} classes each to another label ({self.title})"
        if self.by_margin:
            return f"Inputs reach label {self.title} with a far larger margin than in networks of the same classes"
        return f"Label {self.title} is reached by an unusually small trigger"


def flagged(result: ScanResult) -> tuple[Flagged, ...]:
    """Everything that was flagged, maps first.

    The table of labels has the rows of patches, and of pairs with all steps; of another kind a row is made of what its
    test and its evidence say.
    """
    titles, known = Titles(result), {row.pair: row for row in result.labels}
    found: list[Flagged] = []
    by_map: set[LabelPair] = set()
    for kind in MAPPED:
        seen = [evidence for evidence in result.evidence if evidence.kind is kind]
        if len(seen) > 1:
            pairs = tuple(evidence.pair for evidence in seen)
            by_map.update(pairs)
            found.append(Flagged(_row_of_kind(result, seen), pairs, _few(titles, pairs)))
    in_table = {Kind.PATCH, *(test.kind for test in result.tests if test.in_table)}
    kinds = {evidence.pair: evidence for evidence in result.evidence if evidence.kind not in in_table}
    for pair in result.flagged_pairs:
        if pair in by_map:
            continue
        row, by_margin = known.get(pair), pair in kinds and kinds[pair].kind is Kind.MARGIN
        if by_margin and row is not None:
            tested = _tested(result, Kind.MARGIN, pair)
            row = replace(row, p_value=None if tested is None else tested.p_value)
        elif pair in kinds:
            row = _row_of_kind(result, [kinds[pair]])
        if row is not None:
            found.append(Flagged(row, (pair,), titles.pair(pair), by_margin))
    return tuple(found)


def _few(titles: Titles, pairs: Sequence[LabelPair]) -> str:
    """The first pairs of a map in words."""
    named = [f"{titles.label(pair.source)} to {titles.label(pair.target)}" for pair in pairs if pair.source is not None]
    return ", ".join(named[:NAMED]) + (", and so on" if len(named) > NAMED else "")


def _tested(result: ScanResult, kind: Kind, pair: LabelPair) -> KindRow | None:
    """The pair's row in the test of that kind."""
    rows = (row for test in result.tests if test.kind is kind for row in test.rows)
    return next((row for row in rows if row.pair == pair), None)


def _row_of_kind(result: ScanResult, seen: Sequence[Evidence]) -> LabelResult:
    """Of one pair, or of all pairs of a map. Sizes in feature space are no pixels, and are left out."""
    first = seen[0]
    found = _tested(result, first.kind, first.pair)
    whole = next((test.p_value for test in result.tests if test.kind is first.kind), None)
    rates = [rate for evidence in seen for rate in evidence.by_source]
    hits, trials = sum(rate.hits for rate in rates), sum(rate.trials for rate in rates)
    return LabelResult(
        target=first.target,
        source=first.source,
        name=next((row.name for row in result.labels if row.target == first.target), None),
        size=None if found is None or not first.has_pictures else found.size,
        log_size_sd=None,
        anomaly_index=None,
        p_value=whole if found is None or found.p_value is None else found.p_value,
        asr=hits / trials if trials else None,
        asr_interval=clopper_pearson(hits, trials) if trials else None,
        outcome=Outcome.CONVERGED,
        image_passes=0,
    )


def folder_name(pair: LabelPair) -> str:
    """Of the pictures of what was flagged."""
    return f"label_{pair.target}" + ("" if pair.source is None else f"_from_{pair.source}")


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def success_of(row: LabelResult) -> str:
    """How often the trigger that is shown works, in a sentence."""
    which = "It" if row.refined is None else f"Searched further, to {number(row.refined.size)} px, it"
    return f"{which} works on {asr_text(row.shown)} of the images that no search saw (95 % interval)."


def asr_text(row: LabelResult | Refined) -> str:
    """Attack success rate with its 95 % interval, in per cent."""
    if row.asr is None or row.asr_interval is None:
        return "–"
    low, high = row.asr_interval
    return f"{row.asr:.1%} ({low:.1%} to {high:.1%})"


def sentence(result: ScanResult) -> str:
    """The reason as a sentence."""
    return result.reason[0].upper() + result.reason[1:] + "."


WORKS = 0.9  # attack success rate from which nobody would say that a trigger does not work


@dataclass(frozen=True)
class Bar:
    """A row's size as a share of the largest, for a bar chart."""

    row: LabelResult
    share: float
    flagged: bool


def bars(result: ScanResult) -> list[Bar]:
    """All labels, smallest trigger first, those without a size last."""
    rows = result.label_rows or result.labels  # a scan of pairs alone has nothing else
    largest = max((row.size for row in rows if row.size is not None), default=1.0)
    ordered = sorted(rows, key=lambda row: (row.size is None, row.size or 0.0, row.target, row.source or 0))
    return [Bar(row, (row.size or 0.0) / largest, row.pair in result.flagged_pairs) for row in ordered]


def mark(bar: Bar) -> str:
    """A few words on how a row ended; nothing where there is nothing to say."""
    return remark(bar.row, flagged=bar.flagged)


def remark(row: LabelResult, *, flagged: bool) -> str:
    """The same. A short search may end with a large trigger that works, none of a size that is known to hold."""
    if row.outcome is Outcome.ASR_NOT_REACHED and (row.asr or 0.0) >= WORKS:
        return "no size yet"
    if flagged:
        return "flagged"
    return "" if row.outcome is Outcome.CONVERGED else row.outcome.remark


def paper_sentence(result: ScanResult) -> str:
    """What the paper's own rule says, beside ours."""
    rule = result.paper_rule
    if rule.anomaly_index is None:
        return "The paper's rule cannot be applied: too few sizes."
    of = sum(row.anomaly_index is not None for row in result.label_rows)
    which = f"flags {', '.join(map(str, rule.flagged))}" if rule.flagged else "flags no label"
    return (
        f"The paper's rule (anomaly index above {rule.threshold:g} on the raw sizes of {of:,} labels) {which}; "
        f"the largest index is {rule.anomaly_index:.2f}. It has no fixed rate of false alarms and does not decide."
    )


def line(result: ScanResult) -> str:
    """The answer in one line: what was found, how small, against what, and how likely by chance.

    A poor clean accuracy stands there too: the images may have reached the model in the wrong form.
    """
    accuracy = result.provenance.data.get("clean_accuracy")
    poor = isinstance(accuracy, float) and accuracy < LOW_ACCURACY
    return f"{_answer(result)}; clean accuracy is only {accuracy:.1%}, see the notes" if poor else _answer(result)


def _answer(result: ScanResult) -> str:
    headline = HEADLINE[result.verdict]
    if result.verdict is Verdict.INCONCLUSIVE:
        return f"{headline}: {escape(result.reason)}"
    sizes = [row.size for row in result.label_rows if row.size is not None]
    median = f"median {statistics.median(sizes):.0f} px" if sizes else "no size"
    if result.verdict is Verdict.CLEAN:
        smallest = f"smallest trigger {min(sizes):.0f} px, " if sizes else ""
        return f"{headline}: {len(result.label_rows):,} labels, {smallest}{median}, {p_is(result.p_value)}"
    found = flagged(result)
    if len(found) == 1 and not found[0].is_map:
        title, row = found[0].title, found[0].row
        how = "feature-space trigger" if row.size is None else f"{number(row.size, 0)} px, {median}"
        how = "largest margin" if found[0].by_margin else how
        return f"{headline}: label {title} ({how}, {p_is(row.p_value)})"
    maps = [f"{one.heading} ({one.compared})" for one in found if one.is_map]
    each = [f"{one.title} ({one.compared})" for one in found if not one.is_map]
    named = [*maps, *([f"labels {'; '.join(each)}"] if each else [])]
    return f"{headline}: {'; '.join(named)}; {median}"
