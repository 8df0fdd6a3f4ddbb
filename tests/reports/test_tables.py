"""The notes of the metric tables."""

import io

import pytest
from rich.console import Console

from raymtl.config.metrics import METRICS
from raymtl.reports.slices import scenario_auc
from raymtl.reports.tables import metric_tables, metrics_of, with_interval
from raymtl.reports.terminal import metric_table

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
    binary, values, _ = ([column.name for column in table.columns] for table in metric_tables({"tasks": tasks}))
    assert binary == [
        "AUC", "best", "gap", "rows", "positives", "calibration", "GAUC", "NE", "PR-AUC", "log loss", "ECE", "groups",
    ]  # fmt: skip
    assert values == ["error", "constant", "best", "rows", "concordance", "MAE", "groups"]


RANKED = {"ndcg": 0.8, "ndcg_10": 0.75, "mrr": 0.6, "requests_ranked": 1_234, "requests_sampled_share": 0.4}


def test_requests_have_columns_and_a_note_of_the_sample() -> None:
    tasks = {kind: {"kind": kind, **RANKED} for kind in KINDS}
    binary, values, _ = metric_tables({"tasks": tasks})
    assert [c.name for c in binary.columns][-6:] == ["NDCG", "MRR", "PR-AUC", "log loss", "ECE", "requests"]
    assert {"NDCG", "NDCG@10"} <= {c.name for c in values.columns}
    assert "MRR" not in {c.name for c in values.columns}
    assert binary.rows[0].cells["requests"].text == "1,234"
    assert binary.rows[0].note == values.rows[0].note == "NDCG from 40 % of the rows"
    for why, note in (("no requests", ""), ("none of 9 requests has two", "NDCG: none of 9 requests has two")):
        (row,) = metric_tables({"tasks": {"click": {"kind": "binary", "requests_null_reason": why}}})[0].rows
        assert row.note == note


@pytest.mark.parametrize("kinds", [("binary",), ("real",), KINDS])
def test_a_terminal_shows_one_metric_of_requests(kinds: tuple[str, ...]) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(metric_table({"tasks": {kind: {"kind": kind, **RANKED} for kind in kinds}}))
    text = console.export_text()
    assert ("NDCG@10" in text, "MRR" in text) == (True, False)
    assert text.count("0.7500") == len(kinds)


def test_an_empty_scenario_has_a_name() -> None:
    report = {"kind": "binary", "auc": 0.7, "count": 9}
    metrics = metrics_of({"tasks": {"click": report}, "scenarios": {"": {"click": report}}})
    assert [row.scenario for row in metric_tables(metrics)[0].rows] == ["all", '""']
    assert '""' in (scenario_auc(metrics, ["click"]) or "").replace("&quot;", '"')
