"""A search whose trials train nothing: a function of their draw stands for the training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raymtl.training.rundir import RunFolder
from raymtl.tuning.search import Search, SearchFinished
from raymtl.tuning.space import Space
from raymtl.tuning.trial_store import Trial, TrialStore, must_stop
from tests.tuning.test_space import searched

TOTAL = 1000
Outcome = Callable[[Trial, int], tuple[float, float]]
"""AUC of click and of buy of a trial after so many rows."""


def metrics(click: float, buy: float, order: float = 0.1) -> dict[str, Any]:
    tasks = {"click": {"kind": "binary", "auc": click}, "buy": {"kind": "binary", "auc": buy}}
    return {"tasks": tasks, "mean_auc": (click + buy) / 2, "order_violation_rate": {"overall": order}}


def open_search(folder: Path, tune: dict[str, Any], **sections: Any) -> Search:
    """The search as a new start of the command has it: out of its folder."""
    train = sections.pop("train", {})
    config = searched(tune, **sections, train={"dense_optimizer": {"lr": 0.001}} | train)
    return Search(config, Space(config), TrialStore(RunFolder.open(str(folder))), TOTAL, lambda record: None)


def train(search: Search, trial: Trial, outcome: Outcome, rungs: tuple[int, ...] = (TOTAL,)) -> None:
    """Run one trial to its end, or until it is stopped."""
    for n, rows in enumerate(rungs):
        start = {"start": {"seconds": 0.1, "from_row": 0, "process": "here:1"}} if n == 0 else {}
        evaluation = {"rows": rows, "metrics": metrics(*outcome(trial, rows))}
        search.reported({"number": trial.number, **start, "evaluation": evaluation})
        if must_stop(search.trial_store.folder, trial.number):
            break
    else:
        search.reported({"number": trial.number, "ended": True, "rows": TOTAL, "train_seconds": 1.0})
    search.ended(trial.number, crashed=False)


def run(search: Search, outcome: Outcome, rungs: tuple[int, ...] = (TOTAL,), at_a_time: int = 1) -> None:
    """All trials, `at_a_time` of them begun before the first of them ends."""
    live: list[Trial] = []
    over = False
    while live or not over:
        while not over and len(live) < at_a_time:
            try:
                trial = search.next()
            except SearchFinished:
                over = True
                break
            if trial is None:
                break
            live.append(trial)
        if live:
            train(search, live.pop(0), outcome, rungs)
