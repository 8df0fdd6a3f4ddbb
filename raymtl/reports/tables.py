"""The rows of the tables, shared by the HTML report and the terminal."""

from dataclasses import dataclass
from typing import Any

from raymtl.reports.style import count, number, significant

ALL = "all"
BINARY_COLUMNS = ("AUC", "best", "gap", "GAUC", "log loss", "NE", "calibration", "rows", "positives")
VALUE_COLUMNS = ("error", "best", "RMSE", "MAE", "NMAE", "SMAPE", "calibration", "rows")
CALIBRATION_TOLERANCE = 0.1
"""A prediction further off than this share, on average, is marked."""


@dataclass(frozen=True)
class Row:
    """One line of a table: a task in one scenario."""

    task: str
    scenario: str
    cells: tuple[str, ...]
    note: str
    """Why a cell is a dash; empty if none is."""
    marked: frozenset[int]
    """Marked cells: a calibration far from 1, an AUC below one half."""


_OPTIONAL = {"best", "gap", "GAUC"}  # need a `truth` or a group column, which most runs do without


def shown_columns(columns: tuple[str, ...], rows: list[Row]) -> list[int]:
    """The columns to show, by place: all but the optional ones in which every row has a dash."""
    return [
        i
        for i, name in enumerate(columns)
        if name not in _OPTIONAL or any(row.cells[i] not in ("–", "") for row in rows)
    ]


def metrics_of(result: dict[str, Any]) -> dict[str, Any]:
    """What `EvalMetrics.compute` returned, out of a run's result: `tasks` and `scenarios`, both empty before an evaluation.

    A result has the tasks under `metrics.eval` and the rest next to it; a line of `metrics.jsonl`, and the return value of
    `compute`, have both together.
    """
    section = result.get("metrics") or ({} if "status" in result else result)
    inner = section.get("eval") or {}
    if isinstance(inner.get("tasks"), dict) and "kind" not in inner["tasks"]:
        section, inner = inner, {}
    rest = {key: value for key, value in section.items() if key != "eval"}
    return {"scenarios": {}, "tasks": inner, **rest}


def binary_rows(metrics: dict[str, Any], scenarios: bool = True) -> list[Row]:
    """One row per binary task, followed by its scenarios; columns as in `BINARY_COLUMNS`."""
    return [_binary_row(*place) for place in _places(metrics, scenarios) if place[2].get("kind") == "binary"]


def value_rows(metrics: dict[str, Any], scenarios: bool = True) -> list[Row]:
    """One row per count or real task, followed by its scenarios; columns as in `VALUE_COLUMNS`."""
    return [_value_row(*place) for place in _places(metrics, scenarios) if place[2].get("kind") != "binary"]


def _places(metrics: dict[str, Any], scenarios: bool) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for task, report in metrics["tasks"].items():
        found.append((task, ALL, report))
        if scenarios:
            parts = metrics.get("scenarios") or {}
            found += [(task, name, by_task[task]) for name, by_task in parts.items() if task in by_task]
    return found


def gap(report: dict[str, Any]) -> float | None:
    """Distance to the best reachable AUC."""
    auc, best = report.get("auc"), report.get("truth_auc")
    return None if auc is None or best is None else best - auc


def _binary_row(task: str, scenario: str, report: dict[str, Any]) -> Row:
    cells = (
        number(report.get("auc")),
        number(report.get("truth_auc")),
        _signed(gap(report)),
        number(report.get("gauc")),
        significant(report.get("logloss")),
        number(report.get("ne")),
        number(report.get("calibration"), 3),
        count(report.get("count")),
        count(report.get("positives")),
    )
    auc = report.get("auc")
    marked = ({0} if auc is not None and auc < 0.5 else set()) | _off_calibration(report, 6)
    return Row(task, scenario, cells, _note(report), frozenset(marked))


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}".replace("-", "−")


def error_name(report: dict[str, Any]) -> str:
    """The metric that stands for a count or real task."""
    return "deviance" if report.get("kind") == "count" else "MSE"


def _value_row(task: str, scenario: str, report: dict[str, Any]) -> Row:
    key = "poisson_deviance" if report.get("kind") == "count" else "mse"
    error = significant(report.get(key))
    cells = (
        error if report.get(key) is None else f"{error_name(report)} {error}",
        significant(report.get(f"truth_{key}")),
        significant(report.get("rmse")),
        significant(report.get("mae")),
        number(report.get("nmae")),
        number(report.get("smape")),
        number(report.get("calibration"), 3),
        count(report.get("count")),
    )
    return Row(task, scenario, cells, _note(report), frozenset(_off_calibration(report, 6)))


def _off_calibration(report: dict[str, Any], cell: int) -> set[int]:
    value = report.get("calibration")
    return {cell} if value is not None and abs(value - 1) > CALIBRATION_TOLERANCE else set()


def _note(report: dict[str, Any]) -> str:
    """The reason for the dashes, and the share of the rows in GAUC if it is not all."""
    why, gauc_why = report.get("null_reason"), report.get("gauc_null_reason")
    notes = [why] if why else []
    if gauc_why and gauc_why != why and not gauc_why.startswith("no group column"):
        notes.append(f"GAUC: {gauc_why}")
    share = report.get("gauc_sampled_share")
    if report.get("gauc") is not None and share is not None and share < 0.9995:
        notes.append(f"GAUC from {100 * share:.0f} % of the rows")
    return "; ".join(notes)
