"""Reports of hostile names stay inert, and what is stored comes back as it was."""

import dataclasses
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from made_scans import HOSTILE, many, pairs, repaired, result
from rich.console import Console

from neural_cleanse.errors import OutputError
from neural_cleanse.report import output_dir as directory
from neural_cleanse.report import terminal
from neural_cleanse.report import text as wording
from neural_cleanse.report.glossary import TERMS, anchor
from neural_cleanse.report.markdown import markdown
from neural_cleanse.report.page import html
from neural_cleanse.report.pictures import png, trigger_pictures
from neural_cleanse.results import storage
from neural_cleanse.results.records import LabelPair, Outcome, Refined, ScanResult, Verdict
from neural_cleanse.results.repair import RepairStatus
from neural_cleanse.results.student_test import StudentTest
from neural_cleanse.text import sanitize


class Page(HTMLParser):
    """Every element and attribute of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_page_is_inert_and_needs_no_network(verdict: Verdict) -> None:
    text = html(result(verdict=verdict))
    page = Page(text)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "action", "data", "poster", "srcset", "background"):
            assert value.startswith("data:image/png;base64,")
        if "href" in name:
            assert value.startswith("#")
    styles = [value for name, value in page.attributes if name == "style"] + re.findall(
        r"<style>(.*?)</style>", text, re.S
    )
    assert len(styles) > 1
    assert not any("url(" in style or "@import" in style for style in styles)
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    policy = next(value for _, value in page.attributes if "default-src 'none'" in value)
    assert "script-src" not in policy
    assert "connect-src" not in policy
    assert text.encode(), "a lone surrogate has no UTF-8"
    assert not set(text) & set("\x1b\x07\x00\x9b\u202e\u2066\u200f"), "no control or direction marks"
    assert "x" * 100 not in text
    assert wording.HEADLINE[verdict] in page.text
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    assert "{{ 7 * 7 }}" in page.text, "a name is no template"


def test_the_page_shows_the_evidence_of_the_flagged_label() -> None:
    text = html(result())
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(images) == 1 + 3 + 2 * 2
    assert len(set(images)) == len(images)
    assert "3 of 4" in text


def test_the_first_screen_has_the_trigger_before_any_table() -> None:
    text = html(result())
    order = ['id="verdict"', "the recovered trigger of label 0", "What now", 'id="sizes"']
    assert sorted(order, key=text.index) == order
    assert "Original size 8 × 8 pixels, enlarged without smoothing" in text


def test_a_clean_page_shows_the_smallest_triggers_and_says_how_sure_in_words() -> None:
    clean = dataclasses.replace(result(("a", "b", "c", "d", "e"), Verdict.CLEAN), p_value=1.0)
    text = html(clean)
    shown = re.findall(r'alt="smallest trigger of label (\d) ', text)
    assert shown == ["0", "1", "2"]
    first = Page(text[: text.index('id="sizes"')]).text
    assert "most models without a backdoor look at least this suspicious" in first
    assert not re.search(r"\bp [=<]", first)


def test_a_size_and_a_success_that_stand_together_are_of_one_trigger() -> None:
    """Tables have the trigger that was compared; the first sentence and the label's own part the one that is shown."""
    one = result(("cat", *"bcdefghij"))
    refined = Refined(3.25, None, 0.875, (0.8, 0.9), Outcome.CONVERGED)
    row = dataclasses.replace(one.labels[0], outcome=Outcome.REFINED, asr=0.5, asr_interval=(0.4, 0.6), refined=refined)
    scan = dataclasses.replace(one, labels=(row, *one.labels[1:]), level=0.00005)
    for text in (html(scan), printed(scan), markdown(scan)):
        assert "A small patch (3.2 px" in " ".join(text.split()) and "works on 87.5%" in " ".join(text.split())
        assert "needs one 16 times as large" in " ".join(text.split()), "the median of the others, 74.5 px, over 4.5 px"
        assert text.count("50.0%") == 1, "in the table, beside 4.5 px"
    assert "Searched further, to 3.2 px, it works on 87.5%" in html(scan)
    assert Page(html(scan)).text.count("5e-05") == 1, "where the verdict is explained"


def test_every_term_that_is_linked_is_explained_on_the_page() -> None:
    text = html(result())
    linked = set(re.findall(r'href="#(term-[^"]+)"', text))
    assert len(linked) > 5
    assert linked <= {anchor(term) for term in TERMS}


def test_terms_are_explained_as_in_the_glossary() -> None:
    pages = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", pages, re.MULTILINE))
    for term, meaning in TERMS.items():
        assert re.sub(r" \(\[.*?\]\(.*?\)\)|`", "", rows[term]) == meaning


def test_what_reading_the_file_found_stands_on_the_page() -> None:
    one = result()
    issue = {"place": "node_7", "what": "chooses by <the> input", "runs_code": False}
    model = {"path": "m.onnx", "container": "onnx", "trust": "graph of known operators", "findings": [issue]}
    scan = dataclasses.replace(one, provenance=dataclasses.replace(one.provenance, model=model))
    for text in (Page(html(scan)).text, markdown(scan)):
        assert "node" in text and "chooses by" in text
    assert "graph of known operators" in Page(html(scan)).text
    assert "would run code or choose by the input was seen" in Page(html(one)).text


def test_the_students_sizes_stand_beside_the_models() -> None:
    one = result(("a", "b", "c", "d"))
    test = StudentTest(True, 0.9, 50, {}, students=1, sizes={0: 60.0, 1: 77.0, 2: float("inf")})
    scan = dataclasses.replace(one, student_test=test)
    text = Page(html(scan)).text
    assert "0 a in the student: 60.0 px" in text and "in the student" in text
    assert "compared with those of a student network" in text
    undecided = dataclasses.replace(scan, student_test=StudentTest(False, 0.4, 50, {}))
    assert "in the student:" not in Page(html(undecided)).text


def everything() -> list[tuple[str, str]]:
    """Pages of every verdict, outcome and repair."""
    clean = result(verdict=Verdict.CLEAN)
    pages = [(verdict.value, html(result(verdict=verdict))) for verdict in Verdict]
    pages += [
        (outcome.value, html(dataclasses.replace(clean, labels=tuple(dataclasses.replace(row, outcome=outcome, **none)
         for row in clean.labels), detection_limit=None, p_value=None)))
        for outcome in Outcome
        for none in [{} if outcome.has_size else {"size": None, "p_value": None, "asr": None, "asr_interval": None}]
    ]  # fmt: skip
    pages += [(status.value, html(clean, repaired(status))) for status in RepairStatus]
    return [*pages, ("pairs", html(pairs()))]


def test_every_page_has_one_heading_and_is_built_for_a_screen_reader() -> None:
    for which, text in everything():
        page = Page(text)
        assert page.tags.count("h1") == 1, which
        assert page.tags.count("main") == page.tags.count("header") == page.tags.count("footer") == 1
        assert page.tags.count("table") == page.tags.count("caption") == text.count("<caption>"), which
        assert ("href", "#main") in page.attributes
        identities = [value for name, value in page.attributes if name == "id"]
        assert len(identities) == len(set(identities)), which
        links = [value for name, value in page.attributes if name == "href"]
        assert {link.removeprefix("#") for link in links} <= set(identities), which
        scopes = [value for name, value in page.attributes if name == "scope"]
        assert page.tags.count("th") == len(scopes), which


def test_a_pair_is_named_by_both_of_its_classes() -> None:
    text = Page(html(pairs())).text
    assert "Label 3 -> 8 class 8: the trigger" in text
    assert "For each of 18 pairs of a source class and a label" in text
    assert "5 -> 7 class 7" in text
    flagged = [row for row in html(pairs()).splitlines() if row.strip().startswith('<tr class="flagged"')]
    assert len(flagged) == 1, "not every pair of the target"
    assert "3 -&gt; 8 class 8" in flagged[0]
    assert "3 -> 8 class 8" in printed(pairs())


def test_a_thousand_labels_stay_under_a_megabyte() -> None:
    text = html(many())
    assert len(text) < 1_000_000
    assert Page(text).tags.count("tr") > 1283
    assert "<details>\n<summary>The same in numbers, 1,283 rows" in text, "folded"
    assert "1,232 more classes" in text.replace("1232", "1,232")


def printed(value: ScanResult, width: int = 200) -> str:
    stream = io.StringIO()
    terminal.show(value, Console(file=stream, force_terminal=True, color_system="standard", width=width))
    return stream.getvalue()


def test_the_terminal_says_the_verdict_first_then_the_table_then_the_notes() -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(result(("cat", "dog", "ship", "frog", "deer"))))
    assert text.startswith(
        "Backdoor found\nA small patch (4.5 px, 7.0% of the image) makes this model answer label 0 cat"
    )
    assert text.index("A small patch") < text.index("size px") < text.index("The paper's rule") < text.index("note: ")


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_has_a_line_a_label_in_every_width(width: int) -> None:
    names = (*(f"a name of {number} that goes on and on and on" for number in range(4)), "short")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed(result(names), width))
    lines = plain.splitlines()
    assert max(map(len, lines)) <= width
    rows = [line for line in lines if re.match(r"\d (a name|short)", line)]
    assert len(rows) == 5
    assert all(re.search(r"\d\.\d\d +(< )?\S+ +\d+\.\d%", row) for row in rows[:-1]), "no number is cut"
    assert rows[0].rstrip().endswith("flagged")


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", printed(result()))


def test_the_command_to_go_on_with_stands_at_the_end(tmp_path: Path) -> None:
    scan = result(("a", "b", "c", "d"))
    stream = io.StringIO()
    terminal.show(scan, Console(file=stream, width=80), tmp_path)
    assert stream.getvalue().splitlines()[-1].startswith("  neural-cleanse scan ")
    assert f"--like {tmp_path}" in stream.getvalue()
    assert "next:" not in printed(scan), "nothing to go on from"


def test_the_terminal_is_not_steered() -> None:
    text = printed(result())
    assert not re.sub(r"\x1b\[[0-9;]*m", "", text).count("\x1b"), "only rich's own colours"
    assert not set(text) & set("\x07\x00\x9b\r\u202e\u2066\u200f\ud800")
    assert "[red]x[/] [link=https://evil.example]y" in text, "markup is text"
    assert "x" * 41 not in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line for line in plain.splitlines() if re.match(r"\d+ ", line)]
    assert len(lines) == len(HOSTILE), "one line a label"
    assert lines[0].startswith("0 <script>")
    assert "flagged" in lines[0]
    assert "without a trigger" in lines[-1]


def test_many_labels_are_cut_in_the_terminal_and_whole_on_the_page() -> None:
    sixty = result(tuple(f"class {target}" for target in range(60)))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed(sixty))
    assert "and 40 labels with larger triggers or no size" in plain
    assert len(re.findall(r"^\d+ class", plain, re.MULTILINE)) == 20
    assert Page(html(sixty)).tags.count("tr") > 60


def test_names_that_say_no_more_than_the_number_are_left_out() -> None:
    assert wording.label_title(3, "3") == wording.label_title(3, None) == "3"
    assert wording.label_title(3, "cat") == "3 cat"
    assert sanitize("x" * 41) == "x" * 39 + "…"
    assert sanitize("x" * 40) == "x" * 40
    assert sanitize("né 日本 🐈") == "né 日本 🐈"


# --- storage ---


def equal(left: object, right: object) -> bool:
    """Deep equality that compares tensors by value."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if dataclasses.is_dataclass(left) and not isinstance(left, type):
        names = [field.name for field in dataclasses.fields(left)]
        return type(left) is type(right) and all(equal(getattr(left, n), getattr(right, n)) for n in names)
    if isinstance(left, dict):
        return isinstance(right, dict) and set(left) == set(right) and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, tuple):
        return isinstance(right, tuple) and len(left) == len(right) and all(map(equal, left, right))
    return left == right


@pytest.mark.parametrize("verdict", list(Verdict))
def test_a_result_comes_back_as_it_was(tmp_path: Path, verdict: Verdict) -> None:
    original = result(verdict=verdict)
    storage.save_result(original, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.json", "triggers.safetensors"]
    assert equal(storage.load_result(tmp_path), original)


def test_pairs_with_a_source_keep_their_triggers_apart(tmp_path: Path) -> None:
    original = result(("a", "b", "c", "d"))
    trigger = {"mask": torch.zeros(1, 1, 8, 8), "pattern": torch.ones(1, 3, 8, 8)}
    pairs = dataclasses.replace(
        original,
        labels=(*original.labels, dataclasses.replace(original.labels[1], source=2)),
        triggers={**original.triggers, LabelPair(1, 2): trigger},
    )
    storage.save_result(pairs, tmp_path)
    assert equal(storage.load_result(tmp_path), pairs)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_becomes_null(tmp_path: Path, value: float) -> None:
    original = result()
    odd = dataclasses.replace(
        original,
        p_value=value,
        labels=(dataclasses.replace(original.labels[0], anomaly_index=value, log_size_sd=value), *original.labels[1:]),
        provenance=dataclasses.replace(original.provenance, settings={"deep": [{"er": value}]}),
    )
    storage.save_result(odd, tmp_path)
    text = (tmp_path / "scan.json").read_text()
    assert not re.search(r"\b(NaN|-?Infinity)\b", text)
    raw = json.loads(text)
    assert raw["p_value"] is raw["labels"][0]["anomaly_index"] is raw["provenance"]["settings"]["deep"][0]["er"] is None
    back = storage.load_result(tmp_path)
    assert back.p_value is None
    html(back)
    printed(back)


def test_writing_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    storage.write_whole(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OutputError, match=r"file cannot be written: No space left"):
        storage.write_whole(path, b"new")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"file": b"old"}


@pytest.mark.parametrize(
    ("label", "said"), [(99, "has the label 99"), (-1, "label -1"), (10**30, "has the label 1000")]
)
def test_labels_that_the_model_does_not_have_are_damage(label: int, said: str) -> None:
    made = result(("a",) * 10)
    storage.expect_labels(made, 10)
    rows = (dataclasses.replace(made.labels[0], target=label), *made.labels[1:])
    with pytest.raises(OutputError, match=rf"s1 is damaged.*{said}"):
        storage.expect_labels(dataclasses.replace(made, labels=rows), 10, Path("s1"))


def test_a_flagged_label_without_its_trigger_is_damage(tmp_path: Path) -> None:
    made = result()
    lacking = {pair: trigger for pair, trigger in made.triggers.items() if pair.target != 0}
    storage.save_result(dataclasses.replace(made, triggers=lacking), tmp_path)
    with pytest.raises(OutputError, match=f"{tmp_path} is damaged.*trigger of 0, which is flagged, is missing"):
        storage.load_result(tmp_path)


def test_a_trigger_of_another_size_than_the_images_is_damage(tmp_path: Path) -> None:
    storage.save_result(dataclasses.replace(result(), image_shape=(3, 9, 9)), tmp_path)
    with pytest.raises(OutputError, match=rf"{tmp_path} is damaged.*for images \(3, 9, 9\)"):
        storage.load_result(tmp_path)


def test_an_unfinished_scan_is_not_taken_for_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scan.json goes first and comes last."""
    storage.save_result(result(verdict=Verdict.CLEAN), tmp_path)
    monkeypatch.setattr(directory, "html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        directory.write(result(), tmp_path)
    with pytest.raises(OutputError, match="no finished scan"):
        storage.load_result(tmp_path)


def test_a_file_in_the_place_of_the_directory_is_told_as_such(tmp_path: Path) -> None:
    storage.save_result(result(), tmp_path)
    with pytest.raises(OutputError, match="it is a file") as refused:
        storage.load_result(tmp_path / "scan.json")
    assert refused.value.cure == f"Give the directory that --output named, {tmp_path}."


# --- pictures ---


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_enlarged_without_smoothing(channels: int) -> None:
    import numpy as np
    from PIL import Image

    image = torch.randint(256, (channels, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    shown = np.asarray(Image.open(io.BytesIO(png(image, 3))))
    expected = image.repeat_interleave(3, 1).repeat_interleave(3, 2).permute(1, 2, 0).squeeze(2).numpy()
    assert np.array_equal(shown, expected)


def test_the_trigger_is_mask_times_pattern() -> None:
    shown = trigger_pictures({"mask": torch.full((1, 1, 2, 2), 0.5), "pattern": torch.full((1, 3, 2, 2), 0.8)})
    assert [int(image.max()) for image in (shown["mask"], shown["pattern"], shown["trigger"])] == [128, 204, 102]
