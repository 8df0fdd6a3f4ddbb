"""The daily job's record of each day: `<store>/days/<date>/record.json`, rewritten at each step.

The state machine resumes from it after a crash, the reports show it, and the bounds on later days are computed from it.
"""

import datetime as dt
import json
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from raymtl.errors import StorageError
from raymtl.storage.object_store import Store

FOLDER = "days"
NAME = "record.json"
FORMAT = 1

StateName = Literal["wait", "check", "evaluate", "train", "gate", "write", "publish", "expire"]
STATES: tuple[StateName, ...] = ("wait", "check", "evaluate", "train", "gate", "write", "publish", "expire")

Status = Literal["running", "not ready", "broken", "refused", "published", "rolled back"]
"""`published` and `refused` are final; `running`, `not ready` and `broken` resume with the same command. No stored record is
`rolled back`: the commit log knows that, and `reports.served` shows it."""

FINAL: tuple[Status, ...] = ("published", "refused")


class _Part(BaseModel):
    # Ignore fields that a newer raymtl wrote
    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class DayStatistics(_Part):
    """Statistics of a day's logs."""

    rows: int
    files: int
    columns: dict[str, str]
    """What each column that the configuration reads holds, in the words of `contract.plain_types`; `missing` if it is absent."""
    nulls: dict[str, float]
    """Share of rows where a feature is null (or an empty list), by feature."""
    observed: dict[str, float]
    """Share of rows whose label is observed, by task; without tasks whose labels are not final (`delay_days`)."""
    labels: dict[str, float | None]
    """Mean of the observed labels, by the same tasks."""
    deviations: dict[str, float] = {}
    """Standard deviation of the observed labels, by task; the sampling noise of the mean follows from it."""
    scenarios: dict[str, float] = {}
    """Share of rows of each value of `data.scenario`, `other` last."""
    distinct: dict[str, int] = {}
    """Distinct IDs of each table, estimated."""
    new_ids: dict[str, float] = {}
    """Share of the lookups of each `map` table whose ID the previous version does not have."""


class NextDay(_Part):
    """Metrics of a version on labels it has not seen: it is scored before any training on them."""

    day: dt.date
    """The day of the rows; the record's own day, or for a task with `delay_days` that many days earlier."""
    version: str
    """The version that was scored: the newest one when that day started."""
    rows: int
    """Rows scored."""
    metrics: dict[str, Any]
    """As `metrics` of `result.json`, of the tasks whose labels were final: `{"eval": {task: {...}}, "scenarios": {...}}`."""


class Check(_Part):
    """One comparison of the gate."""

    task: str | None
    """None: the check is about the model as a whole."""
    name: str
    """A metric of `TaskKind.gated`, `calibration`, `recalibration`, `order`, `value <formula>`, `not finite`, `norm <table>`, or
    `held-out rows` if they were too few to judge any task."""
    base: float | None
    """Of the previous version; None for a first version."""
    candidate: float | None
    change: tuple[float, float] | None = None
    """95 % interval of `candidate` − `base`, both on the same rows; None: not known."""
    limit: str
    """The allowed values, as text: `≥ 0.7412`."""
    passed: bool | None
    """None: not judged, and `note` says why."""
    note: str = ""


class GateResult(_Part):
    """The gate's verdict."""

    passed: bool
    checks: list[Check]
    holdout_rows: int
    """Held-out rows scored."""
    base: dict[str, Any] | None
    """Metrics of the previous version on the held-out rows, as `metrics` of `result.json`."""
    candidate: dict[str, Any]
    """The candidate's."""


class Comparison(_Part):
    """An older version on the day's held-out rows, on which `GateResult.candidate` was measured too."""

    name: str
    """`first`, or `7 days ago`."""
    version: str
    metrics: dict[str, Any]
    """As `metrics` of `result.json`, without scenarios."""


class Trained(_Part):
    """The day's training."""

    rows: int
    """Rows trained on."""
    held_out: int
    """Rows of held-out users, not trained on."""
    steps: int
    days: dict[str, list[str] | None]
    """The days read, each with the tasks whose labels counted (None: all tasks)."""
    ids: dict[str, dict[str, Any]] = {}
    """By `map` table, the result of admission: `admitted`, `known`, `below`, `outdated`, `no_room`, `unknown` as
    `{"ids": n, "lookups": n}`, `evicted` as `{"ids": n}`, `unknown_share`."""


class Written(_Part):
    """The files of the day's version."""

    kind: Literal["full", "delta"]
    bytes: int
    rows: dict[str, int]
    """Rows written of each table."""
    expired: dict[str, int] = {}
    """Evicted IDs of each table."""


class Record(_Part):
    """One day."""

    format: int = FORMAT
    date: dt.date
    attempt: int = 1
    """Number of times the day started over: by `--force`, or because the parent version or the configuration changed."""
    status: Status = "running"
    state: StateName = "wait"
    """The current state, or the one in which the day ended."""
    reason: str = ""
    """Why it ended without a version, or a remark on the version; one sentence."""
    config_hash: str
    parent: str | None
    """Version that the day starts from; None: it trains the first version."""
    settings: dict[str, str] = {}
    """What to know first of its configuration: preset, batch size, learning rates and others, in words."""
    plan: str = ""
    """Identity of the rows to train on: files, sizes, tasks. When it changes, the day restarts."""
    snapshot: int | None = None
    """The snapshot that the day reads, if its logs are a table."""
    version: str | None = None
    """The day's version or candidate, once it is being written."""
    started: dt.datetime
    """UTC."""
    ended: dt.datetime | None = None
    """UTC; for a published or refused day, after the clean-up."""
    seconds: dict[str, float] = {}
    """Time spent in each state, over all starts of this attempt."""
    work_seconds: dict[str, float] = {}
    """Time in which the workers had rows: `training`, over all starts, and `scoring`, in the last one; the rest is start-up and
    the steps around."""
    stats: DayStatistics | None = None
    next_day: list[NextDay] = []
    trained: Trained | None = None
    gate: GateResult | None = None
    comparisons: list[Comparison] = []
    written: Written | None = None
    fall: dict[str, Any] | None = None
    """Which columns explain that a next-day metric is lower than on the day before: `fall` of what `raymtl.explain` returns, and
    the `version` that was measured on both days. None: no metric has fallen, or it could not be measured."""
    notes: list[str] = []
    """Sentences for the report."""


def folder(day: dt.date) -> str:
    """Folder of a day, from the store on."""
    return f"{FOLDER}/{day}"


def read_record(store: Store, day: dt.date) -> Record | None:
    """The record of a day, or None if the day never started."""
    name = f"{folder(day)}/{NAME}"
    data = store.read(name)
    if data is None:
        return None
    try:
        return Record.model_validate(json.loads(data))
    except (ValueError, ValidationError) as error:
        raise StorageError(
            f"store {store.path}: `{name}` is damaged ({str(error).splitlines()[0]}); remove it and rerun the day "
            f"with --force"
        ) from error


def write_record(store: Store, record: Record) -> None:
    """Write the record in one step."""
    store.write(f"{folder(record.date)}/{NAME}", record.model_dump_json(indent=1) + "\n")


def recorded_days(store: Store) -> list[dt.date]:
    """The days that ever started, in order."""
    found = []
    for name in store.names(FOLDER):
        try:
            found.append(dt.date.fromisoformat(name))
        except ValueError:  # a report, or another file
            continue
    return sorted(found)


def recent_versions(store: Store, limit: int) -> list[str]:
    """The versions of the last `limit` days that wrote one, published or refused; damaged records are ignored.

    gc must keep these folders: a refused candidate stays for inspection.
    """
    found: list[str] = []
    for day in reversed(recorded_days(store)):
        with suppress(StorageError):  # a command that needs the day raises it
            record = read_record(store, day)
            found += [record.version] if record is not None and record.version is not None else []
        if len(found) == limit:
            break
    return found
