"""Parallel coordinates: every whole trial as a line over the dimensions and the objectives, coloured by how good it is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from optuna.distributions import FloatDistribution, IntDistribution

from raymtl.reports.plots import FAINT, INK, LINE, PAPER, figure, styled_wide, svg
from raymtl.tuning.report.plot_markers import DASHED, limits
from raymtl.tuning.report.report_data import View, text
from raymtl.tuning.space import SearchDimension
from raymtl.tuning.trial_store import Trial

MOST = 9
"""Dimensions side by side; those that matter least are left out."""

# From grey to violet over both themes' paper; few steps, so that the bar stays a drawing
_COLOURS = LinearSegmentedColormap.from_list("trials", ["#9fb0bd", "#8f86c4", "#b0347c"], N=24)
_NOT_USED = -0.22
"""Where a line passes a dimension whose condition does not hold."""
_LONGEST = 16


@dataclass(frozen=True)
class _Column:
    title: str
    place: Callable[[Trial], float | None]
    """Where a trial passes, from 0 to 1; None where it has no value."""
    ends: tuple[str, str] = ("", "")
    """Its lowest and its highest value, written below and above the axis, where no line passes."""
    nodes: Sequence[tuple[float, str]] = ()
    """Choices, each written on the axis where its lines meet."""
    ink: str = INK


@styled_wide
def parallel(view: View, goal: str, names: Sequence[str]) -> str | None:
    """The dimensions `names` and all objectives, coloured by `goal`; None with fewer than two trials to draw."""
    trials = [t for t in view.finished if t.params and all(view.value(t, g) is not None for g in view.goals)]
    if len(trials) < 2:
        return None
    dimensions = [dimension for dimension in view.search.space.dimensions if dimension.name in names]
    columns = [
        *(_dimension(dimension, trials) for dimension in dimensions),
        *(_goal(view, g, trials) for g in view.goals),
    ]
    drawing = figure(4.1)
    ax = drawing.add_subplot()
    scale = _scale(view, goal, trials)
    for trial in sorted(trials, key=lambda t: scale(t)):
        places = [column.place(trial) for column in columns]
        heights = [_NOT_USED if place is None else place for place in places]
        look: dict[str, Any] = {"color": _COLOURS(scale(trial)), "linewidth": 1.3, "alpha": 0.75}
        if trial is view.best and trial is not view.default:
            look |= {"linewidth": 3.2, "alpha": 1.0, "zorder": 4}
        if trial is view.default:
            look = {"color": INK, "linewidth": 1.5, "linestyle": DASHED, "zorder": 5}
        ax.plot(range(len(columns)), heights, **look)
    _draw_columns(ax, columns, unused=[any(column.place(t) is None for t in trials) for column in columns])
    _bar(ax, view, goal, trials)
    return svg(drawing, f"{len(trials)} trials over {', '.join(names)}, coloured by {goal}")


def _draw_columns(ax: Axes, columns: Sequence[_Column], unused: Sequence[bool]) -> None:
    for i, column in enumerate(columns):
        ax.plot([i, i], [0, 1], color=FAINT, linewidth=1.0, zorder=2)
        low, high = column.ends
        _write(ax, low, (i, 0), below=5)
        _write(ax, high, (i, 1), above=5)
        for height, words in [*column.nodes, *([(_NOT_USED, "–")] if unused[i] else [])]:
            _write(ax, words, (i, height))
    ax.set_xticks(range(len(columns)), [column.title for column in columns])
    for label, column in zip(ax.get_xticklabels(), columns, strict=True):
        label.set_color(column.ink)
    ax.tick_params(axis="x", length=0)
    ax.set_yticks([])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xlim(-0.55, len(columns) - 0.55)
    ax.set_ylim(-0.28 if any(unused) else -0.12, 1.12)


def _write(ax: Axes, words: str, at: tuple[float, float], below: int = 0, above: int = 0) -> None:
    """Words at a place, or some points below or above it, over all lines."""
    if not words:
        return
    ax.annotate(
        text(words), at, xytext=(0, above - below), textcoords="offset points", ha="center",
        va="top" if below else "bottom" if above else "center", color=FAINT, zorder=6,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip


def _dimension(dimension: SearchDimension, trials: Sequence[Trial]) -> _Column:
    d, title = dimension.distribution, _title(dimension.name)
    if not isinstance(d, FloatDistribution | IntDistribution):
        choices = list(d.choices)
        heights = [i / max(len(choices) - 1, 1) if len(choices) > 1 else 0.5 for i in range(len(choices))]
        words = [_short(str(dimension.value(choice))) for choice in choices]

        def of_choice(trial: Trial) -> float | None:
            if trial.params.get(dimension.name) not in choices:
                return None
            beside = 0.03 / max(len(choices) - 1, 1) * ((trial.number * 7) % 9 - 4) / 4
            return heights[choices.index(trial.params[dimension.name])] + beside

        return _Column(title, of_choice, nodes=list(zip(heights, words, strict=True)))
    title += "\n(log)" if d.log else ""
    low, high = (math.log(d.low), math.log(d.high)) if d.log else (float(d.low), float(d.high))
    span = (high - low) or 1.0

    def of_number(trial: Trial) -> float | None:
        value = trial.params.get(dimension.name)
        return None if value is None else ((math.log(value) if d.log else value) - low) / span

    return _Column(title, of_number, ends=(f"{d.low:.3g}", f"{d.high:.3g}"))


def _goal(view: View, goal: str, trials: Sequence[Trial]) -> _Column:
    """The better end is always above."""
    values = [v for t in trials if (v := view.value(t, goal)) is not None]
    low, high = limits(values, [v for t in trials if t is view.best and (v := view.value(t, goal)) is not None])
    low, high = max(low, min(values)), min(high, max(values))
    span = (high - low) or 1.0
    lower = view.lower(goal)

    def place(trial: Trial) -> float | None:
        value = view.value(trial, goal)
        share = 0.0 if value is None else min(max((value - low) / span, 0.0), 1.0)
        return 1 - share if lower else share

    show = (lambda v: f"{100 * v:.3g} %") if view.is_share(goal) else (lambda v: f"{v:.4g}")
    ends = (show(high), show(low)) if lower else (show(low), show(high))
    return _Column(_title(goal), place, ends, ink=view.colour(goal, INK))


def _scale(view: View, goal: str, trials: Sequence[Trial]) -> Callable[[Trial], float]:
    """0 for the worst tenth, 1 for the best."""
    column, low = _goal(view, goal, trials), _worst(view, goal, trials)

    def place(trial: Trial) -> float:
        return min(max(((column.place(trial) or 0.0) - low) / (1 - low or 1.0), 0.0), 1.0)

    return place


def _worst(view: View, goal: str, trials: Sequence[Trial]) -> float:
    places = sorted(_goal(view, goal, trials).place(t) or 0.0 for t in trials)
    return min(places[len(places) // 10], 0.99)


def _bar(ax: Axes, view: View, goal: str, trials: Sequence[Trial]) -> None:
    """What the colours mean; above is better."""
    values = sorted(v for t in trials if (v := view.value(t, goal)) is not None)
    values = values[::-1] if view.lower(goal) else values
    worst, best = values[len(values) // 10], values[-1]
    if worst == best:
        return
    mapped = ScalarMappable(Normalize(0, 1), _COLOURS)
    bar = ax.figure.colorbar(mapped, ax=ax, fraction=0.012, pad=0.015, aspect=32)
    if bar.solids is not None:
        bar.solids.set_edgecolor("face")  # no seams between the steps
    bar.outline.set_edgecolor(LINE)
    at = [0.0, 0.5, 1.0]
    bar.set_ticks(at, labels=[view.show(goal, worst + f * (best - worst)) for f in at])
    bar.ax.tick_params(length=0)
    bar.set_label(view.label(goal))


def _title(name: str) -> str:
    """A dotted path over several lines."""
    lines: list[str] = []
    for part in text(name).split("."):
        if lines and len(lines[-1]) + len(part) < _LONGEST:
            lines[-1] += f".{part}"
        else:
            lines.append(part)
    return ".\n".join(lines)


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
