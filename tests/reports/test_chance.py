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


@pytest.mark.parametrize(
    ("metric", "report", "expected"),
    [
        ("calibration", binary(20, 4_000, 0.4, intervals={"calibration": [0.216, 0.74]}), False),  # up to 1.03
        ("calibration", binary(20, 4_000, 2.2, intervals={"calibration": [1.375, 3.52]}), True),  # from 1.07
        ("auc", binary(9, 50, 1.0, auc=0.2, intervals={"auc": [0.09, 0.37]}), True),  # up to 0.48
        ("auc", binary(9, 50, 1.0, auc=0.2, intervals={"auc": [0.088, 0.39]}), False),  # up to 0.51
        ("calibration", {"kind": "real", "calibration": -0.5, "intervals": {"calibration": [-1.4, 0.4]}}, True),
        ("calibration", {"kind": "real", "calibration": -0.5, "intervals": {"calibration": [-1.6, 0.6]}}, False),
    ],
)
def test_an_interval_is_widened_on_its_own_scale(metric: str, report: dict, expected: bool) -> None:
    assert is_odd(METRICS[metric], report) is expected


@pytest.mark.parametrize(
    ("interval", "expected"), [([1.5, 2.7], True), ([1.2, 3.3], False), (None, False)]  # from 1.29, 0.91
)  # fmt: skip
def test_an_error_is_marked_only_if_chance_does_not_put_it_above_the_constant(
    interval: list[float] | None, expected: bool
) -> None:
    intervals = {} if interval is None else {"mse": interval}
    report = {"kind": "real", "mse": 2.0, "constant_mse": 1.0, "count": 30, "intervals": intervals}
    assert metric_tables({"tasks": {"t": report}})[1].rows[0].cells["error"].odd is expected
