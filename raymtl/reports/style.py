"""Number formats and colours of all tables and plots."""

import datetime as dt
import math
from typing import Any

PALETTE = ("#3f7fd6", "#e0781e", "#2f9e6e", "#c14f8c", "#8264d4", "#1e98b2", "#cf4a3f", "#948d1d")
"""Colours of tasks, readable on white and on near black, and distinguishable with red-green colour blindness."""

MUTED = ("#5f7a99", "#b08a4f", "#7d9a6a", "#a1687a", "#8fb0c4", "#cdb78c", "#6f6a8f", "#b7a3b8")
"""Colours of everything else (tables, scenarios, states), different from the tasks'."""


def task_colours(names: list[str]) -> dict[str, str]:
    """One colour per task, by its place in the config; the same in all plots of all reports of that config."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def other_colours(names: list[str]) -> dict[str, str]:
    """One colour per table, scenario or state, by its place."""
    return {name: MUTED[i % len(MUTED)] for i, name in enumerate(names)}


def number(value: Any, digits: int = 4) -> str:
    """A number with `digits` decimals, or in scientific notation if that would round to 0; a dash for None."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–" if value is None else str(value)
    if value != 0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value:,.{digits}f}"


def change(value: float | None, digits: int = 4) -> str:
    """A difference with its sign; nothing for None."""
    return "" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def significant(value: Any, digits: int = 4) -> str:
    """A number with `digits` significant digits, for quantities of any size; a dash for None."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–" if value is None else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        decimals = 0 if value == 0 else max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return f"{value:,.{decimals}f}"
    return f"{value:.{digits - 1}e}"


def count(value: Any) -> str:
    """A count with thousands separators; a dash for None."""
    return f"{value:,.0f}" if isinstance(value, int | float) and math.isfinite(value) else "–"


def short_count(value: Any) -> str:
    """A count in at most four characters and a unit: 950, 12.3 k, 4.21 M, 1.07 B."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def percent(value: Any, digits: int = 1) -> str:
    """A share as per cent; a dash for None."""
    return f"{100 * value:.{digits}f} %" if isinstance(value, int | float) and math.isfinite(value) else "–"


def short_day(day: dt.date) -> str:
    """A day without its year, which does not break over a line: Nov 4."""
    return f"{day:%b}\u00a0{day.day}"


def duration(seconds: float | None) -> str:
    """A time span in its two largest units: 42 s, 3 min 05 s, 2 h 14 min, 3 d 04 h."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "–"
    total_s = round(seconds)
    if total_s < 60:
        return f"{total_s} s"
    if total_s < 3600:
        return f"{total_s // 60} min {total_s % 60:02d} s"
    if total_s < 86_400:
        return f"{total_s // 3600} h {total_s % 3600 // 60:02d} min"
    return f"{total_s // 86_400} d {total_s % 86_400 // 3600:02d} h"
