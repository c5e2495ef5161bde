"""The words and numbers that terminal and page share. Label names come from hostile files and are tamed here."""

import unicodedata
from dataclasses import dataclass

from neural_cleanse.records import Evidence, LabelPair, LabelResult, Outcome, ScanResult, Verdict

HEADLINE = {
    Verdict.INFECTED: "Backdoor found",
    Verdict.CLEAN: "Nothing found",
    Verdict.INCONCLUSIVE: "Could not tell",
}
MAX_NAME = 40  # characters of a label name that are shown


def tame(text: str) -> str:
    """One line of visible characters: no control, format or bidirectional marks, at most MAX_NAME long."""
    return visible(clipped(text, MAX_NAME))


def clipped(text: str, length: int) -> str:
    """At most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def visible(text: str) -> str:
    """The text with a replacement character for each that would steer the terminal or hide."""
    return "".join(
        char
        if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def label_title(target: int, name: str | None) -> str:
    """The class index, and its name where that says more."""
    return str(target) if name is None or name == str(target) else f"{target} {tame(name)}"


def pair(row: LabelResult) -> LabelPair:
    """What the row is of."""
    return LabelPair(row.target, row.source)


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
        return clipped(whole, length)

    def of(self, row: LabelResult) -> str:
        """A row of the table."""
        return self.pair(pair(row))


def flagged_pairs(result: ScanResult) -> tuple[LabelPair, ...]:
    """The rows behind the flagged labels: a target without source, or those of its pairs whose p is small."""
    rows = [row for row in result.labels if row.target in result.flagged]
    small = [row for row in rows if row.source is None or (row.p_value is not None and row.p_value <= result.alpha)]
    return tuple(sorted(map(pair, small), key=lambda one: (one.target, -1 if one.source is None else one.source)))


def accused(result: ScanResult) -> tuple[tuple[LabelPair, Evidence], ...]:
    """Each piece of evidence with the pair that it is of: of pairs with one target, in their order."""
    left = list(flagged_pairs(result))
    found = []
    for evidence in result.evidence:
        which = next((one for one in left if one.target == evidence.target), LabelPair(evidence.target))
        if which in left:
            left.remove(which)
        found.append((which, evidence))
    return tuple(found)


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def p_text(value: float | None) -> str:
    """A p-value; very small ones are bounded, not spelled out."""
    if value is None:
        return "–"
    return "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def p_is(value: float | None) -> str:
    """A p-value as it stands in a sentence."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def asr_text(row: LabelResult) -> str:
    """Attack success rate with its 95 % interval, in per cent."""
    if row.asr is None or row.asr_interval is None:
        return "–"
    low, high = row.asr_interval
    return f"{row.asr:.1%} ({low:.1%} to {high:.1%})"


def sentence(result: ScanResult) -> str:
    """The reason as a sentence."""
    return result.reason[0].upper() + result.reason[1:] + "."


MARK = {
    Outcome.CONVERGED: "",
    Outcome.STEP_LIMIT: "still shrinking",
    Outcome.ASR_NOT_REACHED: "no trigger works",
    Outcome.NOT_ENOUGH_IMAGES: "too few images",
    Outcome.FIRST_PASS: "searched briefly",
    Outcome.NOT_SEARCHED: "not searched",
}


@dataclass(frozen=True)
class Bar:
    """A row's size as a share of the largest, for a bar chart."""

    row: LabelResult
    share: float
    flagged: bool


def bars(result: ScanResult) -> list[Bar]:
    """All labels, smallest trigger first, those without a size last."""
    largest = max((row.size for row in result.labels if row.size is not None), default=1.0)
    flagged = flagged_pairs(result)
    ordered = sorted(result.labels, key=lambda row: (row.size is None, row.size or 0.0, row.target, row.source or 0))
    return [Bar(row, (row.size or 0.0) / largest, pair(row) in flagged) for row in ordered]


def mark(bar: Bar) -> str:
    """Two words on how a row ended; nothing where there is nothing to say."""
    return "flagged" if bar.flagged else MARK[bar.row.outcome]


def paper_sentence(result: ScanResult) -> str:
    """What the paper's own rule says, beside ours."""
    rule = result.paper_rule
    if rule.anomaly_index is None:
        return "The paper's rule cannot be applied: too few sizes."
    which = f"accuses {', '.join(map(str, rule.flagged))}" if rule.flagged else "accuses no label"
    return (
        f"The paper's rule (anomaly index above {rule.threshold:g} on raw sizes) {which}; "
        f"the largest index is {rule.anomaly_index:.2f}. It has no fixed rate of false alarms and does not decide."
    )
