"""The tables of fused scores, for pages and the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from raymtl.config.metrics import FUSED, fused_label
from raymtl.reports.page import Cell, Grid
from raymtl.reports.style import count, significant
from raymtl.reports.tables import with_interval
from raymtl.telemetry.output import FoldedTable

LEGEND = (
    "How the formulas of score rank the rows of each list. value@k is the gain of the first k rows of a list; best is that of "
    "the order by the gain itself, and random that of no order. ± is half the 95 % interval."
)


def score_grid(metrics: Mapping[str, Any]) -> Grid | None:
    """A row per formula; None without `scores`."""
    heads, rows = _table(metrics, short=False)
    cells = [[Cell(row[0], "name"), *map(Cell, row[1:-1]), Cell(row[-1], "why")] for row in rows]
    return Grid([*heads, ""], cells) if rows else None


def score_table(metrics: Mapping[str, Any]) -> Table | None:
    """The same for a terminal."""
    heads, rows = _table(metrics, short=True)
    if not rows:
        return None
    table = FoldedTable("score", box=None, pad_edge=False, header_style="bold")
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(Text(row[0], style="bold"), *row[1:-1])
    if reasons := [f"{row[0]}: {row[-1]}" for row in rows if row[-1]]:
        table.caption = Text("\n".join(reasons), style="dim")
    return table


def _table(metrics: Mapping[str, Any], short: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and rows; the last cell of a row is the reason for its dashes."""
    reports: Mapping[str, dict[str, Any]] = metrics.get("scores") or {}
    if not reports:
        return [], []
    first = next(iter(reports.values()))
    names = list(dict.fromkeys(name for report in reports.values() for name in _measured(report)))
    labels = {name: fused_label(name, first["at"]) for name in names}
    value, *others = names
    heads = ["score", labels[value], "best", "random", *(labels[name] for name in others), "lists"]
    rows = []
    for score, report in reports.items():
        found = {name: with_interval(FUSED[name.partition("_")[0]], report, short, name) for name in names}
        bounds = [significant(report.get(f"{bound}_value")) for bound in ("best", "random")]
        rows.append(
            [
                score,
                found[value],
                *bounds,
                *(found[name] for name in others),
                count(report["count"]),
                report["null_reason"] or "",
            ]
        )
    return heads, rows


def _measured(report: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in report if name.partition("_")[0] in FUSED)
