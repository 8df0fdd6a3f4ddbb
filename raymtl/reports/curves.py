"""Plots over the rows seen: losses, AUC, the order of the funnel, speed."""

from typing import Any

from raymtl.reports.load import Run
from raymtl.reports.plots import (
    FAINT,
    PAPER,
    figure,
    finite,
    label_ends,
    legend_above,
    panels,
    percent_axis,
    rows_axis,
    smooth,
    styled,
    svg,
    thin,
)
from raymtl.reports.style import PALETTE, short_count, task_colours
from raymtl.reports.tables import training_loss_of


def _largest(run: Run) -> float:
    return max([line["rows"] for line in (run.train[-1:] + run.evals[-1:])], default=0)


@styled
def losses(run: Run) -> str | None:
    """One panel per task: training loss, raw and smoothed, and the same of each evaluation where a metric measures it."""
    names = [n for n in run.tasks if finite(run.train, "losses", n)]
    if not names:
        return None
    colours = task_colours(run.tasks)
    drawing, axes = panels(len(names), 2.5)
    size = rows_axis(axes, _largest(run))
    for ax, name in zip(axes, names, strict=True):
        points = thin(finite(run.train, "losses", name))
        x, y = [p[0] / size for p in points], [p[1] for p in points]
        ax.plot(x, y, color=colours[name], alpha=0.3, linewidth=0.8)
        ax.plot(x, smooth(y), color=colours[name], label="training, smoothed", marker=_dot(points))
        label, metric = training_loss_of((run.config.get("tasks") or {}).get(name) or {})
        tested = finite(run.evals, "metrics", "tasks", name, metric) if metric else []
        if tested:
            spots = ax.plot(
                [p[0] / size for p in tested], [p[1] for p in tested], "o", color=colours[name], label="evaluation"
            )
            spots[0].set(markersize=5.0, markerfacecolor=PAPER)
        low, high = bulk(y + [p[1] for p in tested])
        ax.set_ylim(low, high)
        ax.set_title(name, color=colours[name])
        ax.set_ylabel(label)
    legend_above(drawing, *axes[0].get_legend_handles_labels())
    return svg(drawing, f"Training loss against rows seen for {', '.join(names)}")


def _dot(points: list[Any]) -> str:
    """A marker for a line of one point, which would otherwise be invisible."""
    return "o" if len(points) == 1 else ""


def bulk(values: list[float]) -> tuple[float, float]:
    """Limits that leave out the first steps' spikes, which would flatten the rest."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[min(int(0.985 * len(ordered)), len(ordered) - 1)]
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


@styled
def eval_auc(run: Run) -> str | None:
    """AUC of every binary task after each evaluation, the best reachable dashed; None before the second evaluation."""
    colours = task_colours(run.tasks)
    series = {n: finite(run.evals, "metrics", "tasks", n, "auc") for n in run.tasks}
    series = {n: points for n, points in series.items() if points}
    if max(map(len, series.values()), default=0) < 2:
        return None
    drawing = figure(3.6)
    ax = drawing.add_subplot()
    size = rows_axis([ax], _largest(run))
    ends, bests = [], []
    for name, points in series.items():
        x, y = [p[0] / size for p in points], [p[1] for p in points]
        ax.plot(x, y, color=colours[name], marker="o", markersize=4)
        ends.append((y[-1], name, colours[name]))
        best = finite(run.evals[-1:], "metrics", "tasks", name, "truth_auc")
        if best:
            bests.append((best[0][1], colours[name]))
    left = min(points[0][0] for points in series.values()) / size
    right = max(points[-1][0] for points in series.values()) / size
    span = (right - left) or right or 1.0
    for height, colour in bests:
        ax.plot(
            [left - 0.03 * span, right], [height, height], color=colour, linestyle=(0, (4, 3)), linewidth=1.0, alpha=0.8
        )
    ax.set_xlim(left - 0.03 * span, right + 0.03 * span)
    ax.margins(y=0.12)
    label_ends(ax, ends)
    ax.set_ylabel("AUC")
    return svg(drawing, f"AUC of each evaluation against rows seen for {', '.join(series)}")


@styled
def order_violations(run: Run) -> str | None:
    """Share of rows on which a child is more probable than its parent, by edge; None before the second evaluation."""
    edges = list((run.final or {}).get("order_violation_rate") or {})
    edges = [edge for edge in edges if edge != "overall"]
    series = {edge: finite(run.evals, "metrics", "order_violation_rate", edge) for edge in edges}
    series = {edge: points for edge, points in series.items() if len(points) > 1}
    if not series:
        return None
    colours = task_colours(run.tasks)
    drawing = figure(2.4)
    ax = drawing.add_subplot()
    size = rows_axis([ax], _largest(run))
    ends = []
    for edge, points in series.items():
        colour = colours.get(edge.rpartition(">")[2], PALETTE[0])
        x, y = [p[0] / size for p in points], [p[1] for p in points]
        ax.plot(x, y, color=colour, marker="o", markersize=4)
        ends.append((y[-1], edge.replace(">", " > "), colour))
    top = max(max(p[1] for p in points) for points in series.values()) * 1.15 or 0.01
    ax.set_ylim(-0.04 * top, top)
    label_ends(ax, ends)
    percent_axis(ax)
    ax.set_ylabel("rows out of order")
    return svg(drawing, "Share of rows whose child task is more probable than its parent, against rows seen")


@styled
def speed(run: Run) -> str | None:
    """Rows per second and the share of time spent waiting for data, one above the other."""
    rates: list[tuple[list[tuple[float, float]], str, str]] = [
        (thin(finite(run.train, "rows_per_s")), "thousand rows/s", PALETTE[0]),
        (thin(finite(run.train, "data_wait")), "waiting for data", PALETTE[1]),
    ]
    rates = [rate for rate in rates if rate[0]]
    if not rates:
        return None
    drawing, axes = panels(len(rates), 2.3, columns=2)
    size = rows_axis(axes, _largest(run))
    for ax, (points, name, colour) in zip(axes, rates, strict=True):
        share = name == "waiting for data"
        values = [p[1] if share else p[1] / 1e3 for p in points]
        ax.plot([p[0] / size for p in points], values, color=colour, linewidth=1.2, marker=_dot(points))
        top = max(max(values) * 1.1, 0.02 if share else 0.001)
        ax.set_ylim(0, min(top, 1.02) if share else top)
        mean = sum(values) / len(values)
        ax.axhline(mean, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
        what, text = (
            ("Waiting for data", f"{100 * mean:.1f} %")
            if share
            else ("Throughput", f"{short_count(1e3 * mean)} rows/s")
        )
        ax.set_title(f"{what}, mean {text}")
        ax.set_ylabel("of the time" if share else name)
        if share:
            percent_axis(ax)
    return svg(drawing, "Throughput and data wait against rows seen")
