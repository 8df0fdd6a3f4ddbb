"""The output of a search: `best.yaml`, `trials.parquet`, `result.json`, all derived from the records."""

import json
from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from raymtl.config.load import config_from_dict, dump_config
from raymtl.results import TuneResult
from raymtl.training.rundir import RESULT, RunFolder
from raymtl.tuning.objective import front, unsigned
from raymtl.tuning.recommendation import gains, recommended
from raymtl.tuning.report.page import write_report
from raymtl.tuning.search import SEARCHED, Search

BEST, TABLE, REPORT = "best.yaml", "trials.parquet", "report.html"


def write_result(search: Search, folder: RunFolder, clock: dict[str, Any]) -> TuneResult:
    """Write the files of a search and return what `result.json` holds."""
    result = summary(search, clock, folder)
    result["report"] = folder.path_of(REPORT)
    if result["recommended"] is not None:
        trial = search.trial_store.trials[result["recommended"]]
        chosen = config_from_dict({**trial.config, "name": f"{search.config.name}-best"})
        folder.write(BEST, dump_config(chosen))
    _write_table(folder, search)
    folder.write(RESULT, json.dumps(result, indent=2))
    write_report(search, folder, result)
    return result


def summary(search: Search, clock: dict[str, Any], folder: RunFolder) -> TuneResult:
    """All numbers of the report."""
    trials = list(search.trial_store.trials.values())
    searched = [t for t in trials if t.kind in SEARCHED]
    default = search.trial_store.default
    best = search.best(searched)
    found = search.candidates(searched)
    repeats = gains(search)
    choice = recommended(search, repeats)
    points = {t.number: search.evaluator.values(t.metrics) or [] for t in found}
    return {
        "status": "finished" if search.is_over() else "stopped",
        "folder": folder.path,
        "best": None if best is None else best.number,
        "best_fields": {} if best is None else best.fields,
        "recommended": None if choice is None else choice.number,
        "best_config": None if choice is None else folder.path_of(BEST),
        "default": None if default is None else default.number,
        "objective": search.evaluator.names,
        "front": front(points) if len(search.evaluator.names) > 1 else [],
        "trials": {
            status: sum(t.status == status for t in searched) for status in ("finished", "stopped", "failed", "running")
        },
        "failures": {t.number: t.reason for t in trials if t.status == "failed"},
        "repeats": repeats,
        "train_seconds": round(sum(t.train_seconds for t in trials), 1),
        "start_seconds": round(sum(t.start_seconds for t in trials), 1),
        **cast(Any, clock),
    }


def rows_of(search: Search) -> list[dict[str, Any]]:
    """One row per trial: what it is, the fields it set, what it cost, and its metrics."""
    default = search.trial_store.default.metrics if search.trial_store.default is not None else None
    found = []
    for t in search.trial_store.trials.values():
        metrics = t.metrics or {}
        row: dict[str, Any] = {
            "trial": t.number,
            "kind": t.kind,
            "of": t.of,
            "seed": t.seed,
            "status": t.status,
            "reason": t.reason,
            "rows": t.rows,
            "train_seconds": t.train_seconds,
            "starts": t.starts,
            "meets_limits": search.evaluator.meets_limits(metrics, default) if metrics else None,
        }
        for name in {name for other in search.trial_store.trials.values() for name in other.fields}:
            value = t.fields.get(name)
            row[f"field.{name}"] = value if value is None or isinstance(value, int | float) else json.dumps(value)
        known = search.evaluator.values(metrics)
        values: Sequence[float | None] = known or [None] * len(search.evaluator.names)
        for name, value in zip(search.evaluator.names, values, strict=True):
            mean = search.evaluator.objective.mean is not None
            row[f"objective.{name}"] = value if value is None or mean else unsigned(name, value)
        for task, of_task in metrics.get("tasks", {}).items():
            row |= {f"{task}.{k}": v for k, v in of_task.items() if isinstance(v, int | float)}
        row["order_violations"] = (metrics.get("order_violation_rate") or {}).get("overall")
        found.append(row)
    return found


def _write_table(folder: RunFolder, search: Search) -> None:
    rows = rows_of(search)
    columns = sorted({key for row in rows for key in row}, key=lambda k: _place(k, rows))
    arrays = {}
    for name in columns:
        values = [row.get(name) for row in rows]
        kinds = {type(v) for v in values if v is not None}
        if len(kinds - {int, float}) == 0 and float in kinds:
            values = [None if v is None else float(v) for v in values]
        elif len(kinds) > 1:
            values = [None if v is None else json.dumps(v) for v in values]
        arrays[name] = pa.array(values)
    table = pa.table(arrays)
    folder.write_file(TABLE, lambda path: pq.write_table(table, path, filesystem=folder.filesystem))


def _place(key: str, rows: list[dict[str, Any]]) -> tuple[int, str]:
    groups = ("field.", "objective.")
    fixed = list(rows[0])[:10] if rows else []
    if key in fixed:
        return (fixed.index(key), "")
    return (10 + next((i for i, g in enumerate(groups) if key.startswith(g)), len(groups)), key)
