"""The daily command: it runs the days to do under one lease, and reports why others are not done."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from raymtl.config.daily import Daily
from raymtl.config.load import config_from_dict
from raymtl.config.roles import day_fields
from raymtl.config.root import Config
from raymtl.daily.calendar import (
    DaySchedule,
    ExcludedDays,
    choose_base,
    days_between,
    days_to_do,
    explain_finished_day,
    first_day,
    known_versions,
    redo_command,
    was_left_out,
)
from raymtl.daily.day import DailyRequest, Day, section, training_hash
from raymtl.daily.day_ends import DayEnds
from raymtl.daily.entry import run_day_worker
from raymtl.daily.input_plan import plan_day
from raymtl.daily.ready import not_ready
from raymtl.daily.record import FINAL, Record, folder, read_record
from raymtl.daily.redo import RedoProgress
from raymtl.daily.reports.day import NAME as REPORT
from raymtl.daily.reports.write import last_records
from raymtl.data.lakehouse.tables import of_latest_snapshot
from raymtl.data.writable import check_writable
from raymtl.errors import ConfigError, RefusedError, UserError
from raymtl.model_store import store as versions
from raymtl.model_store.lease import Lease, acquire
from raymtl.storage.object_store import Store
from raymtl.telemetry.events import Listener
from raymtl.tracking.run_tracking import check_packages
from raymtl.training.session import Session
from raymtl.training.steps import keep_batch_size
from raymtl.words import count_of


def run_daily(config: Config, request: DailyRequest, *, address: str | None, on_event: Listener) -> list[Record]:
    """Run the days to do up to the last one; returns the records of the requested days.

    Raises RefusedError if the last day's candidate was refused, TryLaterError if a day is not ready, and other UserErrors if
    anything else ends the job.
    """
    daily = section(config)
    check_packages(config)
    store = Store.open(daily.store)
    if (
        request.first is None
        and not request.force
        and (done := finished_record(store, request.last)) is not None
        and done.ended
    ):
        versions_there = versions.list_versions(store)
        if done.status == "published" and was_left_out(store, done.date, versions_there):
            on_event({"note": explain_finished_day(store, daily, done.date, versions_there)})
            return []
        on_event({"note": _already_done_text(config, store, done)})
        return raise_if_refused(store, [done])
    with open_job(config, store, request, address, on_event) as job:
        records = job.finish_interrupted_days()
        schedule = days_to_run(store, daily, request)
        for note in schedule.notes:
            on_event({"note": note})
        redo = RedoProgress(store, request.first or request.last, request.last) if request.force else None
        for day in schedule.days:
            done = finished_record(store, day)
            if done is not None and (redo is None or redo.has_done(day)):
                on_event({"note": _already_done_text(config, store, done)})
                records.append(done)
            elif redo is None:
                records.append(job.day(day).run())
            else:
                again = job.day(day, restart=redo.must_restart(day))
                redo.begin(day, again.record.attempt)
                records.append(again.run())
                redo.end(day)
        if redo is not None:
            redo.close()
    return raise_if_refused(store, records)


@dataclass
class DailyJob:
    """The days of one command, with one lease and one group of workers."""

    config: Config
    store: Store
    request: DailyRequest
    lease: Lease
    session: Session
    ends: DayEnds
    address: str | None
    on_event: Listener

    def day(self, day: dt.date, restart: bool = False) -> Day:
        """A day to run; `restart`: start over, whatever its record says."""
        return Day(
            self.config,
            self.store,
            day,
            self.request,
            self.lease,
            self.session,
            self.ends,
            self.address,
            self.on_event,
            restart,
        )

    def finish_interrupted_days(self) -> list[Record]:
        """Record the days that are published but not recorded as such, and end those whose end is missing."""
        return [self.day(day).run() for day in _interrupted_days(self.store)]


@contextmanager
def open_job(
    config: Config,
    store: Store,
    request: DailyRequest,
    address: str | None,
    on_event: Listener,
    purpose: str | None = None,
) -> Iterator[DailyJob]:
    """Take the lease; at the end the days end first, then the workers, then the lease."""
    with (
        acquire(store, purpose or f"daily {request.last}", wait_s=request.wait_s) as lease,
        Session(run_day_worker) as session,
        DayEnds() as ends,
    ):
        yield DailyJob(config, store, request, lease, session, ends, address, on_event)


def dry_run(config: Config, request: DailyRequest) -> list[dict[str, Any]]:
    """What `run_daily` would do, day by day: the version to start from, the rows, whether the logs are ready, and why a day is
    skipped. `rows` are those of the day (for a first version, of all its days), `training_rows` what is read for training.

    Raises StorageError if the store cannot be written.
    """
    daily = section(config)
    check_packages(config)
    store = Store.open(daily.store)
    check_writable(store, "daily.store: the store", "daily.store")
    config = of_latest_snapshot(config)
    schedule = days_to_run(store, daily, request)
    listed = known_versions(store)
    base = choose_base(listed, schedule.days[0]) if schedule.days else None
    excluded = ExcludedDays(store, daily, listed, base)
    parent, base_end = (None, None) if base is None else (base.id, base.data_end)
    found: list[dict[str, Any]] = [{"note": note} for note in schedule.notes]
    for day in schedule.days:
        done = None if request.force else finished_record(store, day)
        reasons = not_ready(config, day, first=parent is None)
        step: dict[str, Any] = {
            "day": str(day),
            "starts_from": parent,
            "done": done.status if done else None,
            "not_ready": reasons[0] if reasons else None,
        }
        if not reasons:
            plans = plan_day(config, day, base_end, excluded)
            step |= {"rows": plans.day_rows.rows, "training_rows": plans.train.rows}
        found.append(step)
        parent, base_end = f"the version of {day}", day
    return found


def days_to_run(store: Store, daily: Daily, request: DailyRequest) -> DaySchedule:
    """The days of a request that are not done."""
    if request.first is None and not request.force:
        return days_to_do(store, daily, request.last)
    schedule = days_between(daily, request.first or request.last, request.last)
    there = known_versions(store)
    current = next((v.manifest for v in there if v.current), None)
    if not request.force and current is not None:
        # The first version is trained on several days; all but the last have no record
        old = [day for day in schedule.days if first_day(store, there) <= day <= current.data_end]
        trained = [day for day in old if finished_record(store, day) is None and not was_left_out(store, day, there)]
        notes = [explain_finished_day(store, daily, day, there) for day in trained]
        schedule = DaySchedule([day for day in schedule.days if day not in trained], [*schedule.notes, *notes])
    train = [day for day in schedule.days if request.force or finished_record(store, day) is None]
    if train and current is not None and train[0] <= current.data_end:
        # the version of an old day would replace a version trained on later days
        later = {train[0] + dt.timedelta(days=n) for n in range((current.data_end - train[0]).days + 1)}
        if missing := sorted(later - set(train) - set(daily.skip)):
            raise ConfigError(
                f"cannot train {train[0]} alone: version {current.id} already has data up to {current.data_end}, and a new "
                f"version of {train[0]} would lack {missing[0]}"
                + (f" and {count_of(len(missing) - 1, 'more day')}" if len(missing) > 1 else "")
                + f"; rerun with --from {train[0]} --to {max(current.data_end, request.last)} --force"
            )
    return schedule


def finished_record(store: Store, day: dt.date) -> Record | None:
    """The record of a day that is published or refused."""
    record = read_record(store, day)
    return record if record is not None and record.status in FINAL else None


def _already_done_text(config: Config, store: Store, record: Record) -> str:
    text = f"{record.date} is already done: {record.reason or f'version {record.version}'}"
    if (changed := _changed_since(config, store, record)) is None:
        return text
    return f"{text}; it was trained with another configuration ({changed}); to redo it, run: {_redo_command(store, record.date)}"


def _redo_command(store: Store, day: dt.date) -> str:
    current = next((v.manifest for v in versions.list_versions(store) if v.current), None)
    return redo_command(day, day if current is None else current.data_end)


def _changed_since(config: Config, store: Store, record: Record) -> str | None:
    """The first key that affects training and changed since a day was done, as text; None: there is none."""
    if record.config_hash == training_hash(config):
        return None
    try:
        manifest = versions.read_unpublished(store, record.version or "")
        before = day_fields(config_from_dict(manifest.config))
        now = day_fields(keep_batch_size(config, manifest.batch_size))
    except UserError:  # the version was removed since, or written by another raymtl version
        return "unknown key: its version was removed or written by another raymtl version"
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if not differing:
        return None
    more = f", and {count_of(len(differing) - 1, 'more key')}" if len(differing) > 1 else ""
    return f"{differing[0]} was {before.get(differing[0])!r} and is now {now.get(differing[0])!r}{more}"


def _interrupted_days(store: Store) -> list[dt.date]:
    """Days whose version was published but not yet recorded, or whose clean-up is missing."""
    published = {entry.version for entry in versions.published(store)}
    return [
        r.date
        for r in last_records(store)
        if (r.status not in FINAL and r.version in published) or (r.status in FINAL and r.ended is None)
    ]


def raise_if_refused(store: Store, records: list[Record]) -> list[Record]:
    """The records. Raises RefusedError if the last one is of a candidate that was refused."""
    if records and (last := records[-1]).status == "refused":
        current = versions.current(store)
        raise RefusedError(
            f"{last.date}: {last.reason}; {f'version {current} stays current' if current else 'no version is published'}. Read "
            f"{store.path_of(f'{folder(last.date)}/{REPORT}')}, fix the cause, then run: {_redo_command(store, last.date)}"
        )
    return records
