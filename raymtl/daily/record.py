"""What the daily job notes of each day: `<store>/days/<date>/record.json`, rewritten at each step.

The state machine resumes from it after a kill, the reports draw it, and the bounds of later days are learned from it.
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

StateName = Literal["wait", "check", "evaluate", "train", "gate", "publish", "expire"]
STATES: tuple[StateName, ...] = ("wait", "check", "evaluate", "train", "gate", "publish", "expire")

Status = Literal["running", "not ready", "broken", "refused", "published"]
"""`published` and `refused` are final; the others resume with the same command."""


FINAL: tuple[Status, ...] = ("published", "refused")


class _Part(BaseModel):
    # What a newer raymtl noted besides is no reason to stop
    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class Figures(_Part):
    """What the check found in a day's logs."""

    rows: int
    files: int
    columns: dict[str, str]
    """What each column that the configuration reads holds, in the words of `contract.plain_types`; `missing` where it is not."""
    nulls: dict[str, float]
    """Share of rows where a feature is null (or an empty list), by feature."""
    observed: dict[str, float]
    """Share of rows whose label is observed, by task; without tasks whose labels are not final (`delay_days`)."""
    labels: dict[str, float | None]
    """Mean of the observed labels, by the same tasks."""
    deviations: dict[str, float] = {}
    """Standard deviation of the observed labels, by task: how far the mean of so many labels is off by chance."""
    scenarios: dict[str, float] = {}
    """Share of rows of each value of `data.scenario`, `other` last."""
    distinct: dict[str, int] = {}
    """Distinct IDs of each table, estimated."""
    new_ids: dict[str, float] = {}
    """Share of the lookups of each `map` table whose ID the version before did not have."""


class NextDay(_Part):
    """How a version did on labels that it had never seen: scored before anything was trained on them."""

    day: dt.date
    """The day of the rows; the record's own day, or for a task with `delay_days` that many days earlier."""
    version: str
    """Who was scored: the version that was the newest when that day began."""
    rows: int
    """Rows scored."""
    metrics: dict[str, Any]
    """As `metrics` of `result.json`, of the tasks whose labels were final: `{"eval": {task: {...}}, "scenarios": {...}}`."""


class Check(_Part):
    """One comparison of the gate."""

    task: str | None
    """None: it is about the whole model."""
    what: str
    """`auc`, `ne`, `mse`, `poisson_deviance`, `calibration`, `order`, `not finite`, `norm <table>`, or `held-out rows` where
    they were too few to judge any task."""
    base: float | None
    """The version before; None for the very first version."""
    candidate: float | None
    limit: str
    """What is allowed, in words: `≥ 0.7412`."""
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
    """Metrics of the version before on the held-out rows, as `metrics` of `result.json`."""
    candidate: dict[str, Any]
    """The candidate's."""


class Trained(_Part):
    """What the day's training did."""

    rows: int
    """Rows trained on."""
    held_out: int
    """Rows of held-out users, left out."""
    steps: int
    days: dict[str, list[str] | None]
    """The days read, each with the tasks whose labels counted (None: all tasks)."""
    ids: dict[str, dict[str, Any]] = {}
    """By `map` table, what the admission did: `admitted`, `known`, `below`, `outdated`, `no_room`, `unknown` as
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
    """Counts the times that the day was begun from the start: by `--force`, or from another version or configuration."""
    status: Status = "running"
    state: StateName = "wait"
    """Where it is, or where it ended."""
    reason: str = ""
    """Why it ended without a version, or what somebody should know; one sentence."""
    config_hash: str
    base: str | None
    """Version that the day began with; None: the very first one."""
    plan: str = ""
    """Identity of the rows to train on: files, sizes, tasks. When it changes, the day restarts."""
    version: str | None = None
    """The day's version or candidate, once it is being written."""
    begun: dt.datetime
    """UTC."""
    ended: dt.datetime | None = None
    """UTC; of a day that is published or refused, when it was tidied up too."""
    seconds: dict[str, float] = {}
    """Time spent in each state, over all starts of this attempt."""
    figures: Figures | None = None
    next_day: list[NextDay] = []
    trained: Trained | None = None
    gate: GateResult | None = None
    written: Written | None = None
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
            f"store {store.path}: `{name}` is damaged ({str(error).splitlines()[0]}); remove it and run the day again "
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
        except ValueError:  # a report, or somebody else's file
            continue
    return sorted(found)


def candidates(store: Store, most: int) -> list[str]:
    """The versions of the last `most` days that wrote one, published or refused; a damaged record is passed over.

    Whoever removes what killed writers left must spare them: a refused candidate is kept to be looked at.
    """
    found: list[str] = []
    for day in reversed(recorded_days(store)):
        with suppress(StorageError):  # the day itself says so when it is asked for
            record = read_record(store, day)
            found += [record.version] if record is not None and record.version is not None else []
        if len(found) == most:
            break
    return found
