"""The metrics of a run as a table on the terminal."""

from typing import Any

from rich.table import Table
from rich.text import Text

from raymtl.reports.style import task_colours
from raymtl.reports.tables import (
    ALL,
    BINARY_COLUMNS,
    VALUE_COLUMNS,
    Row,
    binary_rows,
    metrics_of,
    shown_columns,
    value_rows,
)
from raymtl.telemetry.logs import FoldedTable

_SHORT = {"calibration": "calib.", "positives": "pos."}
_VALUE_PLACES = {name: VALUE_COLUMNS.index(name) for name in ("calibration", "rows")}
_LEFT_OUT = {"log loss"}  # NE shows the same, and a terminal is narrow


def print_table(result: dict[str, Any]) -> Table:
    """A table with one line per task and scenario, for `rich.print`; nothing is printed here.

    Args:
        result: what a run returns, its `result.json`, or what `EvalMetrics.compute` returned.

    Returns:
        Binary tasks fill the ranking columns; count and real tasks the column `error`, there only if such a task is. The
        reasons for dashes stand below.
    """
    metrics = metrics_of(result)
    ranked, valued = binary_rows(metrics), value_rows(metrics)
    colours = task_colours(list(metrics["tasks"]))
    places = [i for i in shown_columns(BINARY_COLUMNS, ranked) if BINARY_COLUMNS[i] not in _LEFT_OUT]
    table = FoldedTable(box=None, pad_edge=False, header_style="bold")
    table.add_column("task", no_wrap=True)
    table.add_column("scenario", no_wrap=True)
    for i in places:
        table.add_column(_SHORT.get(BINARY_COLUMNS[i], BINARY_COLUMNS[i]), justify="right", no_wrap=True)
    if valued:
        table.add_column("error", justify="right", no_wrap=True)
    for row in [row for task in metrics["tasks"] for row in ranked + valued if row.task == task]:
        name = Text(row.task if row.scenario == ALL else "", style=f"bold {colours[row.task]}")
        cells = {BINARY_COLUMNS[i]: i for i in places} if row in ranked else _VALUE_PLACES
        found = [_cell(row, cells[n]) if (n := BINARY_COLUMNS[i]) in cells else Text("") for i in places]
        error = [Text("") if row in ranked else _cell(row, 0)] if valued else []
        table.add_row(name, row.scenario, *found, *error)
    reasons = [f"{row.task}, {row.scenario}: {row.note}" for row in ranked + valued if row.note]
    if reasons:
        table.caption = Text("\n".join(reasons), style="dim")
        table.caption_justify = "left"
    return table


def _cell(row: Row, place: int) -> Text:
    return Text(row.cells[place], style="bold yellow" if place in row.marked else "")
