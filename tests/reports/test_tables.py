"""The notes of the metric tables."""

import pytest

from raymtl.config.metrics import METRICS
from raymtl.reports.slices import scenario_auc
from raymtl.reports.tables import metric_tables, metrics_of, with_interval

KINDS = ("binary", "real")


@pytest.mark.parametrize(("error", "note"), [(4e-4, ""), (0.0123, "AUC is exact to 0.0123 only"), (None, "")])
def test_an_auc_of_scores_that_are_not_told_apart_has_a_note(error: float | None, note: str) -> None:
    report = {"kind": "binary", "auc": 0.7, "auc_error": error, "count": 100}
    (row,) = metric_tables({"tasks": {"click": report}})[0].rows
    assert note in row.note
    assert bool(note) == bool(row.note)


@pytest.mark.parametrize(
    ("metric", "interval", "text", "short"),
    [
        ("mse", [3.06, 69.4], "14.57 (3.060 to 69.40)", "14.57 (3.06–69.4)"),
        ("mse", [14.0, 15.1], "14.57 ± 0.55", "14.57±.55"),
        ("calibration", [0.712, 1.432], "14.570 (0.712 to 1.432)", "14.570 (.712–1.432)"),
    ],
)
def test_a_lopsided_interval_has_both_ends(metric: str, interval: list[float], text: str, short: str) -> None:
    report = {metric: 14.57, "intervals": {metric: interval}}
    assert with_interval(METRICS[metric], report) == text
    assert with_interval(METRICS[metric], report, short=True) == short


def test_the_columns_that_matter_come_first() -> None:
    report = {"auc": 0.7, "gauc": 0.7, "groups": 9, "constant_mse": 1, "truth_mse": 1, "truth_auc": 0.8}
    tasks = {kind: {"kind": kind, **report} for kind in KINDS}
    binary, values = ([column.name for column in table.columns] for table in metric_tables({"tasks": tasks}))
    assert binary == ["AUC", "best", "gap", "rows", "positives", "calibration", "GAUC", "NE", "log loss", "groups"]
    assert values == ["error", "constant", "best", "rows", "calibration", "MAE", "RMSE", "NMAE", "SMAPE", "groups"]


def test_an_empty_scenario_has_a_name() -> None:
    report = {"kind": "binary", "auc": 0.7, "count": 9}
    metrics = metrics_of({"tasks": {"click": report}, "scenarios": {"": {"click": report}}})
    assert [row.scenario for row in metric_tables(metrics)[0].rows] == ["all", '""']
    assert '""' in (scenario_auc(metrics, ["click"]) or "").replace("&quot;", '"')
