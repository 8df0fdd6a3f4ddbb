"""Drawing surface of the report: matplotlib figures as inline SVG whose ink follows the page, in light and in dark."""

import functools
import io
import math
import re
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

P = ParamSpec("P")
R = TypeVar("R")

WIDTH_IN = 11.0
"""Width of a full figure; the page scales it to its own width."""

_LABEL_IN = 0.17  # from one name at the end of a line to the next

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
    "font.size": 9.0,
    "axes.titlesize": 10.0,
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
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function under the report's style, which matplotlib reads again at every call, and restore the old one."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapped


def figure(height_in: float) -> Figure:
    """An empty figure of the report's width."""
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def panels(count: int, height_in: float, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, at most `columns` in a row."""
    columns = 2 if count == 4 and columns == 3 else min(columns, max(count, 1))
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
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
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


def label_ends(ax: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each line's name (x, y, name, colour) at its right end, moved apart where they would overlap."""
    if not ends:
        return
    ax.get_ylim()  # fixes limits that are still automatic, which the transform does not do
    # in shares of the frame's height, so that the axis may be logarithmic
    height_of = (ax.transScale + ax.transLimits).transform
    step = _LABEL_IN * ax.figure.dpi / ax.bbox.height
    places = sorted(ends, key=lambda end: end[1])
    heights = [height_of((end[0], end[1]))[1] for end in places]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    over = max(heights[-1] - 0.98, 0.0)
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - step) if i + 1 < len(heights) else heights[i] - over
    for (x, _, name, colour), height in zip(places, heights, strict=True):
        ax.annotate(
            name,
            (x, height),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            weight="bold",
        )
