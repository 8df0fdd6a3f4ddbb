"""Plots over calendar days, and of one day's details, drawn so that changes stand out."""

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from raymtl.intervals import Estimate
from raymtl.reports.plots import (
    FAINT,
    INK,
    PAPER,
    WARNING,
    figure,
    is_narrow,
    label_ends,
    legend_above,
    panels,
    percent_axis,
    short_name,
    styled,
    svg,
)
from raymtl.reports.style import short_count, short_day

Values = Mapping[dt.date, float]
Series = Mapping[str, Values]
"""By name, then by day; a missing day is a gap."""
Estimates = Mapping[str, Mapping[dt.date, Estimate]]
"""By name, then by day."""


@dataclass(frozen=True)
class Span:
    """The days that all plots of a page show, and those among them to mark."""

    first: dt.date
    last: dt.date
    marked: Sequence[dt.date] = field(default_factory=tuple)

    @property
    def days(self) -> list[dt.date]:
        """Every calendar day of it."""
        return [self.first + dt.timedelta(days=i) for i in range((self.last - self.first).days + 1)]

    def place(self, day: dt.date) -> int:
        """Position of a day on the axis."""
        return (day - self.first).days


@styled
def small_multiples(
    series: Series,
    colours: Mapping[str, str],
    span: Span,
    unit: str,
    alt_text: str,
    show: Callable[[float], str],
    least: float = 0.0,
    percent: bool = False,
) -> str | None:
    """One panel per name, each with its own scale, for numbers of different size; None if there is no value.

    Args:
        show: how the last value is written beside the name.
        least: least height of a panel as a share of its values, so that noise is not blown up.
        percent: the values are shares.
    """
    series = {name: values for name, values in series.items() if values}
    if not series:
        return None
    drawing, axes = panels(len(series), 2.0)
    for ax, (name, values) in zip(axes, series.items(), strict=True):
        _line(ax, values, span, colours[name])
        _limits(ax, list(values.values()), least)
        ax.set_title(f"{name}  {show(values[max(values)])}", color=colours[name])
        ax.set_ylabel(unit)
        _days_axis(ax, span, 4 if len(axes) > 2 else 6)
        if percent:
            percent_axis(ax)
    return svg(drawing, alt_text)


@styled
def dots_by_day(
    estimates: Estimates,
    colours: Mapping[str, str],
    span: Span,
    unit: str,
    alt_text: str,
    least: float = 0.0,
    best: Series | None = None,
    target: float | None = None,
) -> str | None:
    """One panel per name, with a dot per day and its 95 % interval; None if there is no value.

    No line joins the dots: the days have different rows, so much of the difference between two of them is chance.

    Args:
        least: least height of a panel as a share of its values, so that noise is not blown up.
        best: values drawn as ticks in the same panel.
        target: the target of all values, drawn as a horizontal line.
    """
    estimates = {name: values for name, values in estimates.items() if values}
    if not estimates:
        return None
    drawing, axes = panels(len(estimates), 2.0)
    for ax, (name, values) in zip(axes, estimates.items(), strict=True):
        if target is not None:
            ax.axhline(target, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)))
        others = (best or {}).get(name, {})
        ax.plot([span.place(day) for day in others], list(others.values()), "_", color=INK, markersize=5)
        heights = [e.value for e in values.values()]
        bars = [e.interval or (e.value, e.value) for e in values.values()]
        below = [max(height - low, 0.0) for height, (low, _) in zip(heights, bars, strict=True)]
        above = [max(high - height, 0.0) for height, (_, high) in zip(heights, bars, strict=True)]
        places = [span.place(day) for day in values]
        ax.errorbar(places, heights, [below, above], fmt="o", color=colours[name], markersize=3.6, elinewidth=1.2)
        shown = [*heights, *_ends(bars), *others.values(), *([] if target is None else [target])]
        _limits(ax, shown, least)
        newest = max(values)
        ax.set_title(f"{name}  {values[newest].text}, {short_day(newest)}", color=colours[name])
        ax.set_ylabel(unit)
        _days_axis(ax, span, 4 if len(axes) > 2 else 6)
    return svg(drawing, alt_text)


def _ends(bars: Sequence[tuple[float, float]]) -> list[float]:
    """The ends of the bars, without those far longer than the others, which would flatten the rest."""
    usual = median([high - low for low, high in bars if high > low] or [0.0])
    return [end for low, high in bars if high - low <= 5 * usual for end in (low, high)]


@dataclass(frozen=True)
class Frame:
    """Lines of one scale, together in one frame."""

    title: str
    series: Series
    unit: str
    kind: Literal["number", "share", "count"] = "number"
    """Shares and counts start at 0; counts that differ much have an axis that is logarithmic above the smallest."""


@styled
def line_charts(wanted: Sequence[Frame], colours: Mapping[str, str], span: Span, alt_text: str) -> str | None:
    """Frames side by side, at most two in a row; those without any value are left out, and None if all are."""
    wanted = [frame for frame in wanted if any(frame.series.values())]
    if not wanted:
        return None
    drawing, axes = panels(len(wanted), 2.5, columns=2)
    for ax, frame in zip(axes, wanted, strict=True):
        series = {name: values for name, values in frame.series.items() if values}
        for name, values in series.items():
            _line(ax, values, span, colours[name])
        found = [v for values in series.values() for v in values.values()]
        if frame.kind == "number":
            _limits(ax, found, 0.05)
        else:
            _from_zero(ax, found, frame.kind == "count")
        ax.set_title(frame.title)
        ax.set_ylabel(frame.unit)
        _days_axis(ax, span, 10 if len(axes) == 1 else 6)
        if len(series) > 1 or frame.title not in series:
            label_ends(ax, [(v[max(v)], name, colours[name]) for name, v in series.items()])
    return svg(drawing, alt_text)


def _from_zero(ax: Axes, values: Sequence[float], counts: bool) -> None:
    top = max(values) * 1.12 or (1.0 if counts else 0.01)
    above = [v for v in values if v > 0]
    if counts and above and top > 20 * median(above):
        smallest = math.floor(math.log10(min(above)))
        ax.set_yscale("symlog", linthresh=10.0**smallest)
        ax.set_yticks([0.0, *(10.0**i for i in range(smallest, math.ceil(math.log10(top)) + 1))])
        ax.yaxis.set_minor_formatter(NullFormatter())
        top *= 1.5
    ax.set_ylim(0 if counts else -0.03 * top, top)
    if counts:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    else:
        percent_axis(ax)


@styled
def stacked_bars(
    series: Series, colours: Mapping[str, str], span: Span, unit: str, alt_text: str, percent: bool = False
) -> str | None:
    """A bar per day, its parts stacked; None if there is no value."""
    series = {name: values for name, values in series.items() if any(values.values())}
    if not series:
        return None
    drawing = figure(2.7)
    ax = drawing.add_subplot()
    below = dict.fromkeys(span.days, 0.0)
    for name, values in series.items():
        days = [day for day in span.days if values.get(day)]
        heights = [values[day] for day in days]
        ax.bar(
            [span.place(day) for day in days],
            heights,
            bottom=[below[day] for day in days],
            width=0.8,
            color=colours[name],
            edgecolor=PAPER,
            linewidth=0.4,
            label=name,
        )
        below.update({day: below[day] + values[day] for day in days})
    ax.grid(visible=False, axis="x")
    ax.set_ylabel(unit)
    _days_axis(ax, span, 10)
    if percent:
        ax.set_ylim(0, max(below.values()))
        percent_axis(ax)
    legend_above(drawing, *ax.get_legend_handles_labels())
    return svg(drawing, alt_text)


@styled
def version_sizes(
    series: Series, colours: Mapping[str, str], span: Span, alt_text: str, show: Callable[[int], str]
) -> str | None:
    """A point per day on a stem, one colour and one mark per kind, on a log scale if they differ much; None if there is none."""
    series = {name: values for name, values in series.items() if values}
    found = [v for values in series.values() for v in values.values() if v > 0]
    if not found:
        return None
    drawing = figure(2.5)
    ax = drawing.add_subplot()
    floor = 0.0
    if max(found) > 8 * min(found):
        ax.set_yscale("log", base=2)
        floor = min(found) / 2
        ax.yaxis.set_minor_formatter(NullFormatter())
    for (name, values), mark in zip(series.items(), "so^D", strict=False):
        days = sorted(values)
        places, heights = [span.place(day) for day in days], [values[day] for day in days]
        ax.vlines(places, floor, heights, color=colours[name], linewidth=1.6, alpha=0.55)
        ax.plot(places, heights, mark, color=colours[name], markersize=5.5, label=name)
    ax.set_ylim(floor, max(found) * (1.5 if floor else 1.12))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: show(int(value))))
    ax.set_ylabel("bytes written")
    ax.grid(visible=False, axis="x")
    _days_axis(ax, span, 10)
    legend_above(drawing, *ax.get_legend_handles_labels())
    return svg(drawing, alt_text)


@styled
def horizontal_bars(
    values: Mapping[str, float], colours: Mapping[str, str], alt_text: str, show: Callable[[float], str]
) -> str | None:
    """A horizontal bar per name, with its value written beside it; None without any."""
    if not values:
        return None
    drawing = figure(0.55 + 0.27 * len(values))
    ax = drawing.add_subplot()
    size, unit = time_unit(max(values.values()))
    for i, (name, value) in enumerate(values.items()):
        ax.barh(i, value / size, height=0.64, color=colours[name])
        ax.annotate(show(value), (value / size, i), xytext=(6, 0), textcoords="offset points", va="center")
    ax.set_yticks(range(len(values)), [short_name(name) for name in values])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_ylim(len(values) - 0.4, -0.6)
    ax.set_xlim(0, (max(values.values()) / size or 1.0) * (1.5 if is_narrow() else 1.12))
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(unit)
    return svg(drawing, alt_text)


@styled
def ratio_to_median(
    rows: Sequence[tuple[str, float, float, float, bool]], colours: Mapping[str, str], alt_text: str
) -> str | None:
    """Each statistic of a day as a multiple of its median: name, value, earlier minimum and maximum, whether to mark it."""
    if not rows:
        return None
    drawing = figure(0.75 + 0.24 * len(rows))
    ax = drawing.add_subplot()
    ax.set_xscale("log", base=2)
    ax.axvline(1.0, color=FAINT, linewidth=1.0)
    reach = max(1.25, *(max(v, 1 / v) for row in rows for v in row[1:4] if v > 0)) * 1.05
    reach = min(reach, 16.0)
    for i, (name, value, low, high, look) in enumerate(rows):
        ax.plot([low, high], [i, i], color=FAINT, linewidth=6, alpha=0.35)
        colour = WARNING if look else colours.get(name, INK)
        ax.plot([min(max(value, 1 / reach), reach)], [i], "o", color=colour, markersize=6, clip_on=False)
    ax.set_yticks(range(len(rows)), [short_name(name) for name, *_ in rows])
    ax.tick_params(axis="y", length=0, labelcolor=INK)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(1 / reach, reach)
    steps = [0.125, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0]
    if reach > 2.5:
        steps = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    steps = [step for step in steps if 1 / reach <= step <= reach]
    if is_narrow():  # more would overlap
        steps = sorted({steps[0], 1.0, steps[-1]})
    ax.set_xticks(steps, [f"{step:g} ×" for step in steps])
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("of the median of earlier days", loc="right" if is_narrow() else "center")
    return svg(drawing, alt_text)


def time_unit(longest: float) -> tuple[float, str]:
    """What to divide seconds by, and its name."""
    if longest >= 3 * 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest >= 180 else (1.0, "seconds")


def _points(values: Values, span: Span) -> tuple[list[int], list[float]]:
    """Every day of the span, with NaN where there is no value: a line has a gap there."""
    return [span.place(day) for day in span.days], [values.get(day, math.nan) for day in span.days]


def _line(ax: Axes, values: Values, span: Span, colour: str) -> None:
    ax.plot(*_points(values, span), color=colour, marker="o", markersize=3.2)


def _limits(ax: Axes, values: Sequence[float], least: float) -> None:
    low, high = min(values), max(values)
    missing = max(least * max(abs(low), abs(high)) - (high - low), 0.0)
    room = 0.1 * (high - low) + missing / 2 or 0.05 * abs(high) or 0.5
    ax.set_ylim(low - room, high + room)


def _days_axis(ax: Axes, span: Span, ticks: int) -> None:
    """Label the x axis by day, and draw the marked days."""
    for day in span.marked:
        ax.axvline(span.place(day), color=WARNING, linewidth=1.0, linestyle=(0, (3, 3)), alpha=0.8, zorder=1)
    length = max(span.place(span.last), 1)
    ax.set_xlim(-0.6, length + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(4 if is_narrow() else ticks, integer=True))
    places = [int(p) for p in ax.get_xticks() if 0 <= p <= span.place(span.last)]
    ax.set_xticks(places, [short_day(span.days[p]) for p in places])
    ax.set_xlabel("day")
