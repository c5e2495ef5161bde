"""A ScanResult as Markdown, for a pull request: the same facts as the page, every name inert on the usual hosts."""

import re
from collections.abc import Iterable
from pathlib import Path

from neural_cleanse.report import content, findings, summary, tables
from neural_cleanse.report.advice import Step, after_repair, what_now
from neural_cleanse.report.tables import Table
from neural_cleanse.report.text import (
    HEADLINE,
    Titles,
    asr_text,
    bars,
    folder_name,
    mark,
    number,
    paper_sentence,
    sentence,
    success_of,
)
from neural_cleanse.results.records import ScanResult
from neural_cleanse.results.repair import RepairResult
from neural_cleanse.text import escape, p_text

ROWS_SHOWN = 20  # labels; a comment on a pull request holds 65,536 characters
SOURCES_SHOWN = 20
SPECIAL = re.compile(r"[\\`*_\[\]<>~$&]|:(?=\S)")
# Hosts turn these into mentions and links after the Markdown is read, where no backslash helps; in code they do not.
LIVELY = re.compile(r"\S*(?:[@#]|www\.|GH-\d)\S*", re.IGNORECASE)


def markdown(
    result: ScanResult, repair: RepairResult | None = None, *, pictures: bool = False, directory: Path | None = None
) -> str:
    """The document. `pictures` links those that a scan writes beside it; a comment cannot hold any.

    `directory` is where the scan's files are, for the commands that go on from them.
    """
    parts = [] if repair is None else _repair(repair, result)
    level = "#" if repair is None else "##"
    what = "" if repair is None else f"{tables.scan_heading(repair)}: "
    parts += [
        f"{level} {what}{HEADLINE[result.verdict]}",
        f"**{text(summary.plain(result))}**",
        text(sentence(result)),
        _what_now(what_now(result, directory)) if repair is None else "",
        _facts(result),
        *(f"> Note: {text(note)}." for note in result.provenance.notes),
    ]
    for finding in findings.findings(result):
        parts += _finding(finding, pictures)
    parts += [
        _folded(f"Trigger size of every label ({len(result.label_rows or result.labels):,})", _sizes(result)),
        text(paper_sentence(result)),
        _folded("What was and was not checked", _checked(result)),
        _folded("How to repeat it", _repeat(result)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def model_card(result: ScanResult) -> str:
    """A block for the model's card: what was looked for in which file, when, and what was found."""
    version = result.provenance.versions.get("neural-cleanse")
    rows = [
        ("Verdict", text(f"{HEADLINE[result.verdict]}. {summary.plain(result)}")),
        *_fact_rows(result),
        ("Looked for", text(content.looked_for(result))),
        ("Not looked for", text(" ".join(content.not_checked(result)))),
        ("Scanned with", text(f"neural-cleanse {version or ''}".strip())),
    ]
    return "## Backdoor scan\n\n" + Table("", ("", ""), rows).markdown()


def text(value: str) -> str:
    """Text that no Markdown renderer takes for markup, a link, a mention or a formula."""
    pieces = []
    done = 0
    shown = escape(value).replace("|", "¦")
    for lively in LIVELY.finditer(shown):
        pieces += [SPECIAL.sub(r"\\\g<0>", shown[done : lively.start()]), code(lively.group())]
        done = lively.end()
    return "".join([*pieces, SPECIAL.sub(r"\\\g<0>", shown[done:])])


def code(value: str) -> str:
    """Text as a code span whose fence is longer than any in it."""
    shown = escape(value).replace("|", "¦")
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    pad = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _repair(repair: RepairResult, result: ScanResult) -> list[str]:
    classes = _inert(tables.class_table(repair))
    return [
        f"# {tables.REPAIR_HEADLINE[repair.status]}",
        f"**{text(tables.repair_sentence(repair))}**",
        text(tables.accuracy_sentence(repair)),
        Table("", ("", ""), [(name, code(value)) for name, value in tables.repaired_files(repair, result)]).markdown(),
        _inert(tables.trigger_table(repair)),
        text(tables.caution(repair)),
        _what_now(after_repair(repair, result)),
        _folded("Classes that changed most", classes) if repair.rounds and classes else "",
        _folded("What was tried", _inert(tables.try_table(repair))) if repair.rounds else "",
        *(f"> Note: {text(note)}." for note in repair.provenance.notes),
        *([] if repair.provenance.command is None else [f"The command: {code(repair.provenance.command)}"]),
    ]


def _facts(result: ScanResult) -> str:
    return Table("", ("", ""), _fact_rows(result)).markdown()


def _fact_rows(result: ScanResult) -> list[tuple[str, str]]:
    verbatim = ("Model", "SHA-256")
    return [(name, code(value) if name in verbatim else text(value)) for name, value in summary.facts(result)]


def _what_now(steps: Iterable[Step]) -> str:
    lines = [f"1. {text(step.what)}" + (f" {code(step.command)}" if step.command else "") for step in steps]
    return "What now:\n\n" + "\n".join(lines)


def _finding(finding: findings.Finding, pictures: bool) -> list[str]:
    row = finding.row
    parts = [
        f"## {text(finding.heading)}",
        f"{text(finding.flagged.compared)}. {text(success_of(row))}",
    ]
    if pictures and finding.evidence.has_pictures:
        folder = folder_name(finding.pair)
        parts.append(" ".join(f"![{name}]({folder}/{name}.png)" for name in ("mask", "pattern", "trigger")))
    if finding.weak:
        parts += ["Where this is weak:", _bullets(finding.weak)]
    sources = sorted(finding.sources, key=lambda source: (source.share, -source.trials))
    rows = [
        (text(one.title), f"{one.hits} of {one.trials}", f"{one.share:.0%} ({one.low:.0%} to {one.high:.0%})")
        for one in sources[:SOURCES_SHOWN]
    ]
    table = Table("", ("class of the image", "sent", "share (95 % interval)"), rows).markdown()
    return [*parts, _folded("Success by class, lowest first", table + _more(sources, SOURCES_SHOWN, "classes"))]


def _sizes(result: ScanResult) -> str:
    titles, drawn = Titles(result), bars(result)
    rows = []
    for bar in drawn[:ROWS_SHOWN]:
        row, strong = bar.row, "**" if bar.flagged else ""
        rows.append(
            (
                f"{strong}{text(titles.of(row))}{strong}", number(row.size),
                number(row.anomaly_index, 2), text(p_text(row.p_value)), asr_text(row),
                mark(bar),
            )
        )  # fmt: skip
    columns = ("label", "size, px", "index", "p", "success on unseen images", "remark")
    table = Table("", columns, rows, frozenset(columns[1:4])).markdown()
    return table + _more(drawn, ROWS_SHOWN, "labels with larger triggers or no size")


def _more(rows: Iterable[object], shown: int, what: str) -> str:
    left = len(list(rows)) - shown
    return f"\nand {left:,} {what}\n" if left > 0 else ""


def _checked(result: ScanResult) -> str:
    reached = (content.sureness(result), f"Detection limit: {content.limit(result)}", *content.decided_by(result))
    lists = {
        "How the verdict was reached": reached,
        "Where this is weak": summary.doubts(result),
        "Checked": content.checked(result),
        "Not checked": content.not_checked(result),
        "Found in the file": summary.file_issues(result.provenance.model),
    }
    parts = [f"{heading}:\n\n{_bullets(lines)}" for heading, lines in lists.items() if lines]
    kinds = _inert(tables.kind_table(result))
    return "\n\n".join([text(content.looked_for(result)), *([kinds] if kinds else []), *parts, text(content.NATURAL)])


def _repeat(result: ScanResult) -> str:
    rows = [(name, code(value)) for name, value in content.repeat(result)]
    return Table("", ("what", "value"), rows).markdown() + f"\n{text(content.cost(result))}"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {text(line)}" for line in lines)


def _inert(table: Table) -> str:
    rows = [[text(cell) for cell in row] for row in table.rows]
    return Table(table.heading, table.columns, rows, table.numbers).markdown() if rows else ""


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content.strip()}\n\n</details>"
