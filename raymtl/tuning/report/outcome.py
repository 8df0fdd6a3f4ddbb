"""Plots of the outcome of a search: the front or the objective by trial, the limits, fresh seeds, learning curves."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from raymtl.reports.plots import FAINT, INK, PAPER, WARNING, figure, panels, rows_axis, styled, svg
from raymtl.tuning.report.plot_markers import (
    DASHED,
    PLAIN,
    Point,
    draw_limit,
    legend,
    limits,
    note_outside,
    number_axis,
    scatter,
)
from raymtl.tuning.report.report_data import View
from raymtl.tuning.trial_store import Trial

Seeds = Mapping[int, Mapping[str, float]]
"""By seed: the values of `default` and `best`."""


def _points(view: View, x: str, y: str) -> list[Point]:
    found = [(t, view.value(t, x), view.value(t, y)) for t in view.finished]
    return [(t, a, b) for t, a, b in found if a is not None and b is not None]


def _against(ax: Axes, view: View, x: str, y: str, points: Sequence[Point]) -> bool:
    """Trials with one metric against another; whether a limit is drawn."""
    scatter(ax, view, points, y, x_name=x)
    drawn = [draw_limit(ax, view, name, vertical) for name, vertical in ((x, True), (y, False))]
    number_axis(ax.xaxis, x, 6)
    number_axis(ax.yaxis, y, 6)
    ax.set_xlabel(view.label(x))
    ax.set_ylabel(view.label(y))
    return any(drawn)


@styled
def pareto(view: View) -> str | None:
    """Every two objectives against each other; with only two the front is joined by a line."""
    pairs = [(a, b) for a, b in combinations(view.goals, 2) if _points(view, a, b)][:6]
    if not pairs:
        return None
    drawing, axes = panels(len(pairs), 4.4 if len(pairs) == 1 else 3.2, columns=2)
    front, limited = set(view.result["front"]), False
    for ax, (x, y) in zip(axes, pairs, strict=True):
        points = _points(view, x, y)
        limited |= _against(ax, view, x, y, points)
        best = sorted((p for p in points if p[0].number in front), key=lambda p: p[1])
        if len(view.goals) == 2:
            # the region that the front dominates has steps; a straight line would overstate it
            steps = "steps-post" if view.lower(x) else "steps-pre"
            ax.plot([p[1] for p in best], [p[2] for p in best], color=PLAIN, linewidth=1.4, alpha=0.9, drawstyle=steps)
        for trial, px, py in best:
            if trial is not view.default and trial is not view.best:
                ax.plot([px], [py], "o", color=PLAIN, markersize=8, markeredgecolor=PAPER, markeredgewidth=0.8)
        _name_front(ax, view, best)
    legend(drawing, view, *(["Pareto front"] if len(view.goals) == 2 else []), *(["limit"] if limited else []))
    return svg(drawing, f"Finished trials by {' and '.join(view.goals)}, and the Pareto front")


def _name_front(ax: Axes, view: View, points: Sequence[Point]) -> None:
    """Numbers of the trials on the front, if they are few, on the side that is better and so empty."""
    if len(points) > 12:
        points = [p for p in points if p[0] is view.best]
    for trial, x, y in points:
        left, below = (
            (view.lower(view.goals[0]), view.lower(view.goals[-1])) if len(view.goals) == 2 else (False, False)
        )
        ax.annotate(
            str(trial.number), (x, y), xytext=(-7 if left else 7, -7 if below else 7), textcoords="offset points",
            color=WARNING if trial is view.best else FAINT, weight="bold" if trial is view.best else "normal",
            ha="right" if left else "left", va="top" if below else "bottom",
        )  # fmt: skip


@styled
def objective_by_trial(view: View) -> str | None:
    """A single objective by the number of the trial."""
    goal = view.goals[0]
    points = [(t, v) for t in view.trials if t.status != "failed" and (v := view.value(t, goal)) is not None]
    whole = [(t, v) for t, v in points if t.status == "finished"]
    if not whole:
        return None
    drawing = figure(3.6)
    ax = drawing.add_subplot()
    scatter(ax, view, [(t, float(t.number), v) for t, v in whole], goal)
    low, high = ax.get_ylim()
    stopped = [(t, v) for t, v in points if t.status == "stopped"]
    inside = [(t, v) for t, v in stopped if low <= v <= high]
    ax.plot([t.number for t, _ in inside], [v for _, v in inside], "x", color=FAINT, markersize=5, alpha=0.8)
    ax.set_xlim(-0.6, max(t.number for t in view.trials) + 0.6)
    note_outside(ax, sum(not low <= v <= high for _, v in whole), len(stopped) - len(inside))
    base = view.value(view.default, goal) if view.default is not None else None
    if base is not None:
        ax.axhline(base, color=INK, linewidth=1.0, linestyle=DASHED, alpha=0.7)
    limited = draw_limit(ax, view, goal, vertical=False)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    number_axis(ax.yaxis, goal)
    ax.set_xlabel("trial")
    ax.set_ylabel(view.label(goal))
    more = [*(["stopped early"] if inside else []), *(["limit"] if limited else [])]
    legend(drawing, view, *more)
    return svg(drawing, f"{goal} of every trial")


@styled
def constrained(view: View) -> str | None:
    """The first number of the objective against each metric that has a limit and is no objective itself."""
    goal = view.goals[0]
    shown = [name for name in view.limits if name not in view.goals and _points(view, name, goal)]
    if not shown:
        return None
    drawing, axes = panels(len(shown), 3.6 if len(shown) == 1 else 3.0, columns=2)
    for ax, name in zip(axes, shown, strict=True):
        _against(ax, view, name, goal, _points(view, name, goal))
    legend(drawing, view, "limit")
    return svg(drawing, f"{goal} against {', '.join(shown)}, and the limits")


@styled
def seed_comparison(view: View, by_metric: Mapping[str, Seeds]) -> str | None:
    """The default and the best trial over fresh seeds, metric by metric; the same seed is joined."""
    if not by_metric:
        return None
    drawing, axes = panels(len(by_metric), 1.75, columns=2)
    for ax, (name, seeds) in zip(axes, by_metric.items(), strict=True):
        for values in seeds.values():
            if len(values) == 2:
                ax.plot([values["default"], values["best"]], [1, 0], color=FAINT, linewidth=0.8, alpha=0.6)
        for who, height, colour in (("default", 1, INK), ("best", 0, WARNING)):
            found = [v[who] for v in seeds.values() if who in v]
            ax.plot(found, [height] * len(found), "o", color=colour, markersize=6.5, markeredgecolor=PAPER, zorder=4)
            if found:
                mean = sum(found) / len(found)
                ax.plot([mean, mean], [height - 0.26, height + 0.26], color=colour, linewidth=2.4, zorder=3)
        all_values = [v for values in seeds.values() for v in values.values()]
        span = max(all_values) - min(all_values) or 0.02 * abs(all_values[0]) or 0.01
        ax.set_xlim(min(all_values) - 0.12 * span, max(all_values) + 0.12 * span)
        draw_limit(ax, view, name, vertical=True) if name in view.limits else None
        ax.set_ylim(-0.55, 1.55)
        best = "best" if view.best is None else f"trial {view.best.number}"
        ax.set_yticks([1, 0], ["default", best])
        ax.grid(axis="y", visible=False)
        number_axis(ax.xaxis, name)
        ax.set_xlabel(view.label(name))
    return svg(drawing, f"Default and best trial over fresh seeds: {', '.join(by_metric)}")


@styled
def learning_curves(view: View) -> str | None:
    """Each number of the objective against rows seen, a line per trial; None where all were measured only once."""
    lines = {goal: _lines(view, goal) for goal in view.goals}
    lines = {goal: found for goal, found in lines.items() if any(len(points) > 1 for _, points in found)}
    if not lines:
        return None
    drawing, axes = panels(len(lines), 3.6 if len(lines) == 1 else 3.1, columns=2)
    size = rows_axis(axes, max(p[0] for found in lines.values() for _, points in found for p in points))
    for ax, (goal, found) in zip(axes, lines.items(), strict=True):
        for trial, points in found:
            x, y = [p[0] / size for p in points], [p[1] for p in points]
            ax.plot(x, y, **_line_look(view, trial), marker="o" if len(points) == 1 else "", markersize=3)
        values = [p[1] for _, points in found for p in points]
        ax.set_ylim(limits(values, [p[-1][1] for t, p in found if t in (view.default, view.best)]))
        number_axis(ax.yaxis, goal)
        ax.set_ylabel(view.label(goal))
    return svg(drawing, f"{', '.join(lines)} against rows seen, trial by trial")


def _lines(view: View, goal: str) -> list[tuple[Trial, list[tuple[float, float]]]]:
    found = []
    for trial in view.trials:
        values = [(float(e["rows"]), view.value_in(e["metrics"], goal)) for e in trial.history]
        points = sorted((rows, value) for rows, value in values if value is not None)
        if points:
            found.append((trial, points))
    return found


def _line_look(view: View, trial: Trial) -> dict[str, Any]:
    if trial is view.best and trial is not view.default:
        return {"color": WARNING, "linewidth": 2.2, "zorder": 5}
    if trial is view.default:
        return {"color": INK, "linewidth": 1.6, "linestyle": DASHED, "zorder": 4}
    if trial.status == "finished":
        return {"color": PLAIN, "linewidth": 1.1, "alpha": 0.65}
    return {"color": FAINT, "linewidth": 0.9, "alpha": 0.4}
