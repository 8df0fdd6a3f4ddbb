"""The command: which days are to do, one after the other under one lease, and what to say where there is nothing to do."""

import datetime as dt
from typing import Any

from raymtl.config.daily import Daily
from raymtl.config.load import config_from_dict
from raymtl.config.roles import day_fields
from raymtl.config.root import Config
from raymtl.daily.backfill import Backfill
from raymtl.daily.calendar import (
    DaySchedule,
    choose_base,
    days_between,
    days_to_do,
    first_day,
    known_versions,
    redo_command,
    was_left_out,
    what_became_of,
)
from raymtl.daily.day import DailyRequest, Day, section, training_hash
from raymtl.daily.ready import not_ready
from raymtl.daily.record import FINAL, Record, read_record
from raymtl.daily.reports.write import last_records
from raymtl.data.writable import check_writable
from raymtl.errors import ConfigError, RefusedError, UserError
from raymtl.model_store import store as versions
from raymtl.model_store.lease import acquire
from raymtl.storage.object_store import Store
from raymtl.telemetry.events import Listener
from raymtl.words import count_of


def run_daily(config: Config, order: DailyRequest, *, address: str | None, on_event: Listener) -> list[Record]:
    """Do what is to be done up to the last day; returns the records of the days asked for.

    Raises RefusedError where the last day's candidate was refused, TryLaterError where a day is not there yet, and other
    UserErrors for anything else that ended it.
    """
    daily = section(config)
    store = Store.open(daily.store)
    if order.first is None and not order.force and (done := _done(store, order.last)) is not None and done.ended:
        versions_there = versions.list_versions(store)
        if done.status == "published" and was_left_out(store, done.date, versions_there):
            on_event({"note": what_became_of(store, daily, done.date, versions_there)})
            return []
        on_event({"note": _done_already(config, store, done)})
        return _ended(store, [done])
    with acquire(store, f"daily {order.last}", wait_s=order.wait_s) as lease:

        def make(day: dt.date, restart: bool = False) -> Day:
            return Day(config, store, day, order, lease, address, on_event, restart)

        records = [make(day).run() for day in _cut_off(store)]
        todo = _todo(store, daily, order)
        for note in todo.notes:
            on_event({"note": note})
        redo = Backfill(store, order.first or order.last, order.last) if order.force else None
        for day in todo.days:
            done = _done(store, day)
            if done is not None and (redo is None or redo.has_done(day)):
                on_event({"note": _done_already(config, store, done)})
                records.append(done)
            elif redo is None:
                records.append(make(day).run())
            else:
                again = make(day, restart=redo.must_begin(day))
                redo.begin(day, again.record.attempt)
                records.append(again.run())
                redo.end(day)
        if redo is not None:
            redo.close()
    return _ended(store, records)


def dry_run(config: Config, order: DailyRequest) -> list[dict[str, Any]]:
    """What `run_daily` would do, day by day: base, whether the logs are there, and why a day is left out.

    Raises StorageError where the store could not be written.
    """
    daily = section(config)
    store = Store.open(daily.store)
    check_writable(store, "daily.store: the store", "daily.store")
    todo = _todo(store, daily, order)
    base = choose_base(known_versions(store), todo.days[0]) if todo.days else None
    begins = None if base is None else base.id
    found: list[dict[str, Any]] = [{"note": note} for note in todo.notes]
    for day in todo.days:
        done = None if order.force else _done(store, day)
        reasons = not_ready(config, day, first=begins is None)
        found.append(
            {
                "day": str(day),
                "begins_with": begins or "nothing",
                "done": done.status if done else None,
                "not_ready": reasons[0] if reasons else None,
            }
        )
        begins = f"the version of {day}"
    return found


def _todo(store: Store, daily: Daily, order: DailyRequest) -> DaySchedule:
    if order.first is None and not order.force:
        return days_to_do(store, daily, order.last)
    todo = days_between(daily, order.first or order.last, order.last)
    there = known_versions(store)
    current = next((v.manifest for v in there if v.current), None)
    if not order.force and current is not None:
        # Days that the first version learned beside its last one have no record of their own
        old = [day for day in todo.days if first_day(store, there) <= day <= current.data_end]
        learned = [day for day in old if _done(store, day) is None and not was_left_out(store, day, there)]
        notes = [what_became_of(store, daily, day, there) for day in learned]
        todo = DaySchedule([day for day in todo.days if day not in learned], [*todo.notes, *notes])
    train = [day for day in todo.days if order.force or _done(store, day) is None]
    if train and current is not None and train[0] <= current.data_end:
        # the version of an old day would take the place of one that has learnt the days after it
        later = {train[0] + dt.timedelta(days=n) for n in range((current.data_end - train[0]).days + 1)}
        if missing := sorted(later - set(train) - set(daily.skip)):
            raise ConfigError(
                f"{train[0]} lies before the end of the data of version {current.id}, {current.data_end}: a new version of that "
                f"day would take its place and not know {missing[0]}"
                + (f" and {count_of(len(missing) - 1, 'more day')}" if len(missing) > 1 else "")
                + f"; do the days after it again as well: --from {train[0]} --to {max(current.data_end, order.last)} --force"
            )
    return todo


def _done(store: Store, day: dt.date) -> Record | None:
    """The record of a day that is published or refused."""
    record = read_record(store, day)
    return record if record is not None and record.status in FINAL else None


def _done_already(config: Config, store: Store, record: Record) -> str:
    said = f"{record.date} is done already: {record.reason or f'version {record.version}'}"
    if (changed := _changed_since(config, store, record)) is None:
        return said
    end = next((v.manifest.data_end for v in versions.list_versions(store) if v.current and v.manifest), record.date)
    return f"{said}; it was trained with another configuration ({changed}); to do it again: {redo_command(record.date, end)}"


def _changed_since(config: Config, store: Store, record: Record) -> str | None:
    """The first key that decides about the training and was another one when a day was done, in words; None: it is the same."""
    if record.config_hash == training_hash(config):
        return None
    try:
        manifest = versions.read_unpublished(store, record.version or "")
        before, now = day_fields(config_from_dict(manifest.config)), day_fields(config)
    except UserError:  # the version was removed since, or another raymtl wrote it
        return "which key differs is not known: its version is gone, or of another raymtl"
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    if not differing:
        return None
    more = f", and {count_of(len(differing) - 1, 'more key')}" if len(differing) > 1 else ""
    return f"{differing[0]} was {before.get(differing[0])!r} and is now {now.get(differing[0])!r}{more}"


def _cut_off(store: Store) -> list[dt.date]:
    """Days whose version was published before the record could say so, or that were not tidied up after their verdict."""
    published = {entry.version for entry in versions.published(store)}
    return [
        r.date
        for r in last_records(store)
        if (r.status not in FINAL and r.version in published) or (r.status in FINAL and r.ended is None)
    ]


def _ended(store: Store, records: list[Record]) -> list[Record]:
    if records and (last := records[-1]).status == "refused":
        raise RefusedError(
            f"{last.date}: {last.reason}; version {versions.current(store) or '(none)'} stays the current one, the candidate "
            f"{last.version} is kept aside, and the page of the day has the comparison"
        )
    return records
