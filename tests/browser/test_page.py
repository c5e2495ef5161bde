"""The report as a person meets it, in headless Chromium: nothing runs, nothing is fetched, everything can be reached.

`make test-browser` installs what is needed; without a browser these tests are skipped.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_scans import HOSTILE, many, pairs, repaired, result

from neural_cleanse.report.batch import BatchRow
from neural_cleanse.report.batch import html as batch_html
from neural_cleanse.report.page import html
from neural_cleanse.results.records import Verdict
from neural_cleanse.results.repair import RepairStatus

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make test-browser")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

DESKTOP, PHONE = (1200, 900), (360, 740)
LOOKS = [(size, scheme) for size in (DESKTOP, PHONE) for scheme in ("light", "dark")]
LONG = "long" * 1250
CLEAN = result(verdict=Verdict.CLEAN)
PAGES = {
    "hostile": html(result((*HOSTILE, LONG, f"{LONG} {LONG}"))),
    "clean": html(CLEAN),
    "inconclusive": html(dataclasses.replace(result(verdict=Verdict.INCONCLUSIVE), p_value=None, detection_limit=None)),
    "repaired": html(CLEAN, repaired()),
    "not repaired": html(result(), repaired(RepairStatus.FAILED)),
    "pairs": html(pairs()),
    "many": html(many()),
}
BATCH = batch_html(
    [
        BatchRow.of("c", "m/c", dataclasses.replace(result(), wall_s=1.0)),
        BatchRow.of("a", "m/a", dataclasses.replace(CLEAN, wall_s=9.0)),
        BatchRow(HOSTILE[1], "m/x", error=HOSTILE[0]),
    ],
    "neural-cleanse scan m",
)
UNWANTED = (
    "script, iframe, object, embed, form, link, [onerror], [onload], [onclick], img:not([src^='data:image/png;'])"
)


@dataclasses.dataclass
class Seen:
    """What a page did while it was open."""

    page: Any
    address: str
    complaints: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as in most containers.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


def opened(browser: Any, folder: Path, name: str, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Seen:
    path = folder / f"{name.replace(' ', '_')}.html"
    path.write_text({**PAGES, "batch": BATCH}[name], encoding="utf-8")
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    seen = Seen(page, path.as_uri(), [], [])
    page.on("console", lambda message: seen.complaints.append(message.text))
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("dialog", lambda dialog: (seen.complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(seen.address)
    return seen


@pytest.mark.parametrize("name", PAGES)
def test_nothing_runs_nothing_leaves_and_nothing_sticks_out(browser: Any, tmp_path: Path, name: str) -> None:
    for size, scheme in LOOKS:
        seen = opened(browser, tmp_path, name, size, scheme)
        page = seen.page
        page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true })")
        page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], "the page itself does not scroll"
        assert page.locator(UNWANTED).count() == 0
        assert page.locator("h1").count() == 1
        chart = page.locator("#sizes ~ figure.chart svg")
        assert chart.locator(".point > title").count() > 0
        assert chart.bounding_box()["width"] > 300
        assert seen.complaints == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [seen.address]
        page.close()


@pytest.mark.parametrize("name", [*PAGES, "batch"])
def test_axe_finds_nothing(browser: Any, tmp_path: Path, name: str) -> None:
    """Contrast, names, landmarks, order of headings, reach by keyboard: what axe-core can tell by itself."""
    for scheme in ("light", "dark"):
        page = opened(browser, tmp_path, name, PHONE if scheme == "dark" else DESKTOP, scheme).page
        found = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        assert [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in found] == []
        page.close()


def test_axe_would_find_something(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "clean").page
    page.evaluate("document.body.appendChild(document.createElement('img')).src = 'data:image/png;base64,AAAA'")
    assert "image-alt" in [one["id"] for one in axe.Axe().run(page).response["violations"]]
    page.close()


def test_the_policy_stops_what_would_get_in(browser: Any, tmp_path: Path) -> None:
    """Were a name ever not escaped, neither its script nor its picture would get anywhere."""
    seen = opened(browser, tmp_path, "clean")
    stopped = seen.page.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener('securitypolicyviolation', event => stopped.push(event.effectiveDirective));
            const inside = document.createElement('div');
            inside.innerHTML = '<img src="data:image/png;base64,AAAA" onerror="document.title = 1">'
                + '<img src="https://evil.example/x.png">';
            document.body.appendChild(inside);
            const script = document.createElement('script');
            script.textContent = 'document.title = 2';
            document.body.appendChild(script);
            await fetch('https://evil.example/').catch(() => 0);
            await new Promise(done => setTimeout(done, 200));
            return stopped;
        }"""
    )
    assert {"script-src-attr", "script-src-elem", "img-src", "connect-src"} <= set(stopped)
    assert seen.page.title() == "Nothing found – neural-cleanse"
    seen.page.close()


def test_a_point_can_be_hovered(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "hostile").page
    point = page.locator("#sizes ~ figure.chart svg .point").last
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    place = [box["x"] + box["width"] / 2, box["y"] + box["height"] / 2]
    note = page.evaluate("([x, y]) => document.elementFromPoint(x, y).querySelector('title')?.textContent", place)
    assert note == "0 <script>alert(1)</script>: 4.5 px, p < 1e-12, flagged"
    page.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "hostile").page
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("node => node === document.activeElement")
    assert skip.bounding_box()["x"] >= 0, "seen once it has the focus"
    assert skip.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"A", "SUMMARY", "DIV"} <= reached, "links, folded parts, tables that scroll"
    page.close()


def test_light_dark_and_paper_differ(browser: Any, tmp_path: Path) -> None:
    paper = {}
    for scheme in ("light", "dark"):
        page = opened(browser, tmp_path, "repaired", DESKTOP, scheme).page
        paper[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").first.is_visible()
        assert page.pdf().startswith(b"%PDF")
        page.close()
    assert paper["light"] == "rgb(255, 255, 255)"
    assert paper["dark"] != paper["light"]


def test_pictures_are_enlarged_without_smoothing(browser: Any, tmp_path: Path) -> None:
    page = opened(browser, tmp_path, "hostile").page
    pictures = page.locator("img")
    assert pictures.count() == 8
    for picture in pictures.all():
        assert picture.evaluate("node => node.naturalWidth") == 8
        assert picture.bounding_box()["width"] > 80
        assert picture.evaluate("node => getComputedStyle(node).imageRendering") == "pixelated"
    page.close()


def test_a_batch_is_sorted_without_a_script(browser: Any, tmp_path: Path) -> None:
    seen = opened(browser, tmp_path, "batch")
    page = seen.page

    def names() -> list[str]:
        rows = [(row.bounding_box()["y"], row.locator(".path").inner_text()) for row in page.locator("tbody tr").all()]
        return [name[:1] for _, name in sorted(rows)]

    assert names() == ["c", '"', "a"], "the worst first"
    page.check("#by-name")
    assert names() == ['"', "a", "c"]
    page.check("#by-time")
    assert names() == ["a", "c", '"']
    assert page.locator("img").count() == 2 and seen.complaints == []
    assert [url for url in seen.requests if not url.startswith("data:")] == [seen.address]
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    page.close()
