"""The live line of a training."""

import io

from rich.console import Console

from raymtl.reports.progress import TrainingLines

WINDOW = {
    "kind": "train",
    "step": 3,
    "rows": 30,
    "loss": 0.5,
    "losses": {"click": 0.5},
    "rows_per_s": 10.0,
    "data_wait": 0.1,
}


def test_the_bar_goes_when_a_day_has_trained() -> None:
    with TrainingLines(Console(file=io.StringIO(), force_terminal=True, width=100)) as lines:
        lines({"total_rows": 60})
        lines(WINDOW)
        assert [task.completed for task in lines._bar.tasks] == [30]
        lines({"day": "2026-01-02", "state": "gate"})
        assert lines._bar.tasks == []
        lines({"total_rows": 60})
        lines(WINDOW)
        assert len(lines._bar.tasks) == 1
