"""Drawing surface of the report: matplotlib figures as inline SVG whose ink follows the page, in light and in dark."""

import functools
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, ParamSpec

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

P = ParamSpec("P")

WIDTH_IN, NARROW_IN = 11.0, 3.5
"""Width of a figure on a large screen and on a phone; the page scales it to its own width."""

_LABEL_IN = 0.19  # from one name at the end of a line to the next
_NARROW: ContextVar[bool] = ContextVar("narrow", default=False)

# Stand-ins that become colours of the page when the SVG is written, so that one drawing serves both themes.
INK, FAINT, LINE, PAPER, WARNING = "#010203", "#040506", "#070809", "#0a0b0c", "#0d0e0f"
_PAGE_COLOURS = {
    INK: "currentColor",
    FAINT: "var(--faint)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    WARNING: "var(--look)",
}

_STYLE = {
    "svg.fonttype": "none",  # keep text as text: sharp, searchable, in the page's own font
    "svg.hashsalt": "raymtl",
    "font.size": 10.2,  # 14 px at the width of the page and at that of a phone
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": LINE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "text.color": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def styled(draw: Callable[P, str | None]) -> Callable[P, str | None]:
    """Draw in the report's style, once for large screens and once for phones; the page shows the one that fits."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> str | None:
        wide = _drawn(draw, False, *args, **kwargs)
        if wide is None:
            return None
        narrow = _drawn(draw, True, *args, **kwargs)
        return f'<div class="large-screen">{wide}</div><div class="phone">{narrow}</div>'

    return wrapped


def styled_wide(draw: Callable[P, str | None]) -> Callable[P, str | None]:
    """The same for what needs the full width: a phone scrolls it sideways."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> str | None:
        wide = _drawn(draw, False, *args, **kwargs)
        return None if wide is None else f'<div class="wide full">{wide}</div>'

    return wrapped


def _drawn(draw: Callable[P, str | None], narrow: bool, /, *args: P.args, **kwargs: P.kwargs) -> str | None:
    # ids within the two drawings differ, because a reference into a hidden drawing shows nothing
    style = {**_STYLE, "svg.hashsalt": "raymtl phone" if narrow else "raymtl"}
    token = _NARROW.set(narrow)
    try:
        with matplotlib.rc_context(style):
            return draw(*args, **kwargs)
    finally:
        _NARROW.reset(token)


def is_narrow() -> bool:
    """Whether the drawing is for a phone."""
    return _NARROW.get()


def short_name(name: str) -> str:
    """A name beside a plot; on a phone a long one lacks its middle, which leaves room for the plot."""
    return f"{name[:10]}…{name[-11:]}" if is_narrow() and len(name) > 22 else name


def figure(height_in: float) -> Figure:
    """An empty figure of the report's width."""
    return Figure(figsize=(NARROW_IN if is_narrow() else WIDTH_IN, height_in), layout="constrained")


def panels(count: int, height_in: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, at most `columns` in a row; on a phone one below the other."""
    columns = 2 if count == 4 and columns == 3 else min(columns, max(count, 1))
    columns = 1 if is_narrow() else columns
    rows = math.ceil(count / columns)
    drawing = figure(height_in * rows)
    return drawing, [drawing.add_subplot(rows, columns, i + 1) for i in range(count)]


def svg(drawing: Figure, alt_text: str) -> str:
    """The figure as an SVG element that fills the width of its parent; `alt_text` describes it to a screen reader."""
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{_escaped(alt_text)}"', text, count=1)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def count_unit(largest: float) -> tuple[float, str]:
    """What to divide counts by, and what to write before what is counted."""
    units = ((1e9, "billion "), (1e6, "million "), (1e3, "thousand "))
    return next(((size, unit) for size, unit in units if largest >= size), (1.0, ""))


def rows_axis(axes: Iterable[Axes], largest: float) -> float:
    """Label the x axes as rows seen, in thousands, millions or billions; returns what to divide row counts by."""
    size, unit = count_unit(largest)
    for ax in axes:
        ax.set_xlabel(f"{unit}rows seen")
        ax.xaxis.set_major_locator(MaxNLocator(4 if is_narrow() else 6, steps=[1, 2, 2.5, 5, 10]))
    return size


def percent_axis(ax: Axes) -> None:
    """Show the y axis, a share, as per cent."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def thin(points: list[tuple[float, float]], most: int = 600) -> list[tuple[float, float]]:
    """At most `most` points: means of neighbours, so that a long run does not give a page of many megabytes."""
    if len(points) <= most:
        return points
    cuts = [round(i * len(points) / most) for i in range(most + 1)]
    groups = (points[a:b] for a, b in pairwise(cuts))
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def smooth(values: list[float]) -> list[float]:
    """An exponential mean over about a twentieth of the points, with bias correction for the first values."""
    keep = 1 - 2 / (len(values) / 20 + 1) if len(values) > 20 else 0.0
    total = weight = 0.0
    found = []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        found.append(total / weight)
    return found


def finite(lines: list[dict[str, Any]], *path: str) -> list[tuple[float, float]]:
    """Points (rows, value) of the log lines that have a finite number under `path`."""
    found = []
    for line in lines:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, int | float) and math.isfinite(value):
            found.append((float(line["rows"]), float(value)))
    return found


def label_ends(ax: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write each line's name (height of its end, name, colour) right of the frame, moved apart where they would overlap."""
    if not ends:
        return
    x, _ = ax.get_xlim()
    ax.get_ylim()  # fixes limits that are still automatic, which the transform does not do
    # in shares of the frame's height, so that the axis may be logarithmic
    height_of = (ax.transScale + ax.transLimits).transform
    step = _LABEL_IN * ax.figure.dpi / ax.bbox.height
    places = sorted(ends)
    heights = [height_of((x, y))[1] for y, _, _ in places]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    over = max(heights[-1] - 0.98, 0.0)
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - step) if i + 1 < len(heights) else heights[i] - over
    for (_, name, colour), height in zip(places, heights, strict=True):
        ax.annotate(
            short_name(name),
            (1, height),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
            annotation_clip=False,
        )


def legend_above(drawing: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """What colours and marks mean, above the plots, in as many columns as fit."""
    characters = 40 if is_narrow() else 140
    columns = max(1, min(len(names), characters // (max(len(short_name(name)) for name in names) + 7)))
    drawing.legend(
        list(handles), [short_name(name) for name in names], loc="outside upper left", ncols=columns, columnspacing=1.8
    )
