"""What Ray Tune runs: one trial, from its record to its last report."""

import gc
import json
import os
import socket
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from raymtl.config.load import config_from_dict, config_hash
from raymtl.config.roles import read_fields
from raymtl.config.root import Config
from raymtl.data.read import Input
from raymtl.errors import StorageError, UserError
from raymtl.storage.retry import is_of_storage
from raymtl.training.checkpoint import Progress
from raymtl.training.resources import ResourceGrant
from raymtl.training.rundir import RunFolder
from raymtl.training.worker import Job
from raymtl.tuning.blocks import SharedInput
from raymtl.tuning.distributed_trial import run_distributed_trial
from raymtl.tuning.inprocess_trial import Begin, train_in_process, trial_folder
from raymtl.tuning.trial_store import compact_metrics, is_given_up, trial_name

REPORT = "report"
"""The one key of what Tune is told, whose value is JSON: Tune takes nested values apart."""


@dataclass(frozen=True)
class Shared:
    """What all trials of a search have in common."""

    folder: RunFolder
    """Of the search."""
    inputs: dict[str, Input]
    blocks: dict[str, SharedInput] | None
    """None: every trial reads for itself."""
    reading: dict[str, Any]
    """The parts of the configuration that the blocks depend on."""
    base_rates: dict[str, float]
    begin: Begin | None
    room: ResourceGrant
    after_units: frozenset[int]
    """Where to measure for the stopping rule."""


def reading_part(config: Config) -> dict[str, Any]:
    """What of a configuration the blocks depend on."""
    return {**read_fields(config), "coupled": config.multiplies_labels()}


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Entry of a trial; `config` has its `number` and, as `config`, its configuration."""
    reports = Reports(shared.folder, config["number"])
    failed = outage = None
    try:
        reports.end(_train(config["number"], config["config"], shared, reports))
    except Exception as error:
        if _is_outage(error):
            outage = str(error)
        else:
            failed = _in_words(error)
    # sharded models hold themselves in cycles (an error holds them too), and the next trial of this process needs the memory
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if outage is not None:
        reports.stop_all(outage)
    if failed is not None:
        reports.fail(failed)


def _is_outage(error: Exception) -> bool:
    """Whether the storage failed, which says nothing of the trial."""
    return isinstance(error, StorageError) or is_of_storage(error)


def _in_words(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({Path(where.filename).name}:{where.lineno})"


def _train(number: int, raw: dict[str, Any], shared: Shared, reports: "Reports") -> Progress:
    folder = trial_folder(shared.folder, trial_name(number))
    loaded = config_from_dict(raw)
    alone = loaded.train.workers == 1
    if not alone:
        loaded = loaded.model_copy(update={"output": folder.path, "name": "run"})
    job = Job(
        loaded,
        shared.inputs,
        {**shared.base_rates, **_own_rates(loaded)},
        folder if alone else folder.child("run"),
        None,
        shared.room.read_tasks,
        shared.room.threads,
        config_hash(loaded),
        stop_check_units=shared.after_units,
    )
    if not alone:
        return run_distributed_trial(job, shared.room, reports)
    blocks = shared.blocks if reading_part(loaded) == shared.reading else None
    return train_in_process(job, blocks, shared.begin, reports)


def _own_rates(config: Config) -> dict[str, float]:
    """The base rates that the trial's configuration gives, which go before those that were measured for all."""
    return {name: task.base_rate for name, task in config.active_tasks().items() if task.base_rate is not None}


class Reports:
    """Tells Ray Tune how far a trial has come. Every report waits until the search has noted it.

    A trial is never stopped from outside: Tune would kill it, and Ray Train's placement group of a trial with several workers
    would stay. It reads in its own record whether it is given up, and ends in good order.
    """

    def __init__(self, folder: RunFolder, number: int):
        self._folder, self._number, self._begun = folder, number, time.time()
        self._told: set[int] = set()
        self._start: dict[str, Any] = {}

    def began(self, progress: Progress) -> bool:
        """Training begins now, after the rows that `progress` has; False: the trial is to end, by what it measured before."""
        process = f"{socket.gethostname()}:{os.getpid()}"
        self._start = {"start": {"seconds": time.time() - self._begun, "from_row": progress.rows, "process": process}}
        should_continue = True
        for evaluation in progress.evaluations:  # a start before this one may have been killed before it could tell
            should_continue &= self.evaluated(evaluation)
        return should_continue

    def saved(self, progress: Progress) -> None:
        """A checkpoint is written."""
        self._report(**_reached(progress))

    def evaluated(self, evaluation: dict[str, Any]) -> bool:
        """Report an evaluation, once; False: the trial is to end."""
        if evaluation["rows"] in self._told:
            return True
        self._told.add(evaluation["rows"])
        self._report(evaluation={"rows": evaluation["rows"], "metrics": compact_metrics(evaluation["metrics"])})
        return not is_given_up(self._folder, self._number)

    def end(self, progress: Progress) -> None:
        """The last report."""
        for evaluation in progress.evaluations:
            self.evaluated(evaluation)
        self._report(ended=True, **_reached(progress))

    def fail(self, reason: str) -> None:
        """The last report of a trial that broke."""
        self._report(failed=reason)

    def stop_all(self, reason: str) -> None:
        """The last report of a trial that the storage failed, and of this start of the search."""
        self._report(outage=reason)

    def _report(self, **facts: Any) -> None:
        start, self._start = self._start, {}
        tune.report({REPORT: json.dumps({"number": self._number, **start, **facts})})


def _reached(progress: Progress) -> dict[str, Any]:
    evaluating = sum(e["seconds"] for e in progress.evaluations)
    return {"rows": progress.rows, "train_seconds": progress.train_seconds + evaluating}
