"""Names, messages, docstrings and pages use the field's terms, and none of our former private words."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Private word: what to write instead.
BANNED = {
    r"yardsticks?": "reference labels, reference distribution",
    r"twins?": "baseline; clean counterpart",
    r"shel(f|ves)": "batch",
    r"purse": "budget",
    r"acquit\w*": "clear",
    r"accus\w+": "flag",
    r"(short|a|the)[\s_]+look": "screening",
    r"held[\s_]+against": "compared with",
    r"said[\s_]+aloud": "reported",
    r"journal": "checkpoint",
    r"hopeless": "not searchable",
    r"the[\s_]+house": "the architecture, the code",
    r"victims?": "eligible images",
    r"tame[ds]?": "sanitize",
    r"in[\s_]+vain": "truncated",
    r"vouch\w*": "confirm",
    r"led[\s_]+astray": "optimisation failed",
    r"abnormally\s+small\s+triggers?": "the size in pixels, the median and p",
}
OWN = Path(__file__)  # holds the words themselves
FILES = sorted(
    [
        *(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.html"), *(ROOT / "docs").glob("*.md"),
        *(path for path in (ROOT / "tests").rglob("*.py") if path != OWN), *(ROOT / "benchmarks").rglob("*.py"),
        ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
    ]
)  # fmt: skip


@pytest.mark.parametrize("word", BANNED)
def test_no_private_word_is_left(word: str) -> None:
    pattern = re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])", re.IGNORECASE)
    left = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1} {match[0]!r}"
        for path in FILES
        for text in [path.read_text(encoding="utf-8")]
        for match in pattern.finditer(text)
    ]
    assert not left, f"write {BANNED[word]} instead: {', '.join(left)}"


def test_the_files_are_found() -> None:
    assert len(FILES) > 300
