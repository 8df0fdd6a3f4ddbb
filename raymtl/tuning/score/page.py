"""The page of a search for a formula: the verdict, the trade-off between the tasks, and every number with its interval."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from raymtl.data.writing import OutputFolder
from raymtl.reports.page import Cell, Drawing, Grid, Key, Page, PageStatus, Paragraph, Part, Section, render_page
from raymtl.reports.plots import FAINT, INK, PAPER, WARNING, legend_above, panels, styled, svg
from raymtl.reports.style import count, duration, number, short_count, significant
from raymtl.tuning.report.plot_markers import PLAIN

NAME = "report.html"
_MOST_PAIRS = 4
_SHOWN = 15
"""Formulas of the front in the table."""


def write_page(folder: OutputFolder, result: Mapping[str, Any]) -> str:
    """Write the page and return its path."""
    folder.write(NAME, render_page(score_page(result)))
    return folder.path_of(NAME)


def score_page(result: Mapping[str, Any]) -> Page:
    """The page of what `result.json` holds."""
    better = result["recommended"] == "best"
    value = f"value@{result['at']}"
    gain, half = result["formulas"]["best"]["difference"]
    error = "" if half is None else f" ± {significant(half, 2)}"
    noise = (
        ": beyond the noise, so score.yaml has it"
        if better
        else ": within the noise, so score.yaml keeps the current one"
    )
    verdict = (
        f": on users that it was not fitted on, the best one changes {value} by "
        f"{with_half((gain, None), signed=True)}{error}{noise}."
    )
    sections = [_front(result), _formulas(result), _off_policy(result)]
    return Page(
        title=f"{result['formula']} · score · raymtl",
        heading=f"Formula {result['formula']}",
        status=PageStatus("better formula found" if better else "no better formula", better),
        verdict=verdict,
        meta=[
            f"version {result['version']} · a row gains "
            + " + ".join(f"{w:g} · {t}" for t, w in result["gain"].items()),
            f"fitted on {count(result['users']['fit'])} users, judged on {count(result['users']['judge'])} others",
        ],
        keys=[
            Key(f"{value}, best", significant(result["formulas"]["best"]["value"][0]), "on users not fitted on"),
            Key(f"{value}, current", significant(result["formulas"]["current"]["value"][0]), "the same users"),
            Key("trials", short_count(result["trials"]), duration(result["seconds"])),
            Key("trials a minute", short_count(result["trials_per_minute"]), "one process, no training"),
            Key("lists", short_count(sum(result["lists"][half] for half in ("fit", "judge"))), "with a known gain"),
        ],
        sections=[section for section in sections if section is not None],
    )


def formula_text(formula: Mapping[str, Any]) -> str:
    """A formula in one line."""
    if formula["type"] == "sum":
        return " + ".join(f"{weight:.4g} · {name}" for name, weight in formula["weights"].items())
    if formula["type"] == "product":
        return " · ".join(f"{name}^{power:.4g}" for name, power in formula["powers"].items())
    edges = ", ".join(f"{edge:.3g}" for edge in formula["edges"])
    return f"{formula['by']} in buckets at {edges}; then {formula['then']}"


def _front(result: Mapping[str, Any]) -> Section | None:
    if len(result["tasks"]) < 2:
        return None
    text = (
        f"What a list brings in its first {result['at']} rows, task by task, on users that no trial was fitted on. Dots are "
        "the formulas of the front: on the users fitted on, no other formula is better in every task. Bars: 95 % intervals."
    )
    drawing = _drawn(result)
    parts: list[Part] = [Drawing(drawing)] if drawing else []
    rows = [
        [Cell(formula_text(entry["formula"]), "part"), *_numbers(entry, result)] for entry in _spread(result["front"])
    ]
    parts.append(Grid(["formula", *_heads(result)], rows))
    if len(result["front"]) > _SHOWN:
        parts.append(
            Paragraph(f"{_SHOWN} of {len(result['front'])} formulas of the front; all trials are in trials.parquet.")
        )
    return Section("Trade-off", text, parts)


def _spread(front: Sequence[Any]) -> list[Any]:
    """Some of the front, from one end to the other."""
    if len(front) <= _SHOWN:
        return list(front)
    return [front[round(n * (len(front) - 1) / (_SHOWN - 1))] for n in range(_SHOWN)]


def _formulas(result: Mapping[str, Any]) -> Section:
    text = (
        "The current formula, the best one that was found, the sum of the expected gains, and every output alone; ± is half "
        "the 95 % interval, with the lists of a user as one observation. Differences are on the same lists."
    )
    rows = [
        [Cell(label, "name"), Cell(formula_text(entry["formula"]), "part"), *_numbers(entry, result)]
        for label, entry in result["formulas"].items()
    ]
    return Section("Formulas", text, [Grid(["", "formula", *_heads(result)], rows)])


def _heads(result: Mapping[str, Any]) -> list[str]:
    return [f"value@{result['at']}", "difference", *result["tasks"]]


def _numbers(entry: Mapping[str, Any], result: Mapping[str, Any]) -> list[Cell]:
    difference, half = entry["difference"]
    beyond = half is not None and abs(difference) > half
    cells = [
        Cell(with_half(entry["value"])),
        Cell(with_half(entry["difference"], signed=True), _tone(difference, beyond)),
    ]
    return cells + [Cell(with_half(entry["by_task"][task])) for task in result["tasks"]]


def _tone(difference: float, beyond: bool) -> Any:
    return "faint" if not beyond else "good" if difference > 0 else "look"


def with_half(pair: Sequence[float | None], signed: bool = False) -> str:
    """A number with half its 95 % interval."""
    value, half = pair
    assert value is not None
    text = f"{value:+.4g}".replace("-", "−") if signed else significant(value)
    return text if half is None else f"{text} ± {significant(half, 2)}"


def _off_policy(result: Mapping[str, Any]) -> Section | None:
    if not result["lists"]["explored"]:
        return None
    text = (
        f"What each formula would have earned per list, from {count(result['lists']['explored'])} lists of "
        f"{count(result['users']['explored'])} users in which chance decided what was shown: unbiased if the gain of a row "
        "does not depend on its place. DR uses the predictions, and is the one to read where its interval is the narrower. "
        "Effective rows: so many shown rows tell as much without weights."
    )
    rows = [
        [
            Cell(label, "name"),
            *(Cell(with_half(entry["off_policy"][method])) for method in ("IPS", "SNIPS", "DR")),
            Cell(number(entry["effective_rows"], 0)),
        ]
        for label, entry in result["formulas"].items()
    ]
    return Section("Off-policy estimate", text, [Grid(["", "IPS", "SNIPS", "DR", "effective rows"], rows)])


_LOOKS = {"current": (INK, "D"), "best": (WARNING, "o"), "expected gain": (FAINT, "s")}
"""Colour and marker of the formulas that the plot names; single outputs are in the table."""


@styled
def _drawn(result: Mapping[str, Any]) -> str | None:
    pairs = list(combinations(result["tasks"], 2))[:_MOST_PAIRS]
    drawing, axes = panels(len(pairs), 4.4 if len(pairs) == 1 else 3.2, columns=2)
    look: dict[str, Any] = {"color": PLAIN, "markersize": 5, "alpha": 0.7, "markeredgecolor": PAPER, "linestyle": ""}
    for ax, (x, y) in zip(axes, pairs, strict=True):
        ax.plot(*zip(*(_point(entry, x, y) for entry in result["front"]), strict=True), marker="o", **look)
        for label, (colour, marker) in _LOOKS.items():
            entry = result["formulas"][label]
            if label != "expected gain":
                (px, halfx), (py, halfy) = entry["by_task"][x], entry["by_task"][y]
                ax.errorbar([px], [py], xerr=[halfx or 0], yerr=[halfy or 0], color=colour, linewidth=1.0, alpha=0.6)
            ax.plot(*_point(entry, x, y), marker, color=colour, markersize=8, markeredgecolor=PAPER, zorder=5)
        ax.margins(0.12)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.set_xlabel(f"{x} per list, first {result['at']}")
        ax.set_ylabel(f"{y} per list, first {result['at']}")
    handles = [Line2D([], [], marker="o", **look)]
    handles += [
        Line2D([], [], color=colour, marker=marker, markersize=8, markeredgecolor=PAPER, linestyle="")
        for colour, marker in _LOOKS.values()
    ]
    legend_above(drawing, handles, ["front", *_LOOKS])
    return svg(drawing, f"Labels at the top of a list by formula: {', '.join(result['tasks'])}")


def _point(entry: Mapping[str, Any], x: str, y: str) -> tuple[float, float]:
    return entry["by_task"][x][0], entry["by_task"][y][0]
