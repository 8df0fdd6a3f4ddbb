"""The notes of the metric tables."""

import pytest

from raymtl.reports.tables import metric_tables


@pytest.mark.parametrize(("error", "note"), [(4e-4, ""), (0.0123, "AUC is exact to 0.0123 only"), (None, "")])
def test_an_auc_of_scores_that_are_not_told_apart_has_a_note(error: float | None, note: str) -> None:
    report = {"kind": "binary", "auc": 0.7, "auc_error": error, "count": 100}
    (row,) = metric_tables({"tasks": {"click": report}})[0].rows
    assert note in row.note
    assert bool(note) == bool(row.note)
