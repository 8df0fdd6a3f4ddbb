"""A day in its trackers: the training is a run, and the run says what became of its version."""

from collections.abc import Callable

from raymtl.config.load import dump_config
from raymtl.config.root import Config
from raymtl.daily.record import Record
from raymtl.storage.paths import split_options
from raymtl.telemetry.scalars import task_scalars
from raymtl.tracking.run_tracking import RunTracking, TrackedRun, lineage, trackers_of
from raymtl.training.rundir import RunFolder


def untracked(folder: RunFolder) -> RunTracking:
    """No tracker."""
    return RunTracking({}, TrackedRun("", {}, {}), folder, lambda line: None)


def track_day(
    config: Config, record: Record, store: str, folder: RunFolder, notify: Callable[[str], None]
) -> RunTracking:
    """Track the attempt of a day that works in `folder`, or go on with it."""
    again = f" (attempt {record.attempt})" if record.attempt > 1 else ""
    facts = {
        "run": config.name,
        "day": str(record.date),
        "store": split_options(store)[0],
        "parent": record.parent or "none",
        "config_hash": record.config_hash,
        **lineage({}, {} if record.snapshot is None else {"train": record.snapshot}),
    }
    run = TrackedRun(f"{config.name} {record.date}{again}", config.model_dump(mode="json"), facts)
    trackers = trackers_of(config.train.track, None)  # the folder is removed at the end of the day
    tracking = RunTracking(trackers, run, folder, notify)
    tracking.add_file("config.yaml", dump_config(config))
    return tracking


def add_results(tracking: RunTracking, record: Record) -> None:
    """The metrics of the candidate on the held-out rows, and of its predecessor on the day that it had not seen."""
    if record.gate is None or record.trained is None:
        return
    values = task_scalars("eval", record.gate.candidate["eval"])
    for scored in record.next_day:  # the latest day first, of the tasks whose labels are final by then
        values = {**task_scalars("next_day", scored.metrics["eval"]), **values}
    tracking.log(record.trained.steps, values)
    tracking.add_facts({"days.train": ", ".join(record.trained.days), "rows": str(record.trained.rows)})


def add_end(tracking: RunTracking, record: Record, report: str | None) -> None:
    """What became of the day, and its report."""
    facts = {"status": record.status, "version": record.version, "reason": record.reason}
    tracking.add_facts({key: value for key, value in facts.items() if value})
    tracking.add_file("report.html", report)
    tracking.close("finished")
