"""The report as a picture: bars of medians with whiskers from p10 to p90, and how the goals stand. The only module that
imports matplotlib; the same report gives the same bytes.

It is 900 pixels wide, on a background of its own, so that it can be read on light pages and dark ones. An SVG has its
text as text, in whatever font the reader has.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from isoplug.shared.errors import SetupError
from isoplug.supervisor.bench.figures import Figure, shown
from isoplug.supervisor.bench.goals import Verdict
from isoplug.supervisor.bench.names import Name
from isoplug.supervisor.bench.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "draw", "require_matplotlib"]

FORMATS: Final = ("png", "svg")

_WIDTH, _DOTS_PER_INCH = 9.0, 100
_BAR, _TITLE = 0.27, 0.75  # inches of height
_OURS, _OTHERS, _FLOOR, _MISSED, _INK, _PAPER = "#1f6feb", "#8c959f", "#c9d1d9", "#bf5700", "#24292f", "#f6f8fa"

_STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "isoplug",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


@dataclass(frozen=True, slots=True)
class _Panel:
    title: str
    names: tuple[str, ...]

    def figures(self, by_name: Mapping[str, Figure]) -> list[Figure]:
        return [by_name[name] for name in self.names if name in by_name]


_PANELS: Final = (
    _Panel(
        "One call of 100 bytes",
        (
            Name.IN_PROCESS,
            Name.PAIR,
            Name.CALL,
            Name.CALL_ASYNC,
            "isoplug call, 1 host call",
            Name.PROCESS_POOL,
            Name.PEBBLE,
            Name.LOKY,
            Name.RAY,
        ),
    ),
    _Panel(
        "Calls a second (more is better), each caller with a plugin or process of its own",
        (
            Name.ONE_SOCKET,
            Name.FOUR_SOCKETS,
            Name.MOST_SOCKETS,
            Name.ONE_CALLER,
            Name.FOUR_CALLERS,
            Name.MOST_CALLERS,
        ),
    ),
    _Panel(
        "From kill -9 of the worker to the next answer",
        (
            Name.RECOVERY,
            "kill -9 to next answer, ProcessPoolExecutor",
            "kill -9 to next answer, pebble",
            "kill -9 to next answer, loky",
        ),
    ),
    _Panel("10 MB into the guest", (Name.READ_IN_PROCESS, Name.READ, Name.REQUEST_IN_PROCESS, Name.REQUEST)),
)
_FLOORS: Final = (
    Name.IN_PROCESS,
    Name.PAIR,
    Name.ONE_SOCKET,
    Name.FOUR_SOCKETS,
    Name.MOST_SOCKETS,
    Name.READ_IN_PROCESS,
    Name.REQUEST_IN_PROCESS,
)


def require_matplotlib() -> None:
    """Before measuring for minutes, and not after it. Raises SetupError."""
    if find_spec("matplotlib") is None:
        raise SetupError("a picture needs matplotlib; run: pip install 'isoplug[bench]'")


def draw(report: Report, file_format: str) -> bytes:
    """A file of one of ``FORMATS``. Raises SetupError when there is no matplotlib, or nothing to draw."""
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    by_name = {figure.name: figure for figure in report.figures}
    panels = [(panel.title, shown_here) for panel in _PANELS if (shown_here := panel.figures(by_name))]
    verdicts = [verdict for verdict in report.verdicts if verdict.value is not None]
    if not panels and not verdicts:
        raise SetupError("the report has nothing that the picture shows; measure calls, throughput, recovery or files")
    heights = [_TITLE + _BAR * len(figures) for _, figures in panels]
    heights += [_TITLE + _BAR * len(verdicts)] if verdicts else []
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_WIDTH, sum(heights) + 0.3), dpi=_DOTS_PER_INCH, facecolor=_PAPER)
        FigureCanvasAgg(canvas)
        grid = canvas.add_gridspec(len(heights), 1, height_ratios=heights)
        axes = [canvas.add_subplot(grid[row, 0]) for row in range(len(heights))]
        for axis, (title, figures) in zip(axes, panels, strict=False):
            _bars(axis, title, figures)
        if verdicts:
            _goals(axes[-1], verdicts)
        canvas.text(0.99, 0.004, _where(report), ha="right", va="bottom", fontsize=8, color=_INK)
        edge = 0.45 / canvas.get_figheight()
        canvas.subplots_adjust(left=0.43, right=0.97, top=1 - edge, bottom=edge, hspace=0.32)
        buffer = io.BytesIO()
        metadata = {"Date": None} if file_format == "svg" else {"Software": None}
        canvas.savefig(buffer, format=file_format, metadata=metadata, facecolor=_PAPER)
    return buffer.getvalue()


def _bars(axis: Axes, title: str, figures: Sequence[Figure]) -> None:
    rows = range(len(figures))
    medians = [figure.p50 for figure in figures]
    whiskers = [[figure.p50 - figure.p10 for figure in figures], [figure.p90 - figure.p50 for figure in figures]]
    widest = max(figure.p90 for figure in figures)
    axis.barh(rows, medians, color=[_colour(figure) for figure in figures], height=0.68)
    axis.errorbar(medians, rows, xerr=whiskers, fmt="none", ecolor=_INK, elinewidth=1, capsize=2.5)
    for row, figure in enumerate(figures):
        axis.text(figure.p90 + widest * 0.015, row, shown(figure.p50, figure.unit), va="center", fontsize=9)
    axis.set_xlim(0, widest * 1.13)
    _dress(axis, title, [figure.name for figure in figures])


def _colour(figure: Figure) -> str:
    if figure.name in _FLOORS:
        return _FLOOR
    is_other = any(name in figure.name for name in (Name.PROCESS_POOL, Name.PEBBLE, Name.LOKY, Name.RAY))
    return _OTHERS if is_other else _OURS


def _goals(axis: Axes, verdicts: Sequence[Verdict]) -> None:
    """Each as a share of what it may be at most, or at least of what it has to be: up to 1 is met.
    Bars are cut at 2."""
    shares = [_share(verdict) for verdict in verdicts]
    edge = 2.0
    colours = [_OURS if verdict.is_met else _MISSED for verdict in verdicts]
    axis.barh(range(len(verdicts)), [min(share, edge) for share in shares], color=colours, height=0.68)
    axis.axvline(1.0, color=_INK, linewidth=1, linestyle="--")
    for row, verdict in enumerate(verdicts):
        axis.text(edge * 1.015, row, _against(verdict), va="center", fontsize=9)
    axis.set_xlim(0, edge * 1.5)
    _dress(
        axis,
        "Goals: met when the bar ends at the line or before it; bars are cut at twice the goal",
        [v.goal.name for v in verdicts],
    )


def _share(verdict: Verdict) -> float:
    value = verdict.value or 0.0
    if verdict.goal.is_floor:
        return verdict.goal.bound / value if value else float("inf")
    return value / verdict.goal.bound


def _against(verdict: Verdict) -> str:
    goal = verdict.goal

    def words(value: float) -> str:
        return f"{value:.2f}" if goal.unit is None else shown(value, goal.unit)

    return f"{words(verdict.value or 0.0)} ({'≥' if goal.is_floor else '≤'} {words(goal.bound)})"


def _dress(axis: Axes, title: str, labels: Sequence[str]) -> None:
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold", x=-0.78)
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xticks([])
    axis.set_facecolor(_PAPER)
    axis.tick_params(length=0)
    for side in ("top", "right", "bottom"):
        axis.spines[side].set_visible(False)
    axis.spines["left"].set_color(_OTHERS)


def _where(report: Report) -> str:
    facts: Mapping[str, Any] = report.facts
    machine = f"{facts.get('processor')}, {facts.get('cores')} cores, Linux {facts.get('kernel')}"
    versions = f"isoplug {facts.get('isoplug')}, {machine}, Python {facts.get('python')}, {report.began_at[:10]}"
    return f"bars: medians; whiskers: p10 to p90. {versions}"
