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
from rich.console import Console

from neural_cleanse import storage
from neural_cleanse.errors import OutputError
from neural_cleanse.records import (
    Evidence,
    LabelPair,
    LabelResult,
    Outcome,
    PaperRule,
    Provenance,
    ScanResult,
    SourceRate,
    Verdict,
)
from neural_cleanse.report import directory, terminal, wording
from neural_cleanse.report.page import html
from neural_cleanse.report.pictures import png, trigger_pictures

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m\r\nfake line\x00",
    "user\u202egpj.exe\u2066\u200f",
    "[red]x[/] [link=https://evil.example]y[/link]",
    "x" * 10_000,
    "\ud800 alone",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;</td></table>",
)


def label(target: int, name: str | None, size: float | None = 80.0) -> LabelResult:
    return LabelResult(
        target=target,
        source=None,
        name=name,
        size=size,
        log_size_sd=0.125 if size else None,
        anomaly_index=0.5 if size else None,
        p_value=0.75 if size else None,
        asr=0.96875 if size else None,
        asr_interval=(0.9, 0.99) if size else None,
        outcome=Outcome.CONVERGED if size else Outcome.ASR_NOT_REACHED,
        image_passes=1000,
    )


def result(names: tuple[str | None, ...] = HOSTILE, verdict: Verdict = Verdict.INFECTED) -> ScanResult:
    """A scan whose label 0 is flagged, and whose last label has no size."""
    generator = torch.Generator().manual_seed(0)
    last = len(names) - 1
    rows = [label(target, name, None if target == last else 70.0 + target) for target, name in enumerate(names)]
    rows[0] = dataclasses.replace(rows[0], size=4.5, p_value=1e-20)
    before = torch.randint(256, (2, 3, 8, 8), generator=generator).to(torch.uint8)
    triggers = {
        LabelPair(target): {
            "mask": torch.rand(1, 1, 8, 8, generator=generator),
            "pattern": torch.rand(1, 3, 8, 8, generator=generator),
        }
        for target in range(last)
    }
    infected = verdict is Verdict.INFECTED
    return ScanResult(
        verdict=verdict,
        reason="label 0 (4.5 px) needs an abnormally small trigger",
        flagged=(0,) if infected else (),
        p_value=1e-20,
        alpha=0.01,
        detection_limit=12.25,
        image_passes=10_000,
        forward_passes=123,
        wall_s=1.5,
        image_shape=(3, 8, 8),
        labels=tuple(rows),
        paper_rule=PaperRule(2.0, 3.5, (0,)),
        provenance=Provenance(
            settings={"preset": "default", "names": {"<i>": [1, 2.5, None]}},
            seed=0,
            versions={"torch": "2"},
            model={"path": "/tmp/<script>alert(2)</script>\udcff\x1b[2J", "normalisation": "pixels"},
            data={"origin": "x", "labelled": True},
            notes=("assumed: <script>alert(3)</script>",),
            command="neural-cleanse scan '<script>'",
        ),
        evidence=(Evidence(0, before, 255 - before, (1, 2), (0, 0), (SourceRate(1, 3, 4), SourceRate(2, 0, 5))),)
        if infected
        else (),
        triggers=triggers,
    )


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
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "a", "svg"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    for name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset", "background"):
            assert value.startswith("data:image/png;base64,")
    styles = [value for name, value in page.attributes if name == "style"] + re.findall(
        r"<style>(.*?)</style>", text, re.S
    )
    assert not any("url(" in style or "@import" in style for style in styles)
    assert ("http-equiv", "Content-Security-Policy") in page.attributes
    assert any("default-src 'none'" in value for _, value in page.attributes)
    assert text.encode(), "a lone surrogate has no UTF-8"
    assert not set(text) & set("\x1b\x07\x00\x9b\u202e\u2066\u200f"), "no control or direction marks"
    assert "x" * 100 not in text
    assert wording.HEADLINE[verdict] in page.text
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    assert "{{ 7 * 7 }}" in page.text, "a name is no template"


def test_the_page_shows_the_evidence_of_the_flagged_label() -> None:
    text = html(result())
    images = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(images) == 3 + 2 * 2
    assert len(set(images)) == len(images)
    assert "3 of 4" in text
    assert "<img" not in html(result(verdict=Verdict.CLEAN))


def printed(value: ScanResult, width: int = 200) -> str:
    stream = io.StringIO()
    terminal.show(value, Console(file=stream, force_terminal=True, color_system="standard", width=width))
    return stream.getvalue()


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
    assert "no trigger works" in lines[-1]


def test_many_labels_are_cut_in_the_terminal_and_whole_on_the_page() -> None:
    many = result(tuple(f"class {target}" for target in range(60)))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed(many))
    assert "and 40 labels with larger triggers or none" in plain
    assert len(re.findall(r"^\d+ class", plain, re.MULTILINE)) == 20
    assert Page(html(many)).tags.count("tr") > 60


def test_names_that_say_no_more_than_the_number_are_left_out() -> None:
    assert wording.label_title(3, "3") == wording.label_title(3, None) == "3"
    assert wording.label_title(3, "cat") == "3 cat"
    assert wording.tame("x" * 41) == "x" * 39 + "…"
    assert wording.tame("x" * 40) == "x" * 40
    assert wording.tame("né 日本 🐈") == "né 日本 🐈"


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


def test_an_unfinished_scan_is_not_taken_for_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scan.json goes first and comes last."""
    storage.save_result(result(verdict=Verdict.CLEAN), tmp_path)
    monkeypatch.setattr(directory, "html", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        directory.write(result(), tmp_path)
    with pytest.raises(OutputError, match="no finished scan"):
        storage.load_result(tmp_path)


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
