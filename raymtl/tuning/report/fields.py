"""Plots of what the fields do: alpha and the loss weights, each against the metrics it moves."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from raymtl.config.metrics import ORDER, parse_metric
from raymtl.reports.plots import INK, panels, styled, svg
from raymtl.reports.style import MUTED
from raymtl.tuning.report.plot_markers import Point, legend, number_axis, scatter
from raymtl.tuning.report.report_data import View, config_value, text
from raymtl.tuning.trial_store import Trial

ALPHA = "model.order_loss.alpha"
_FEW = 8
"""Up to this many values of alpha, each gets a separate tick."""


def searches_alpha(view: View) -> bool:
    return any(ALPHA in dimension.fields for dimension in view.search.space.dimensions)


def searches_weights(view: View) -> bool:
    weights = {f"tasks.{task}.weight" for task in view.tasks}
    return len(view.tasks) > 1 and any(weights & set(dimension.fields) for dimension in view.search.space.dimensions)


def _metrics(view: View, x: Callable[[Trial, str], float | None], names: Sequence[str]) -> dict[str, list[Point]]:
    """Points of finished trials for each metric that has any."""
    found: dict[str, list[Point]] = {}
    for name in names:
        values = [(t, x(t, name), view.value(t, name)) for t in view.finished]
        points = [(t, a, b) for t, a, b in values if a is not None and b is not None]
        if points:
            found[name] = points
    return found


def _alpha(trial: Trial, metric: str) -> float | None:
    value = config_value(trial.config, ALPHA)
    return float(value) if isinstance(value, int | float) else None


@styled
def alpha(view: View) -> str | None:
    """Rows out of order and the metric of every task against alpha."""
    found = _metrics(view, _alpha, [ORDER.name, *view.tasks.values()])
    if not found:
        return None
    known = sorted({x for points in found.values() for _, x, _ in points})
    few = len(known) <= _FEW
    log = not few and known[0] > 0 and known[-1] > 20 * known[0]
    drawing, axes = panels(len(found), 2.7)
    for ax, (name, points) in zip(axes, found.items(), strict=True):
        task = parse_metric(name).task
        colour = view.colours.get(task, MUTED[0])
        placed = [(t, _place(t, known.index(x)) if few else x, y) for t, x, y in points]
        scatter(ax, view, placed, name, colour)
        if few:
            ax.set_xticks(range(len(known)), [f"{value:g}" for value in known])
            ax.set_xlim(-0.5, len(known) - 0.5)
        elif log:
            ax.set_xlim(known[0] / 1.2, known[-1] * 1.2)
            ax.set_xscale("log")
        _finish(ax, view, name, colour if task else INK)
        ax.set_xlabel("alpha")
    legend(drawing, view)
    return svg(drawing, f"{', '.join(found)} against alpha")


def _place(trial: Trial, index: int) -> float:
    """Jitter around the tick, so that equal values do not overlap."""
    return index + 0.11 * ((trial.number * 7) % 5 - 2) / 2


@styled
def weights(view: View) -> str | None:
    """The metric of every task against its share of the sum of all loss weights."""
    found = _metrics(view, _share, list(view.tasks.values()))
    if not found:
        return None
    drawing, axes = panels(len(found), 2.9)
    for ax, (name, points) in zip(axes, found.items(), strict=True):
        task = parse_metric(name).task
        scatter(ax, view, points, name, view.colours[task])
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
        _finish(ax, view, name, view.colours[task])
        ax.set_xlabel("share of the loss weights")
    legend(drawing, view)
    return svg(drawing, f"{', '.join(found)} against the share of the loss weights")


def _share(trial: Trial, metric: str) -> float | None:
    tasks = trial.config.get("tasks") or {}
    found = {name: task.get("weight", 1.0) for name, task in tasks.items()}
    total = sum(found.values())
    own = found.get(parse_metric(metric).task)
    return own / total if own is not None and total > 0 else None


def _finish(ax: Axes, view: View, name: str, colour: str) -> None:
    number_axis(ax.yaxis, name)
    task = parse_metric(name).task
    ax.set_title(text(task) if task else "order violations", color=colour)
    ax.set_ylabel(
        view.label(name)
        .removeprefix(f"{text(task)}: ")
        .replace(", lower is better", " (lower is better)" if task else "")
    )
