"""What Ray Tune runs: one trial, from its record to its last report."""

import gc
import json
import os
import socket
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from raymtl.config.load import config_from_dict, config_hash
from raymtl.config.roles import read_fields
from raymtl.config.root import Config
from raymtl.config.task_kinds import BaseRate
from raymtl.data.read import Input
from raymtl.errors import StorageError, UserError
from raymtl.storage.retry import is_of_storage
from raymtl.training.job import Job
from raymtl.training.progress import Progress
from raymtl.training.resources import ResourceGrant
from raymtl.training.rundir import RunFolder
from raymtl.tuning.blocks import SharedInput
from raymtl.tuning.distributed_trial import run_distributed_trial
from raymtl.tuning.inprocess_trial import StartingVersion, train_in_process, trial_folder
from raymtl.tuning.trial_store import compact_metrics, must_stop, trial_name

REPORT = "report"
"""The one key of a report to Tune, whose value is JSON: Tune flattens nested values."""


@dataclass(frozen=True)
class Shared:
    """What all trials of a search have in common."""

    folder: RunFolder
    """Of the search."""
    inputs: dict[str, Input]
    blocks: dict[str, SharedInput] | None
    """None: every trial reads its own."""
    reading: dict[str, Any]
    """The parts of the configuration that the blocks depend on."""
    base_rates: Mapping[str, BaseRate]
    start_from: StartingVersion | None
    grant: ResourceGrant
    after_units: frozenset[int]
    """Units after which the stopping rule needs an evaluation."""


def reading_part(config: Config) -> dict[str, Any]:
    """The parts of a configuration that the blocks depend on."""
    return {**read_fields(config), "coupled": config.multiplies_labels()}


def run_trial(config: dict[str, Any], shared: Shared) -> None:
    """Entry of a trial; `config` has its `number` and, as `config`, its configuration."""
    reporter = TrialReporter(shared.folder, config["number"])
    failed = outage = None
    try:
        reporter.end(_train(config["number"], config["config"], shared, reporter))
    except Exception as error:
        if _is_outage(error):
            outage = str(error)
        else:
            failed = _error_text(error)
    # sharded models are in reference cycles (an error refers to them too), and the next trial of this process needs the memory
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if outage is not None:
        reporter.stop_all(outage)
    if failed is not None:
        reporter.fail(failed)


def _is_outage(error: Exception) -> bool:
    """Whether the storage failed, which is no fault of the trial."""
    return isinstance(error, StorageError) or is_of_storage(error)


def _error_text(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {lines[0] if lines else ''} ({Path(where.filename).name}:{where.lineno})"


def _train(number: int, raw: dict[str, Any], shared: Shared, reporter: "TrialReporter") -> Progress:
    folder = trial_folder(shared.folder, trial_name(number))
    loaded = config_from_dict(raw)
    alone = loaded.train.workers == 1
    if not alone:
        loaded = loaded.model_copy(update={"output": folder.path, "name": "run"})
    job = Job(
        loaded,
        shared.inputs,
        _base_rates(shared.base_rates, loaded),
        folder if alone else folder.child("run"),
        None,
        shared.grant.read_tasks,
        shared.grant.threads,
        config_hash(loaded),
        stop_check_units=shared.after_units,
    )
    if not alone:
        return run_distributed_trial(job, shared.grant, reporter)
    blocks = shared.blocks if reading_part(loaded) == shared.reading else None
    return train_in_process(job, blocks, shared.start_from, reporter)


def _base_rates(measured: Mapping[str, BaseRate], config: Config) -> dict[str, BaseRate]:
    """The measured base rates, the means replaced by those in the trial's configuration."""
    found = dict(measured)
    for name, task in config.active_tasks().items():
        if task.base_rate is not None:
            seen = found.get(name, BaseRate(task.base_rate))
            found[name] = BaseRate(task.base_rate, seen.center, seen.spread, seen.terms, seen.weight)
    return found


class TrialReporter:
    """Reports the progress of a trial to Ray Tune. Every report waits until the search has saved it.

    A trial is never stopped from outside: Tune would kill it, and the placement group of a trial with several workers would
    remain. It reads in its own record that it must stop, and exits.
    """

    def __init__(self, folder: RunFolder, number: int):
        self._folder, self._number, self._started = folder, number, time.time()
        self._reported: set[int] = set()
        self._start: dict[str, Any] = {}

    def on_start(self, progress: Progress) -> bool:
        """Called before training continues from `progress`; False: the trial must stop, by its earlier evaluations."""
        process = f"{socket.gethostname()}:{os.getpid()}"
        self._start = {"start": {"seconds": time.time() - self._started, "from_row": progress.rows, "process": process}}
        should_continue = True
        for evaluation in progress.evaluations:  # an earlier start may have been killed before it reported
            should_continue &= self.on_evaluation(evaluation)
        return should_continue

    def on_checkpoint(self, progress: Progress) -> None:
        """Called after a checkpoint is written."""
        self._report(**_reached(progress))

    def on_evaluation(self, evaluation: dict[str, Any]) -> bool:
        """Report an evaluation once; False: the trial must stop."""
        if evaluation["rows"] in self._reported:
            return True
        self._reported.add(evaluation["rows"])
        self._report(evaluation={"rows": evaluation["rows"], "metrics": compact_metrics(evaluation["metrics"])})
        return not must_stop(self._folder, self._number)

    def end(self, progress: Progress) -> None:
        """The last report."""
        for evaluation in progress.evaluations:
            self.on_evaluation(evaluation)
        self._report(ended=True, **_reached(progress))

    def fail(self, reason: str) -> None:
        """The last report of a failed trial."""
        self._report(failed=reason)

    def stop_all(self, reason: str) -> None:
        """The last report after a storage error, which also stops the search."""
        self._report(outage=reason)

    def _report(self, **facts: Any) -> None:
        start, self._start = self._start, {}
        tune.report({REPORT: json.dumps({"number": self._number, **start, **facts})})


def _reached(progress: Progress) -> dict[str, Any]:
    evaluating = sum(e["seconds"] for e in progress.evaluations)
    return {"rows": progress.rows, "train_seconds": progress.train_seconds + evaluating}
