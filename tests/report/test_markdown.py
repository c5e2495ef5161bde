"""The report for a pull request: the facts of the page, and no name that mentions, links or draws."""

import re
from dataclasses import replace

import pytest
from made_scans import HOSTILE, many, pairs, repaired, result
from markdown_it import MarkdownIt
from markdown_it.token import Token

from neural_cleanse.report import text as wording
from neural_cleanse.report.markdown import code, markdown, text
from neural_cleanse.results.records import Verdict
from neural_cleanse.text import sanitize

NASTY = (
    *HOSTILE,
    "@octocat and team@evil.example",
    "fixes #12 GH-7",
    "www.evil.example https://evil.example",
    "![x](https://evil.example/x.png) [y](https://evil.example)",
    "a\\| @octocat | b | `c`",
    "``` @octocat",
    "**bold** _it_ ~~no~~ $x^2$ :smile:",
    "<!-- gone",
    "&copy; &#64;octocat",
)


def tokens(document: str) -> list[Token]:
    """Every token of the document, those inside lines too, read as the hosts read it."""
    found = []
    for token in MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(document):
        found += [token, *(token.children or [])]
    return found


@pytest.mark.parametrize("name", NASTY)
def test_a_name_is_only_ever_text_or_code(name: str) -> None:
    shown = sanitize(name)
    for written in (text(shown), code(shown)):
        inline = [token for token in tokens(f"start {written} end") if token.type not in ("inline",)]
        kinds = {token.type for token in inline}
        assert kinds <= {"paragraph_open", "paragraph_close", "text", "text_special", "code_inline"}
        told = "".join(token.content for token in inline)
        assert told.replace("¦", "|").split() == f"start {shown} end".split(), "nothing is lost"
        plain = "".join(token.content for token in inline if token.type != "code_inline")
        assert not re.search(r"[@#]|www\.|GH-", plain), "hosts make links of these in text"


def test_a_table_keeps_its_columns_whatever_a_label_is_called() -> None:
    found = tokens(markdown(result(NASTY)))
    assert not {"link_open", "image", "html_inline"} & {token.type for token in found}
    blocks = {token.content.strip() for token in found if token.type == "html_block"}
    assert all(re.fullmatch(r"<details><summary>[\w ,()]+</summary>|</details>", block) for block in blocks)
    cells = [found[place + 1].content for place, token in enumerate(found) if token.type == "td_open"]
    for target in range(1, len(NASTY) - 1):
        place = cells.index(f"{70 + target:.1f}")
        assert cells[place - 1].startswith(f"{target} "), "the name fills one cell"
        assert cells[place + 1] == "0.50"


@pytest.mark.parametrize("verdict", list(Verdict))
def test_it_says_what_the_page_says(verdict: Verdict) -> None:
    document = markdown(result(verdict=verdict))
    assert document.startswith(f"# {wording.HEADLINE[verdict]}\n")
    assert "Detection limit" in document
    assert ("## Label 0" in document) is (verdict is Verdict.INFECTED)
    assert "```" not in document


def test_pictures_are_linked_only_where_they_lie_beside_it() -> None:
    assert "![mask](label_0/mask.png)" in markdown(result(), pictures=True)
    assert "![" not in markdown(result())


def test_a_thousand_labels_fit_into_a_comment() -> None:
    document = markdown(many())
    assert len(document) < 65_536
    assert "and 1,263 labels with larger triggers or no size" in document
    assert "**77 person 77**" in document


def test_pairs_and_repairs() -> None:
    assert "## Label 3 -\\> 8 class 8" in markdown(pairs())
    document = markdown(result(verdict=Verdict.CLEAN), repaired())
    assert document.startswith("# Repaired\n")
    assert "## The scan of the repaired model: Nothing found" in document
    assert "| 96.0% | 1.0% (0.0% to 5.4%, 1 of 100) |" in document
    fixed = repaired()
    command = "neural-cleanse repair *m*"
    asked = markdown(result(), replace(fixed, provenance=replace(fixed.provenance, command=command)))
    assert "The command: `neural-cleanse repair *m*`" in asked
    assert not {"link_open", "image", "html_inline"} & {token.type for token in tokens(document)}
