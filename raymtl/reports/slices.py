"""Plots of one evaluation: calibration by bucket, and AUC by scenario."""

import math
from typing import Any

from matplotlib.axes import Axes

from raymtl.config.task_kinds import Binary
from raymtl.reports.chance import interval_of
from raymtl.reports.plots import FAINT, INK, PAPER, is_narrow, panels, short_name, styled, svg
from raymtl.reports.style import number, short_count, task_colours
from raymtl.reports.tables import kind_of

_PANEL_IN = {1: 3.5, 2: 3.5, 3: 3.5, 4: 3.0}  # height by the number of square panels in a row
_WIDE, _FEW = 0.1, 100
"""An AUC with a 95 % interval wider than this, or from fewer positives or negatives, says little and is drawn grey."""


@styled
def calibration(metrics: dict[str, Any], names: list[str]) -> str | None:
    """One panel per task: mean label against mean prediction of each bucket, on the diagonal where the model is right."""
    curves = {n: metrics["tasks"].get(n, {}).get("calibration_curve") or [] for n in names}
    curves = {n: curve for n, curve in curves.items() if curve}
    if not curves:
        return None
    colours = task_colours(names)
    drawing, axes = panels(len(curves), _PANEL_IN[min(len(curves), 4)], columns=4)
    for ax, (name, curve) in zip(axes, curves.items(), strict=True):
        report = metrics["tasks"][name]
        _calibration_panel(ax, curve, colours[name], issubclass(kind_of(report), Binary))
        value = report.get("calibration")
        ax.set_title(name if value is None else f"{name}  Σp / Σy {number(value, 2)}", color=colours[name])
    return svg(drawing, f"Mean label against mean prediction for {', '.join(curves)}")


def _calibration_panel(ax: Axes, curve: list[dict[str, float]], colour: str, binary: bool) -> None:
    predicted = [b["prediction"] for b in curve]
    happened = [b["label"] for b in curve]
    logarithmic = min(predicted) > 0 and max(predicted) > 30 * min(predicted)
    positive = [v for v in predicted + happened if v > 0]
    if logarithmic and positive:
        low, high = min(positive) / 1.6, max(positive) * 1.6
        ax.set_xscale("log")
        ax.set_yscale("log")
    else:
        low, high = min([0.0, *predicted, *happened]), max(predicted + happened)
        high += 0.06 * (high - low) or 1.0
    ax.plot([low, high], [low, high], color=FAINT, linewidth=1, linestyle=(0, (3, 3)))
    shown = [(p, y, b["count"]) for p, y, b in zip(predicted, happened, curve, strict=True) if y > 0 or not logarithmic]
    for p, y, n in shown:
        if binary:
            below, above = _interval(y, n)
            ax.plot([p, p], [max(below, low), min(above, high)], color=colour, linewidth=1.0, alpha=0.45)
    ax.plot([s[0] for s in shown], [s[1] for s in shown], color=colour, marker="o", markersize=4.5, linewidth=1.0)
    none = [p for p, y in zip(predicted, happened, strict=True) if y <= 0]
    if logarithmic and none:  # zero does not exist on this axis: an open triangle at the floor
        marks = ax.plot(none, [low] * len(none), "v", color=colour, clip_on=False)
        marks[0].set(markersize=5, markerfacecolor=PAPER)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    ax.set_box_aspect(1)
    ax.set_xlabel("mean prediction")
    ax.set_ylabel("mean label")


def _interval(rate: float, rows: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate measured on `rows` rows."""
    z = 1.96
    rate = min(max(rate, 0.0), 1.0)
    middle = rate + z * z / (2 * rows)
    half = z * math.sqrt(rate * (1 - rate) / rows + z * z / (4 * rows * rows))
    return (middle - half) / (1 + z * z / rows), (middle + half) / (1 + z * z / rows)


@styled
def scenario_auc(metrics: dict[str, Any], names: list[str]) -> str | None:
    """AUC of every task in every scenario as bars from 0.5, with its interval, the best reachable as a tick.

    Beside a scenario is its number of positives, and in place of a bar the reason why there is none; see `vague_scenarios` for
    grey bars.
    """
    scenarios = metrics.get("scenarios") or {}
    ranked = _ranked(metrics, names)
    if not scenarios or not ranked:
        return None
    colours = task_colours(names)
    places = ["all", *scenarios]
    values = [_report(metrics, place, n).get(key) for place in places for n in ranked for key in ("auc", "truth_auc")]
    ends = [interval_of(_report(metrics, place, n), "auc") or () for place in places for n in ranked]
    known = [v for v in [*values, *(end for pair in ends for end in pair)] if v is not None]
    low, high = min([0.5, *known]) - 0.004, max([0.55, *known]) + 0.04
    drawing, axes = panels(len(ranked), 0.85 + 0.27 * len(places), columns=_columns(len(ranked)))
    for ax, name in zip(axes, ranked, strict=True):
        for i, place in enumerate(places):
            _bar(ax, i, _report(metrics, place, name), colours[name], low)
        ax.set_yticks(range(len(places)), [_place_label(place, _report(metrics, place, name)) for place in places])
        ax.tick_params(axis="y", length=0, labelcolor=INK)
        ax.set_ylim(len(places) - 0.4, -0.6)
        ax.set_xlim(low, high)
        ax.grid(visible=False, axis="y")
        ax.axvline(0.5, color=FAINT, linewidth=0.9)
        ax.set_title(name, color=colours[name])
        ax.set_xlabel("AUC")
    return svg(drawing, f"AUC by scenario for {', '.join(ranked)}")


def vague_scenarios(metrics: dict[str, Any], names: list[str]) -> str:
    """Which bars of `scenario_auc` are grey, and why; empty if none is."""
    found: dict[str, list[str]] = {}
    for name in _ranked(metrics, names):
        for place in ("all", *(metrics.get("scenarios") or {})):
            if reason := _vague(_report(metrics, place, name)):
                found.setdefault(reason, []).append(f"{name} in {place}")
    if not found:
        return ""
    reasons = (f"{reason} ({', '.join(bars)})" for reason, bars in found.items())
    return f"Grey bars say little: {'; '.join(reasons)}."


def _ranked(metrics: dict[str, Any], names: list[str]) -> list[str]:
    return [n for n in names if n in metrics["tasks"] and issubclass(kind_of(metrics["tasks"][n]), Binary)]


def _vague(report: dict[str, Any]) -> str:
    """Why an AUC says little; empty if it does not, or if there is none."""
    interval, positives = interval_of(report, "auc"), report.get("positives")
    if report.get("auc") is None:
        return ""
    if positives is not None and min(positives, report.get("count", math.inf) - positives) < _FEW:
        return f"fewer than {_FEW} positives or negatives"
    return f"a 95 % interval wider than {_WIDE:g}" if interval and interval[1] - interval[0] > _WIDE else ""


def _place_label(place: str, report: dict[str, Any]) -> str:
    positives = report.get("positives")
    return short_name(place) if positives is None else f"{short_name(place)} · {short_count(positives)}"


def _columns(tasks: int) -> int:
    return min(tasks, 3)


def _report(metrics: dict[str, Any], place: str, task: str) -> dict[str, Any]:
    return metrics["tasks"][task] if place == "all" else metrics["scenarios"][place].get(task, {})


def _bar(ax: Axes, i: int, report: dict[str, Any], colour: str, low: float) -> None:
    auc, best = report.get("auc"), report.get("truth_auc")
    if auc is None:
        why = report.get("null_reason") or "not reported"
        why = "no AUC" if is_narrow() and len(why) > 20 else why  # the table has the reason
        ax.annotate(
            why,
            (0.5, i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=FAINT,
            style="italic",
        )
        return
    ax.barh(i, auc - 0.5, left=0.5, height=0.62, color=PAPER)  # hides the grid behind a pale bar
    colour = FAINT if _vague(report) else colour
    ax.barh(i, auc - 0.5, left=0.5, height=0.62, color=colour, alpha=0.95 if i == 0 else 0.6)
    interval = interval_of(report, "auc")
    if interval:
        ax.plot(interval, [i, i], color=INK, linewidth=1.2)
    if best is not None:
        ax.plot([best, best], [i - 0.38, i + 0.38], color=INK, linewidth=1.6)
    ax.annotate(
        number(auc, 3),
        (max(auc, best or auc, 0.5, *(interval or ())), i),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
    )
