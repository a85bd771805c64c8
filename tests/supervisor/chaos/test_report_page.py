"""The HTML page of a report: as text, and as a browser has it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from browser import Browser, browser, why_no_browser
from conftest import PluginFolder, Workspace
from isoplug.supervisor.chaos import Kill, Operation, Plan, Report, Rule, Settings, run
from isoplug.supervisor.chaos.html import to_html
from reports import report

EMPTY = Report(Plan(), 0, (), (), (), (), "isoplug chaos")
REPORTS = {
    "empty": EMPTY,
    "held": report(200),
    "broken": report(400, broken=True),
    "hostile": report(200, broken=True, hostile=True),
    "long": report(100_000, broken=True, seconds=300),
    "crowded": report(3_000, callers=100),
}


class Page(HTMLParser):
    """Every element has to be closed where it was opened."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attributes}
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: folder / f"{name}.html" for name in REPORTS}
    for name, path in paths.items():
        path.write_text(to_html(REPORTS[name]), "utf-8")
    return paths


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPORTS)
def test_it_is_well_formed_and_names_no_other_file(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert not page.tags & {"script", "img", "link", "iframe", "a", "object", "base"}
    assert not [attribute for attribute, _ in page.attributes if attribute in ("src", "href") or attribute[:2] == "on"]
    assert "url(" not in text
    assert "@import" not in text


def test_what_strangers_wrote_stays_text() -> None:
    text = to_html(REPORTS["hostile"])
    assert "<script" not in text
    page = Page(text)
    assert "<script>alert(1)</script>" in page.text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_the_verdict_the_seed_and_how_to_repeat_it_come_first() -> None:
    held, broken = Page(to_html(REPORTS["held"])).text, Page(to_html(REPORTS["broken"])).text
    assert "every promise held" in held
    assert "1 promise broke" in broken
    for text in (held, broken):
        assert text.index("seed 7") < text.index("--seed 7 --calls") < text.index("Promises") < text.index("Timeline")


def test_a_broken_promise_shows_its_counter_example_and_the_smallest_plan() -> None:
    text = Page(to_html(REPORTS["broken"])).text
    assert "round 2, caller 1 31: diaryx.words:count answered 3, and 7 without faults" in text
    assert "The smallest plan that still breaks it" in text
    assert 'moment = "before"' in text
    assert "1 fault within the first 31 calls" in text
    assert "smallest" not in Page(to_html(REPORTS["held"])).text


def test_a_fault_that_never_struck_is_named_as_one_nothing_is_known_about() -> None:
    assert "Never struck: trap." in Page(to_html(REPORTS["held"])).text


def test_a_long_run_makes_no_long_page_and_the_page_says_what_it_left_out() -> None:
    text = to_html(REPORTS["long"])
    assert len(text) < 2_000_000
    assert "too much to draw each call" in text
    assert "more; --json has all" in text
    assert "too much to draw" not in to_html(REPORTS["held"])


def test_long_names_of_commands_make_no_long_page() -> None:
    long = report(500)
    calls = tuple(replace(call, what=call.what + "x" * 10_000) for call in long.calls)
    injections = tuple(replace(one, function="f" * 10_000) for one in long.injections)
    text = to_html(replace(long, calls=calls, injections=injections))
    assert len(text) < 2_000_000
    Page(text)


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if why_no_browser():
        pytest.skip(why_no_browser())
    with browser(tmp_path_factory.mktemp("chromium")) as one:
        yield one


_SPILLED = """[...document.querySelectorAll("body, body *:not(svg *)")]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1)
    .filter(e => e.checkVisibility({visibilityProperty: true}))
    .map(e => e.tagName + "." + e.className + ": " + e.textContent.slice(0, 40))"""


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", REPORTS)
def test_it_loads_in_silence_asks_for_nothing_and_fits(
    chromium: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    chromium.open(pages[name], width=width)
    assert chromium.requests == [pages[name].as_uri()]
    assert chromium.complaints == []
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate(_SPILLED) == []


def test_the_page_of_a_real_run_is_shown_as_well(
    chromium: Browser, plugins: PluginFolder, workspace: Workspace, tmp_path: Path
) -> None:
    plugins.add()
    plan = Plan((Rule(Kill("delivery"), every=3),), seed=7)
    load = (Operation("command", "test.probe", "echo", "a"),)
    made = run(Settings(plugins.path, workspace.path, plan, load, callers=2, calls=12))
    path = tmp_path / "page.html"
    path.write_text(to_html(made), "utf-8")
    chromium.open(path, width=400)
    assert chromium.complaints == []
    assert chromium.evaluate("document.documentElement.scrollWidth") <= 400
    assert chromium.evaluate("document.querySelectorAll('svg rect.answered').length") == 12
    assert chromium.evaluate("document.querySelectorAll('svg rect.fault').length") == len(made.injections) > 0


def test_every_bar_is_drawn_inside_of_its_lane(chromium: Browser, pages: dict[str, Path]) -> None:
    chromium.open(pages["held"], width=1280)
    assert chromium.evaluate("document.querySelectorAll('svg rect.answered').length") > 100
    outside = """[...document.querySelectorAll("svg rect")].filter(r => {
        const bar = r.getBoundingClientRect(), lane = r.closest("svg").getBoundingClientRect();
        return bar.width <= 0 || bar.height <= 0 || bar.left < lane.left - 1 || bar.right > lane.right + 1
            || bar.top < lane.top - 1 || bar.bottom > lane.bottom + 1;
    }).length"""
    assert chromium.evaluate(outside) == 0


def test_it_follows_the_colour_scheme_and_can_be_printed(
    chromium: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    chromium.open(pages["held"], width=1280)
    light = chromium.evaluate(paper)
    chromium.open(pages["held"], width=1280, dark=True)
    assert chromium.evaluate(paper) != light
    chromium.printed(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
