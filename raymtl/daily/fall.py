"""A next-day metric that is lower than on the day before: which columns of the logs explain it.

One version is measured on both days: the one that was scored on the day before, so it was trained on neither. That costs a
sample of the rows of both days and two passes of it for each column, and is done only if a metric has fallen.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymtl.config.data import DayRange
from raymtl.config.root import Config
from raymtl.daily.calendar import ancestor_before
from raymtl.daily.record import Record, read_record, recorded_days
from raymtl.daily.reports.series import metrics_in, score_of
from raymtl.errors import StorageError, UserError, find_user_error
from raymtl.model_store.manifest import Manifest
from raymtl.model_store.store import Listed
from raymtl.reports.chance import ERRORS, interval_of
from raymtl.storage.object_store import Store
from raymtl.storage.paths import split_options
from raymtl.words import gib

ROWS = 50_000
"""Rows of the sample of each day."""
_MOST_BYTES = 4 << 30
"""Tables beyond this size are not loaded into one process without being asked."""


def explain_fall(
    config: Config, store: Store, listed: Sequence[Listed], base: Manifest, record: Record
) -> tuple[dict[str, Any] | None, list[str]]:
    """`Record.fall` of a day that starts from `base`, and notes on why there is none although a metric has fallen."""
    earlier = _day_before(store, record.date)
    tasks = [] if earlier is None else fallen(_own_metrics(earlier), _own_metrics(record))
    if not tasks or earlier is None or not ray.is_initialized():
        return None, []
    what = f"{', '.join(tasks)} {'has' if len(tasks) == 1 else 'have'} fallen since {earlier.date}"
    version = ancestor_before(list(listed), base, earlier.date)
    if version is None:
        return None, [f"{what}; it could not be explained, because the version before that day was removed"]
    folder, options = split_options(store.path)
    path = f"{folder.rstrip('/')}/versions/{version.id}{options}"
    size = sum(4 * table.rows * table.dim for table in version.tables.values())
    if size > _MOST_BYTES:
        return None, [
            f"{what}; the tables take {gib(size)}, so run `raymtl explain {path} --days {record.date} --baseline {earlier.date}` "
            "on a machine with that memory to see which column explains it"
        ]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = _measure.options(scheduling_strategy=here)
    try:
        found = ray.get(task.remote(path, config, earlier.date, record.date, list(_own_metrics(record))))
    except (ray.exceptions.RayError, UserError) as error:  # the day is done without it
        cause = find_user_error(error) or error
        return None, [f"{what}; it could not be explained: {str(cause).splitlines()[0]}"]
    return found, []


@ray.remote(num_cpus=0, max_retries=0)
def _measure(path: str, config: Config, before: dt.date, after: dt.date, tasks: list[str]) -> dict[str, Any]:
    """In its own process, whose memory ends with it: the driver does without torch."""
    import torch

    from raymtl.explaining.days import compare_days

    torch.set_num_threads(1)
    ends = [DayRange(start=day, end=day) for day in (before, after)]
    return compare_days(path, config.data.path, config.data.snapshot, ends[0], ends[1], ROWS, tasks)


def fallen(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The tasks whose main metric is worse than before by more than chance: three standard errors of independent rows."""
    found = []
    for task, report in after.items():
        (metric, now), (same, was) = score_of(report), score_of(before.get(task, {}))
        ends = [interval_of(of, metric.name) for of in (before.get(task, {}), report)]
        if metric is not same or now is None or was is None or ends[0] is None or ends[1] is None:
            continue
        error = math.hypot(*((high - low) / (2 * 1.96) for low, high in (ends[0], ends[1])))
        worse = now - was if metric.better == "lower" else was - now
        if worse > ERRORS * error:
            found.append(task)
    return found


def _own_metrics(record: Record) -> dict[str, Any]:
    """The metrics on the day's own rows, by task."""
    own = next((entry for entry in record.next_day if entry.day == record.date), None)
    return {} if own is None else metrics_in(own.metrics)["tasks"]


def _day_before(store: Store, day: dt.date) -> Record | None:
    """The last day before that was published after its rows were scored."""
    for other in reversed([d for d in recorded_days(store) if d < day]):
        with suppress(StorageError):  # damaged
            record = read_record(store, other)
            if record is not None and record.status == "published" and _own_metrics(record):
                return record
    return None
