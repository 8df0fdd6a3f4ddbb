"""The style of trials in every plot: the default, the best one, those that violate a limit; and axis limits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

from raymtl.intervals import MeanInterval
from raymtl.reports.plots import FAINT, INK, LINE, PAPER, WARNING, is_narrow, legend_above
from raymtl.reports.style import MUTED
from raymtl.tuning.report.report_data import View
from raymtl.tuning.trial_store import Trial

PLAIN = MUTED[0]
"""Colour of ordinary trials."""
DASHED, DOTTED = (0, (4, 3)), (0, (1.5, 2.5))
Point = tuple[Trial, float, float]

_DEFAULT: dict[str, Any] = {
    "marker": "D",
    "markersize": 7.5,
    "color": INK,
    "markerfacecolor": PAPER,
    "markeredgewidth": 1.6,
}
_BEST: dict[str, Any] = {
    "marker": "*",
    "markersize": 15.0,
    "color": WARNING,
    "markeredgecolor": PAPER,
    "markeredgewidth": 0.8,
}
_BREAKS: dict[str, Any] = {
    "marker": "o",
    "markersize": 5.5,
    "color": FAINT,
    "markerfacecolor": "none",
    "markeredgewidth": 1.1,
}


def limits(values: Sequence[float], must: Sequence[float] = ()) -> tuple[float, float]:
    """The ends of an axis: all values but those far from the bulk, which would flatten the rest; `must` are always within."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    if len(ordered) >= 6:
        first, third = ordered[len(ordered) // 4], ordered[(3 * len(ordered)) // 4]
        reach = 4 * (third - first)
        if reach > 0:
            low, high = max(low, first - reach), min(high, third + reach)
    low, high = min(low, *must, high), max(high, *must, low)
    room = 0.07 * (high - low) or 0.02 * abs(high) or 0.01
    return low - room, high + room


def scatter(
    ax: Axes, view: View, points: Sequence[Point], y_name: str, colour: str = PLAIN, x_name: str | None = None
) -> None:
    """Trials as points, within axes that leave out what lies far off; bars where a trial was repeated with fresh seeds.

    `y_name` is the number on the vertical axis; `x_name` that on the other, if it is one that a trial measures.
    """
    marked = [p for p in points if p[0] is view.default or p[0] is view.best]
    bars = [bar for point in marked if (bar := _Bar.of(view, point, x_name, y_name)) is not None]
    ends = [end for bar in bars for end in bar.ends]
    x = limits([p[1] for p in points], [*(p[1] for p in marked), *(end[0] for end in ends)])
    y = limits([p[2] for p in points], [*(p[2] for p in marked), *(end[1] for end in ends)])
    ax.set_xlim(x)
    ax.set_ylim(y)
    for trial, px, py in points:
        if trial is not view.default and trial is not view.best:
            look = (
                dot(colour) if view.meets_limits(trial) else {**_BREAKS, "color": FAINT if colour == PLAIN else colour}
            )
            ax.plot([px], [py], linestyle="none", **look)
    for trial, px, py in marked:
        ax.plot([px], [py], linestyle="none", zorder=6, **(_DEFAULT if trial is view.default else _BEST))
    for bar in bars:
        bar.draw(ax, INK if bar.trial is view.default else WARNING)
    note_outside(ax, sum(not (x[0] <= px <= x[1] and y[0] <= py <= y[1]) for _, px, py in points))


@dataclass(frozen=True)
class _Bar:
    """The mean of a trial over fresh seeds, and its interval, on both axes."""

    trial: Trial
    place: tuple[float, float]
    half: tuple[float, float]

    @classmethod
    def of(cls, view: View, point: Point, x_name: str | None, y_name: str) -> "_Bar | None":
        trial, px, _ = point
        y = view.over_seeds(trial, y_name)
        x = MeanInterval(px, 0.0, 1) if x_name is None else view.over_seeds(trial, x_name)
        if x is None or y is None or x.half is None or y.half is None:
            return None
        return cls(trial, (x.mean, y.mean), (x.half, y.half))

    @property
    def ends(self) -> list[tuple[float, float]]:
        """Two opposite corners of the frame that it needs."""
        (x, y), (dx, dy) = self.place, self.half
        return [(x - dx, y - dy), (x + dx, y + dy)]

    def draw(self, ax: Axes, colour: str) -> None:
        (x, y), (dx, dy) = self.place, self.half
        ax.errorbar([x], [y], [dy], [dx] if dx else None, fmt="_", color=colour, capsize=4, linewidth=1.3, zorder=5)


def dot(colour: str = PLAIN) -> dict[str, Any]:
    """The style of an ordinary trial."""
    return {"marker": "o", "markersize": 5.5, "color": colour, "markeredgewidth": 0, "alpha": 0.9}


def note_outside(ax: Axes, count: int, stopped: int = 0) -> None:
    """Say how many trials the axes leave out."""
    parts = [f"{count} trial{'s' if count > 1 else ''}"] if count else []
    parts += [f"{stopped} stopped early"] if stopped else []
    if parts:
        words = f"far outside: {' and '.join(parts)}"
        ax.set_title(words, loc="right", color=FAINT, fontsize="medium", weight="normal")


def number_axis(axis: Axis, name: str, ticks: int = 5) -> None:
    """Ticks of a metric: shares as per cent."""
    axis.set_major_locator(MaxNLocator(3 if is_narrow() else ticks, steps=[1, 2, 2.5, 5, 10]))
    if View.is_share(name):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    else:
        axis.set_major_formatter(ScalarFormatter(useOffset=False))


def draw_limit(ax: Axes, view: View, name: str, vertical: bool) -> bool:
    """The limit on a metric as a line, its forbidden side shaded; the axes keep their ends, made wider for a limit close by."""
    at = view.limit(name)
    if at is None:
        return False
    low, high = ax.get_xlim() if vertical else ax.get_ylim()
    span = high - low
    if low - 0.5 * span <= at <= high + 0.5 * span:
        low, high = min(low, at - 0.06 * span), max(high, at + 0.06 * span)
    line, shade = (ax.axvline, ax.axvspan) if vertical else (ax.axhline, ax.axhspan)
    if low <= at <= high:
        line(at, color=FAINT, linewidth=1.1, linestyle=DOTTED)
    edge = (max(at, low), high) if view.limit_is_ceiling(name) else (low, min(at, high))
    if edge[0] < edge[1]:
        shade(*edge, color=LINE, alpha=0.45, linewidth=0, zorder=0)
    (ax.set_xlim if vertical else ax.set_ylim)(low, high)
    return True


_LEGEND: dict[str, Callable[[], Line2D]] = {
    "trial": lambda: Line2D([], [], linestyle="none", **dot()),
    "breaks a limit": lambda: Line2D([], [], linestyle="none", **_BREAKS),
    "stopped early": lambda: Line2D([], [], linestyle="none", marker="x", markersize=5, color=FAINT),
    "default": lambda: Line2D([], [], linestyle="none", **_DEFAULT),
    "recommended": lambda: Line2D([], [], linestyle="none", **_BEST),
    "Pareto front": lambda: Line2D([], [], color=PLAIN, linewidth=1.4),
    "limit": lambda: Line2D([], [], color=FAINT, linewidth=1.1, linestyle=DOTTED),
}


def legend(drawing: Figure, view: View, *more: str, trials: bool = True) -> None:
    """What the marks mean, above the plots: those of the trials that are there, and `more`."""
    shown = ["trial"] if trials else []
    if trials and any(not view.meets_limits(t) for t in view.finished):
        shown.append("breaks a limit")
    shown += ["default"] if view.default is not None and view.default in view.finished else []
    named = {name: name for name in [*shown, *more]}
    if view.best is not None and view.best is not view.default:
        word = "recommended" if view.best is view.recommended else "best, not recommended"
        named["recommended"] = f"{word} (trial {view.best.number})"
    handles = [_LEGEND[name]() for name in named]
    legend_above(drawing, handles, list(named.values()))
