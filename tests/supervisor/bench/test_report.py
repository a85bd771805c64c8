"""A report as JSON and as a picture."""

from __future__ import annotations

import json
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.figures import Unit, figure_of
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.bench.picture import draw
from isoplug.supervisor.bench.report import Report

FACTS = {"isoplug": "1.2.3", "processor": "Abacus", "cores": 2, "kernel": "7.0", "python": "3.11.0", "load": [0.5]}


def a_report(**medians: float) -> Report:
    medians = medians or {"CALL": 2e-4, "PAIR": 1e-4, "IN_PROCESS": 1e-5, "LOKY": 3e-4, "RECOVERY": 0.02}
    figures = [
        figure_of("calls", Name[key], Unit.SECONDS, [value * 0.9, value, value * 1.3]) for key, value in medians.items()
    ]
    return Report("2026-01-02T03:04:05+00:00", 61.5, tuple(figures), {"pebble": "not installed"}, {"blocks": 3}, FACTS)


@pytest.fixture(scope="module", autouse=True)
def fonts() -> None:
    """matplotlib keeps the fonts open that it has read, which no single test leaves behind."""
    draw(a_report(), "png")


def test_a_report_survives_json() -> None:
    report = a_report()
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_its_json_has_every_percentile_and_every_goal_with_what_was_measured() -> None:
    document = a_report(CALL=2e-4, LOKY=3e-4).to_json()
    assert document["figures"][0].keys() >= {"least", "p10", "p50", "p90", "p99", "most", "samples", "unit", "section"}
    goals = {goal["name"]: goal for goal in document["goals"]}
    pools = goals["isolated call ÷ best process pool"]
    assert (pools["value"], pools["at_most"], pools["is_met"]) == (pytest.approx(2 / 3), 0.5, False)
    assert goals["throughput, 4 callers ÷ 1"]["at_least"] == 2.2
    assert goals["throughput, 4 callers ÷ 1"]["value"] is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
)


@given(st.sampled_from(["format", "began_at", "seconds", "figures", "missing", "options", "facts"]), JSON)
def test_a_document_that_is_no_report_is_refused_and_nothing_else_happens(key: str, value: Any) -> None:
    document = a_report().to_json()
    document[key] = value
    for broken in (document, value, {key: value}):
        try:
            Report.from_json(broken)
        except SetupError:
            continue


def test_a_report_of_another_format_is_refused_by_name() -> None:
    with pytest.raises(SetupError, match="format 2, this isoplug reads 1"):
        Report.from_json({**a_report().to_json(), "format": 2})


@pytest.mark.parametrize("file_format", ["svg", "png"])
def test_the_same_report_gives_the_same_picture(file_format: str) -> None:
    assert draw(a_report(), file_format) == draw(a_report(), file_format)


def test_the_picture_names_what_was_measured_with_medians_and_goals_and_where() -> None:
    root = ElementTree.fromstring(draw(a_report(), "svg"))
    texts = {"".join(element.itertext()).strip() for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"isoplug call", "200 µs", "loky", "300 µs", "isolated call ÷ best process pool"} <= texts
    assert "0.67 (≤ 0.50)" in texts
    assert not any("pebble" in text for text in texts)
    assert any("Abacus" in text and "2026-01-02" in text for text in texts)
    assert root.get("width") == "648pt"  # 900 pixels


def test_a_png_is_900_pixels_wide() -> None:
    picture = draw(a_report(), "png")
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20], "big") == 900


def test_a_report_without_anything_to_draw_is_refused() -> None:
    with pytest.raises(SetupError, match="nothing that the picture shows"):
        draw(a_report(BARE_SQLITE=1e-4), "svg")


def test_without_matplotlib_a_picture_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # how Python is told that there is none
    with pytest.raises(SetupError, match=r"pip install 'isoplug\[bench\]'"):
        draw(a_report(), "svg")
