"""A report as one HTML page, to be shown to someone: no other file, no script, nothing loaded from anywhere.

Plugin ids, names of commands and texts of errors come from strangers. ``markup`` sees to it that they are text, and the
page's own policy forbids scripts and requests, should that ever fail.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files

from isoplug.supervisor.chaos.markup import Element, element, to_text
from isoplug.supervisor.chaos.pictures import recovery_picture, timeline_picture
from isoplug.supervisor.chaos.plan import Plan
from isoplug.supervisor.chaos.report import CallEntry, Ending, FaultRow, Promise, Report
from isoplug.supervisor.chaos.timeline import bands_of, scale_of, seconds_text, timeline_of

__all__ = ["to_html"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MAX_BAD_CALLS = 20
_MAX_TEXT = 4_000
_MAX_PLAN = 20_000
#: What each ending means, in the words of the page.
_MEANINGS = {
    Ending.ANSWERED: "with the right answer",
    Ending.FAILED: "with the error that belongs to its fault",
    Ending.WRONG: "with another error, or a wrong answer",
    Ending.LATE: "after its deadline",
}


def to_html(report: Report) -> str:
    """A page of bounded size, well below 2 MB for 100,000 calls: then the timeline is made of counts, and says so."""
    title = f"isoplug chaos: {_verdict(report)}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", files(__package__).joinpath("page.css").read_text("utf-8")),
    )
    body = element("body", *_body(report, title), class_="broken" if report.broken else "held")
    return to_text(element("html", head, body, lang="en"))


def _verdict(report: Report) -> str:
    count = len(report.broken)
    end = ", stopped before its end" if report.is_stopped else ""
    if not count and not report.injections:
        return f"no fault struck{end}"
    if not count:
        return f"every promise held{end}"
    return f"{count} promise{'s' if count > 1 else ''} broke{end}"


def _body(report: Report, title: str) -> Iterator[Element]:
    yield element("h1", title)
    yield _facts(report)
    yield element("p", "The same faults again, against the same calls:")
    yield element("pre", report.repeat, class_="command")
    for promise in report.broken:
        yield _counter_example(promise)
    if report.smallest is not None:
        count = len(report.smallest.rules)
        yield element("h2", "The smallest plan that still breaks it")
        within = f" within the first {report.smallest_calls:,} calls" if report.smallest_calls else ""
        yield element("p", f"{count} fault{'' if count == 1 else 's'}{within}; for --plan:")
        yield _plan(report.smallest)
    yield from _untested(report)
    yield from _promises(report.promises)
    yield from _faults(report)
    yield from _timeline(report)
    yield from _recovery(report)
    yield from _bad_calls(report.calls)
    yield element("details", element("summary", "The plan of this run"), _plan(report.plan))


def _facts(report: Report) -> Element:
    endings = Counter(call.ending for call in report.calls)
    facts = [
        ("", f"{len(report.calls):,}", " calls"),
        ("", f"{len(report.injections):,}", " faults"),
        *(("", f"{endings[ending]:,}", f" {ending}") for ending in Ending),
        ("", f"{len(report.restarts):,}", " restarts"),
        ("", str(report.callers), " caller" if report.callers == 1 else " callers"),
        ("in ", seconds_text(report.seconds), ""),
        ("seed ", str(report.plan.seed), ""),
    ]
    items = (element("li", before, element("b", value), after) for before, value, after in facts)
    return element("ul", *items, class_="facts")


def _untested(report: Report) -> Iterator[Element]:
    if report.is_stopped:
        yield element("p", element("b", "Stopped before its end: "), "this is what was done by then.")
    for name, error in report.not_loaded:
        yield element("p", element("b", "Not loaded, and so not tested: "), _clipped(f"{name}: {error}", _MAX_TEXT))
    if report.always_failing:
        listed = ", ".join(f"{what} ({error})" for what, error in report.always_failing)
        yield element("p", element("b", "Failed without faults as well: "), _clipped(listed, _MAX_TEXT))


def _counter_example(promise: Promise) -> Element:
    return element(
        "div",
        element("p", element("b", f"Broken: {promise.name}. "), promise.means),
        element("pre", _clipped(str(promise.broken), _MAX_TEXT)),
        class_="counter",
    )


def _promises(promises: Iterable[Promise]) -> Iterator[Element]:
    yield element("h2", "Promises")
    yield element("ul", *(_promise(promise) for promise in promises), class_="promises")


def _promise(promise: Promise) -> Element:
    holds = promise.broken is None
    mark, kind = ("✗", "cross") if not holds else ("✓", "tick") if promise.is_checked else ("-", "quiet")
    item = element(
        "li",
        element("span", mark, class_=f"mark {kind}"),
        element("b", promise.name),
        "" if holds else " (broken)",
        f": {promise.means}",
    )
    if promise.note:
        item.append(element("div", element("small", _clipped(promise.note, _MAX_TEXT))))
    return item


def _faults(report: Report) -> Iterator[Element]:
    yield element("h2", "Faults")
    if not report.faults:
        yield element("p", "None struck.", class_="quiet")
        return
    if report.idle_faults:
        yield element("p", f"Never struck: {', '.join(report.idle_faults)}.")
    headings = ["fault", "injected", *map(str, Ending), "recovery p50", "p99", "max"]
    yield _table(headings, (_fault_cells(row) for row in report.faults), text_columns=1)
    yield element(
        "p",
        element(
            "small",
            "How the calls that a fault struck ended: "
            + "; ".join(f"{ending}, {meaning}" for ending, meaning in _MEANINGS.items())
            + ". A call that several faults struck counts for each of them. Recovery is the time from a strike to the "
            "next answer of the same plugin.",
        ),
    )


def _fault_cells(row: FaultRow) -> list[str]:
    times = [seconds_text(row.recovery(one)) if row.recovery_seconds else "-" for one in (50, 99, 100)]
    counts = (row.injected, row.answered, row.failed, row.wrong, row.late)
    return [row.name, *(f"{count:,}" for count in counts), *times]


def _timeline(report: Report) -> Iterator[Element]:
    yield element("h2", "Timeline")
    if not report.calls:
        yield element("p", "There were no calls.", class_="quiet")
        return
    timeline = timeline_of(report)
    if timeline.bin_seconds:
        each = (
            f"{timeline.bin_seconds * 1000:,.0f} ms" if timeline.bin_seconds < 10 else f"{timeline.bin_seconds:.0f} s"
        )
        yield element(
            "p",
            f"There is too much to draw each call: a bar stands for all calls of one caller that began within {each}. "
            "The highest bar of a lane is its busiest time; bars of wrong and late calls are drawn larger than their "
            "part, so that one among thousands is seen. ",
        )
    else:
        yield element("p", "A bar is a call, the mark above it a fault. Point at one to read what it was.")
    yield element("p", "Where nobody calls, the same calls are made without faults, to be compared with.")
    kinds = [*map(str, Ending), "fault", *(["restart"] if report.restarts else [])]
    yield element("div", *(element("span", element("i", class_=kind), kind) for kind in kinds), class_="key")
    yield timeline_picture(timeline)


def _recovery(report: Report) -> Iterator[Element]:
    bands = bands_of(report)
    if not bands:
        return
    yield element("h2", "Recovery times")
    yield element(
        "p",
        "From a strike to the next answer of the same plugin. The axis is logarithmic, a bar is as high as there were "
        "recoveries of that length. The solid line is the median, the dashed one the 99th percentile.",
    )
    yield recovery_picture(bands, scale_of(report))


def _bad_calls(calls: Sequence[CallEntry]) -> Iterator[Element]:
    bad = [call for call in calls if call.ending in (Ending.WRONG, Ending.LATE)]
    if not bad:
        return
    yield element("h2", "Calls that ended wrong or late")
    rows = (
        [str(call.step), call.what, str(call.ending), call.error or "-", ", ".join(call.faults) or "-"]
        for call in bad[:_MAX_BAD_CALLS]
    )
    yield _table(["step", "call", "ending", "error", "struck by"], rows, text_columns=5)
    if len(bad) > _MAX_BAD_CALLS:
        yield element("p", f"And {len(bad) - _MAX_BAD_CALLS:,} more; --json has all.", class_="quiet")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> Element:
    """The first ``text_columns`` are text, the others numbers. On a narrow screen each row becomes a paragraph."""
    kinds = ["text" if number < text_columns else "number" for number in range(len(headings))]
    head = [element("th", heading, class_=kind, scope="col") for heading, kind in zip(headings, kinds, strict=True)]
    body = [
        element(
            "tr",
            *(
                element("td", _clipped(cell, 300), class_=_cell_class(heading, kind, cell), data_label=heading)
                for heading, kind, cell in zip(headings, kinds, row, strict=True)
            ),
        )
        for row in rows
    ]
    return element("table", element("thead", element("tr", *head)), element("tbody", *body))


def _cell_class(heading: str, kind: str, cell: str) -> str:
    return f"{kind} some" if heading in (Ending.WRONG, Ending.LATE) and cell != "0" else kind


def _plan(plan: Plan) -> Element:
    return element("pre", _clipped(plan.to_toml(), _MAX_PLAN))


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most:,} more characters)"
