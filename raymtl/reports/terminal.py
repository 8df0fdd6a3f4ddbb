"""The metrics of a run as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from raymtl.reports.facts import rows_trained
from raymtl.reports.load import Run
from raymtl.reports.style import count, number, task_colours
from raymtl.reports.tables import ALL, Row, metric_tables, metrics_of
from raymtl.telemetry.output import FoldedTable

_ERRORS = ("error", "constant", "best")
"""Columns that only count and real tasks have, which belong together."""


def metric_table(result: Mapping[str, Any]) -> Table:
    """A table with one line per task and scenario, for `rich.print`; ± is half a 95 % interval; a lopsided one has both ends.

    Args:
        result: what a run returns, its `result.json`, or what `EvalMetrics.compute` returned.

    Returns:
        Count and real-valued tasks share columns with binary tasks, and have `error`, `constant` (that of the best constant
        prediction) and `best`, which are present only if there is such a task. The reasons for dashes are below.
    """
    metrics = metrics_of(result)
    ranked, *others = metric_tables(metrics)
    valued = [row for table in others for row in table.rows]
    colours = task_colours(list(metrics["tasks"]))
    shared = {column.name for other in others if other.rows for column in other.columns} - set(_ERRORS)
    columns = [c for c in ranked.all_columns if not c.wide_only and (c in ranked.columns or c.name in shared)]
    table = FoldedTable(keys=2, box=None, pad_edge=False, header_style="bold")
    table.add_column("task")
    table.add_column("scenario")
    for column in columns:
        table.add_column(column.short or column.name, justify="right")
    errors = [column.name for other in others for column in other.columns if other.rows and column.name in _ERRORS]
    for name in errors:
        table.add_column(name, justify="right", joined=name != _ERRORS[0])
    for row in [row for task in metrics["tasks"] for row in ranked.rows + valued if row.task == task]:
        task = Text(row.task if row.scenario == ALL else "", style=f"bold {colours[row.task]}")
        cells = set(row.cells) if row in ranked.rows else shared & set(row.cells)
        found = [_cell(row, column.name) if column.name in cells else Text("") for column in columns]
        error = [Text("") if row in ranked.rows else _cell(row, name) for name in errors]
        table.add_row(task, row.scenario, *found, *error)
    reasons = [f"{row.task}, {row.scenario}: {row.note}" for row in ranked.rows + valued if row.note]
    if reasons:
        table.caption = Text("\n".join(reasons), style="dim")
    return table


def comparison_table(runs: Mapping[str, Run]) -> Table:
    """A line per run: rows trained, mean AUC, and the metric that stands for each task."""
    found = {name: run.final or {"tasks": {}} for name, run in runs.items()}
    tasks = list(dict.fromkeys(task for metrics in found.values() for task in metrics["tasks"]))
    table = FoldedTable("run", box=None, pad_edge=False, header_style="bold")
    for head in ("rows trained", "mean AUC", *tasks):
        table.add_column(Text(head, style=task_colours(tasks).get(head, "")), justify="right")
    for name, metrics in found.items():
        families = metric_tables(metrics, scenarios=False)
        first = {row.task: row.cells[table.columns[0].name].text for table in families for row in table.rows}
        cells = [count(rows_trained(runs[name])), number(metrics.get("mean_auc")), *(first.get(t, "–") for t in tasks)]
        table.add_row(Text(name), *map(Text, cells))
    return table


def _cell(row: Row, column: str) -> Text:
    return Text(row.cells[column].short or row.cells[column].text, style="bold yellow" if row.cells[column].odd else "")
