"""A report marks a value only if chance does not explain it."""

import math

import pytest

from raymtl.config.metrics import METRICS
from raymtl.reports.chance import is_odd
from raymtl.reports.tables import metric_tables, metrics_of


def binary(positives: int, rows: int, calibration: float, **more: object) -> dict:
    rate = positives / rows
    facts = {"count": rows, "positives": positives, "mean_label": rate, "mean_prediction": calibration * rate}
    return {"kind": "binary", "auc": 0.7, "calibration": calibration, **facts, **more}


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (binary(20, 4_000, 1.4), False),  # 28 expected, 20 seen: 1.5 standard errors
        (binary(200, 40_000, 1.4), True),  # 4.8
        (binary(20_000, 400_000, 1.05), False),  # beyond chance, but not 10 % off
        (binary(200, 40_000, 1.4, intervals={"calibration": [0.9, 2.0]}), False),
        (binary(20, 4_000, 1.4, intervals={"calibration": [1.3, 1.5]}), True),
        (
            {"kind": "real", "calibration": 0.8, "count": 50, "mean_label": 2.0, "mean_prediction": 1.6, "mse": 9.0},
            False,
        ),
        (
            {"kind": "real", "calibration": 0.8, "count": 5_000, "mean_label": 2.0, "mean_prediction": 1.6, "mse": 9.0},
            True,
        ),
        ({"kind": "real", "calibration": 0.8}, True),  # without counts it is marked
        ({"kind": "binary", "calibration": None, "count": 0}, False),
    ],
)
def test_calibration(report: dict, expected: bool) -> None:
    assert is_odd(METRICS["calibration"], report) is expected


def test_auc_below_one_half() -> None:
    error = math.sqrt(1001 / (12 * 100 * 900))
    for positives, rows, auc, expected in (
        (100, 1000, 0.5 - 2.9 * error, False),
        (100, 1000, 0.5 - 3.1 * error, True),
        (100, 1000, 0.6, False),
    ):
        assert is_odd(METRICS["auc"], binary(positives, rows, 1.0, auc=auc)) is expected


def test_the_scenario_other_needs_rows() -> None:
    full, empty = (
        binary(20, 400, 1.0),
        {"kind": "binary", "count": 0, "positives": 0, "null_reason": "no observed labels"},
    )
    metrics = {
        "tasks": {"a": full, "b": full},
        "scenarios": {"live": {"a": empty, "b": empty}, "other": {"a": empty, "b": empty}},
    }
    found = metrics_of({"metrics": {"eval": metrics["tasks"], "scenarios": metrics["scenarios"]}, "status": "finished"})
    assert list(found["scenarios"]) == ["live"]
    assert [row.scenario for row in metric_tables(found)[0].rows] == ["all", "live"] * 2
    metrics["scenarios"]["other"]["b"] = full
    assert list(metrics_of(metrics)["scenarios"]) == ["live", "other"]
