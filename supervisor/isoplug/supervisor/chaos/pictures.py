"""The timeline and the recovery times as SVG between HTML labels.

Each lane is a picture of its own that stretches with the page, and its labels are HTML beside it: so text keeps its
size on a telephone, and nothing has to be drawn again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from isoplug.supervisor.chaos.markup import Element, element
from isoplug.supervisor.chaos.timeline import Band, Lane, Mark, Timeline, seconds_text

__all__ = ["recovery_picture", "timeline_picture"]

#: In the pictures' own units; the page stretches them.
_WIDTH = 1000
_LANE_HEIGHT, _ABOVE_HEIGHT = 24, 10
#: A call of a millisecond in a run of minutes would be invisible.
_NARROWEST = 1.2
_TICKS = 5


def timeline_picture(timeline: Timeline) -> Element:
    ticks = [(one / _TICKS, seconds_text(timeline.seconds * one / _TICKS)) for one in range(_TICKS + 1)]
    return element("div", *(_lane(lane) for lane in timeline.lanes), _axis(ticks), class_="picture")


def recovery_picture(bands: Sequence[Band], scale: Sequence[float]) -> Element:
    ticks = [(one / (len(scale) - 1), seconds_text(seconds)) for one, seconds in enumerate(scale)]
    return element("div", *(_band(band, len(scale)) for band in bands), _axis(ticks), class_="picture")


def _lane(lane: Lane) -> Element:
    above = [_rectangle(mark, 0, _ABOVE_HEIGHT - 2) for mark in lane.above]
    calls = [_rectangle(mark, _ABOVE_HEIGHT, _LANE_HEIGHT) for mark in lane.calls]
    return _row(lane.name, above + calls, _ABOVE_HEIGHT + (_LANE_HEIGHT if calls else _ABOVE_HEIGHT))


def _band(band: Band, powers: int) -> Element:
    drawn = [
        element("line", class_="grid", x1=x, x2=x, y1=0, y2=_LANE_HEIGHT)
        for x in (_WIDTH * one / (powers - 1) for one in range(powers))
    ]
    drawn += [_rectangle(mark, 4, _LANE_HEIGHT - 4) for mark in band.marks]
    for name, place in (("median", band.median), ("slowest", band.slowest)):
        drawn.append(element("line", class_=name, x1=place * _WIDTH, x2=place * _WIDTH, y1=0, y2=_LANE_HEIGHT))
    return _row(band.name, drawn, _LANE_HEIGHT)


def _row(name: str, drawn: Iterable[Element], height: int) -> Element:
    picture = element(
        "svg",
        element("title", name),
        *drawn,
        viewBox=f"0 0 {_WIDTH} {height}",
        preserveAspectRatio="none",
        role="img",
        style=f"height: {height}px",
    )
    return element("div", element("div", name, class_="name"), picture, class_="lane")


def _rectangle(mark: Mark, top: float, room: float) -> Element:
    width = max(_NARROWEST, (mark.end - mark.begin) * _WIDTH)
    return element(
        "rect",
        element("title", mark.text),
        class_=mark.kind,
        x=min(mark.begin * _WIDTH, _WIDTH - width),
        y=top + room * (1 - mark.base - mark.height),
        width=width,
        height=room * mark.height,
    )


def _axis(ticks: Iterable[tuple[float, str]]) -> Element:
    labels = [element("span", text, style=f"left: {place:.1%}") for place, text in ticks]
    return element("div", element("div", class_="name"), element("div", *labels, class_="ticks"), class_="lane axis")
