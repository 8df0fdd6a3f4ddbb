"""The tables of fused scores, from what an evaluation returns."""

import torch
from rich.console import Console

from raymtl.reports.scores import score_grid, score_table
from raymtl.reports.tables import metrics_of
from raymtl.training.driver import metrics_section
from tests.objectives.test_metrics_fused import made, rows_of


def section(**changes: float) -> dict:
    rows = rows_of(3000, users=200)
    rows["scores"][:, 1] = changes.get("second", rows["scores"][:, 1])
    return metrics_of({"metrics": metrics_section(made(rows).compute()), "status": "finished"})


def test_a_page_has_a_row_per_formula_with_intervals() -> None:
    grid = score_grid(section())
    assert grid is not None
    assert list(grid.columns) == ["score", "value@3", "best", "random", "NDCG@3", "GAUC click", "lists", ""]
    assert [row[0].text for row in grid.rows] == ["first", "second"]
    assert all(" ± " in row[n].text for row in grid.rows for n in (1, 4, 5))


def test_a_terminal_says_why_a_number_is_missing() -> None:
    table = score_table(section(second=torch.nan))
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert "value@3" in text
    assert "second: " in text
    assert "NaN or infinite" in text


def test_nothing_without_formulas() -> None:
    assert score_grid({"tasks": {}}) is None
    assert score_table({"tasks": {}}) is None
